//! One limit and what was used of it: a burst that refills, and a budget of the day. Pure arithmetic on
//! the two times that it is given.

use std::time::Duration;

use serde::{Deserialize, Serialize};

const NANOS: i64 = 1_000_000_000;
pub(super) const DAY: i64 = 86_400;

/// The moment, by clocks that nobody can set back while the daemon runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Now {
    /// Nanoseconds since boot, suspended time included.
    pub boot: i64,
    /// Unix seconds: those of the daemon's start, and what has passed since boot since then.
    pub unix: i64,
}

impl Now {
    pub fn day(self) -> i64 {
        self.unix.div_euclid(DAY)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limit {
    /// Nanoseconds for one call, and how many may come at once.
    pub pace: Option<(i64, u32)>,
    pub per_day: Option<u64>,
}

impl Limit {
    pub fn new(per_minute: Option<u32>, burst: Option<u32>, per_day: Option<u64>) -> Self {
        let pace = per_minute.map(|n| (60 * NANOS / i64::from(n.max(1)), burst.unwrap_or(n).max(1)));
        Self { pace, per_day }
    }

    /// Calls after which what was used is written down at once: 16, or a thirty-second part of the
    /// smallest limit where that is less.
    pub fn batch(&self) -> u64 {
        let burst = self.pace.map_or(u64::MAX, |(_, burst)| burst.into());
        (burst.min(self.per_day.unwrap_or(u64::MAX)) / 32).clamp(1, 16)
    }
}

/// Which part of a limit is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Span {
    Minute,
    Day,
}

/// What was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Used {
    /// When everything of the burst is back, by the boot clock.
    full_at: i64,
    day: i64,
    today: u64,
    /// Calls that are not written down yet.
    pub unwritten: u64,
}

/// The same as it is kept over a restart, where the boot clock may start anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// Nanoseconds until everything of the burst is back, as of `unix`.
    pub debt: i64,
    pub unix: i64,
    pub day: i64,
    pub today: u64,
}

impl Used {
    /// How long to wait for the next call, if there is none left now.
    pub fn wait(&self, limit: &Limit, now: Now) -> Option<(Duration, Span)> {
        if limit.per_day.is_some_and(|most| self.on(now.day()) >= most) {
            let left = (now.day() + 1) * DAY - now.unix;
            return Some((Duration::from_secs(left.unsigned_abs().max(1)), Span::Day));
        }
        let (each, burst) = limit.pace?;
        let over = self.full_at.max(now.boot) + each - now.boot - each.saturating_mul(burst.into());
        (over > 0).then(|| (Duration::from_nanos(over.unsigned_abs()), Span::Minute))
    }

    /// Takes one call, which [`Used::wait`] said there is.
    pub fn take(&mut self, limit: &Limit, now: Now) {
        if let Some((each, _)) = limit.pace {
            self.full_at = self.full_at.max(now.boot).saturating_add(each);
        }
        self.today = self.on(now.day()).saturating_add(1);
        self.day = now.day();
        self.unwritten += 1;
    }

    pub fn on(&self, day: i64) -> u64 {
        if self.day == day { self.today } else { 0 }
    }

    /// Calls of the burst that are left.
    pub fn left(&self, limit: &Limit, now: Now) -> Option<u32> {
        let (each, burst) = limit.pace?;
        let debt = (self.full_at - now.boot).max(0);
        Some(burst.saturating_sub(u32::try_from((debt + each - 1) / each).unwrap_or(u32::MAX)))
    }

    /// Whether forgetting it gives nothing back.
    pub fn is_idle(&self, now: Now) -> bool {
        self.full_at <= now.boot && self.on(now.day()) == 0
    }

    pub fn keep(&self, now: Now) -> Kept {
        Kept { debt: (self.full_at - now.boot).max(0), unix: now.unix, day: self.day, today: self.today }
    }

    /// A wall clock that was set back since gives nothing back; one that was set forward gives back a burst
    /// or a day, no more. A debt that no such limit makes is cut to the largest that one does.
    pub fn resume(kept: &Kept, limit: &Limit, now: Now) -> Self {
        let passed = now.unix.saturating_sub(kept.unix).clamp(0, i64::MAX / NANOS) * NANOS;
        let most = limit.pace.map_or(0, |(each, burst)| each.saturating_mul(burst.into()));
        let debt = kept.debt.clamp(0, most).saturating_sub(passed).max(0);
        // A day that has not come yet is a clock that was wrong: what was used counts for today.
        Self { full_at: now.boot.saturating_add(debt), day: kept.day.min(now.day()), today: kept.today, unwritten: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: Now = Now { boot: 50 * NANOS, unix: 1_800_000_000 };

    fn after(seconds: i64) -> Now {
        Now { boot: START.boot + seconds * NANOS, unix: START.unix + seconds }
    }

    #[test]
    fn a_burst_refills_one_call_at_a_time() {
        let limit = Limit::new(Some(6), Some(3), None);
        let mut used = Used::default();
        for left in [3, 2, 1] {
            assert_eq!((used.wait(&limit, START), used.left(&limit, START)), (None, Some(left)));
            used.take(&limit, START);
        }
        assert_eq!(used.wait(&limit, START), Some((Duration::from_secs(10), Span::Minute)));
        assert_eq!(used.wait(&limit, after(9)), Some((Duration::from_secs(1), Span::Minute)));
        assert_eq!(used.wait(&limit, after(10)), None);
        used.take(&limit, after(10));
        assert!(used.wait(&limit, after(10)).is_some() && !used.is_idle(after(10)));
        // Thirty seconds of burst, and the one call that was taken on the way.
        assert!(!used.is_idle(after(39)) && used.left(&limit, after(40)) == Some(3));
    }

    #[test]
    fn a_day_s_budget_comes_back_at_midnight_utc() {
        let limit = Limit::new(None, None, Some(2));
        let mut used = Used::default();
        used.take(&limit, START);
        used.take(&limit, START);
        let (wait, span) = used.wait(&limit, START).unwrap();
        assert_eq!(span, Span::Day);
        let seconds = i64::try_from(wait.as_secs()).unwrap();
        assert_eq!((START.unix + seconds) % DAY, 0);
        assert!(used.wait(&limit, after(seconds - 1)).is_some());
        assert_eq!(used.wait(&limit, after(seconds)), None);
    }

    #[test]
    fn a_restart_gives_nothing_back_and_a_clock_that_was_set_back_neither() {
        let limit = Limit::new(Some(1), Some(2), Some(5));
        let mut used = Used::default();
        used.take(&limit, START);
        used.take(&limit, START);
        let kept = used.keep(START);
        // The machine was started anew: its boot clock says little.
        for (unix, wait) in [(0, 60), (20, 40), (-100_000, 60), (-1_000_000_000, 60)] {
            let now = Now { boot: 3 * NANOS, unix: START.unix + unix };
            let resumed = Used::resume(&kept, &limit, now);
            assert_eq!(resumed.wait(&limit, now), Some((Duration::from_secs(wait), Span::Minute)), "{unix}");
            assert_eq!(resumed.on(now.day()), 2, "{unix}: the day's use is kept");
        }
        let later = Now { boot: 3 * NANOS, unix: START.unix + 10 * DAY };
        let resumed = Used::resume(&kept, &limit, later);
        assert_eq!((resumed.wait(&limit, later), resumed.on(later.day())), (None, 0));
    }

    #[test]
    fn what_a_crash_may_give_back_is_a_small_part_of_the_limit() {
        for (limit, batch) in [
            (Limit::new(Some(6000), Some(1000), None), 16),
            (Limit::new(Some(60), Some(64), None), 2),
            (Limit::new(Some(6000), Some(1000), Some(100)), 3),
            (Limit::new(None, None, Some(10)), 1),
            (Limit::new(None, None, None), 16),
        ] {
            assert_eq!(limit.batch(), batch, "{limit:?}");
        }
    }

    proptest! {
        #[test]
        fn no_more_than_burst_and_pace_and_budget_ever_pass(
            per_minute in 1u32..600, burst in 1u32..50, per_day in 1u64..400,
            steps in prop::collection::vec((0i64..20, any::<bool>()), 1..300),
        ) {
            let limit = Limit::new(Some(per_minute), Some(burst), Some(per_day));
            let (mut used, mut now, mut passed) = (Used::default(), START, 0u64);
            for (step, restart) in steps {
                now = Now { boot: now.boot + step * NANOS, unix: now.unix + step };
                if restart {
                    used = Used::resume(&used.keep(now), &limit, now);
                }
                match used.wait(&limit, now) {
                    None => {
                        used.take(&limit, now);
                        passed += 1;
                    }
                    // Who comes back when told is not told to wait again for the same reason.
                    Some((wait, span)) => {
                        let then = Now {
                            boot: now.boot + i64::try_from(wait.as_nanos()).unwrap(),
                            unix: now.unix + i64::try_from(wait.as_secs()).unwrap(),
                        };
                        prop_assert_ne!(used.wait(&limit, then).map(|(_, span)| span), Some(span));
                    }
                }
                let seconds = u64::try_from(now.unix - START.unix).unwrap();
                let days = u64::try_from(now.day() - START.day()).unwrap() + 1;
                prop_assert!(passed <= u64::from(burst) + (seconds + 1) * u64::from(per_minute) / 60 + 1);
                prop_assert!(passed <= per_day * days);
            }
        }
    }
}
