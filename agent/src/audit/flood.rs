//! Which refusals get a record of their own.
//!
//! Each record waits for the disk, and whoever is refused may try again at once: without a bound,
//! noise would fill the log and keep the daemon writing. What is not written is counted by who
//! caused it, so that one's noise never hides another's try.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_secs(60);
/// Callers that are told apart; user namespaces have many uids to spend. All further ones are one.
const MAX_CALLERS: usize = 1024;

pub struct Flood<K> {
    /// Records per caller in one window.
    most: u32,
    counts: Mutex<HashMap<Option<K>, Count>>,
}

struct Count {
    since: Instant,
    written: u32,
    unwritten: u64,
}

impl<K: Hash + Eq> Flood<K> {
    pub fn new(most: u32) -> Self {
        Self { most, counts: Mutex::default() }
    }

    /// Whether this one is to be written, and how many of the caller were not written before it.
    pub fn admit(&self, caller: K, now: Instant) -> Option<u64> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.len() >= MAX_CALLERS {
            counts.retain(|_, count| now.duration_since(count.since) < WINDOW);
        }
        let caller = Some(caller);
        let caller = if counts.len() >= MAX_CALLERS && !counts.contains_key(&caller) { None } else { caller };
        let count = counts.entry(caller).or_insert(Count { since: now, written: 0, unwritten: 0 });
        if now.duration_since(count.since) >= WINDOW {
            (count.since, count.written) = (now, 0);
        }
        if count.written >= self.most {
            count.unwritten += 1;
            return None;
        }
        count.written += 1;
        Some(std::mem::take(&mut count.unwritten))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_hides_nobody_else() {
        let (flood, start) = (Flood::new(20), Instant::now());
        for _ in 0..20 {
            assert_eq!(flood.admit(1000, start), Some(0));
        }
        for _ in 0..7 {
            assert_eq!(flood.admit(1000, start), None);
        }
        assert_eq!(flood.admit(1001, start), Some(0));
        assert_eq!(flood.admit(1000, start + WINDOW), Some(7));
        assert_eq!(flood.admit(1000, start + WINDOW), Some(0));
    }

    #[test]
    fn many_callers_take_no_more_room_than_some() {
        let (flood, start) = (Flood::new(20), Instant::now());
        for uid in 0..5000 {
            flood.admit(uid, start);
        }
        assert!(flood.counts.lock().unwrap().len() <= MAX_CALLERS + 1);
        assert_eq!(flood.admit(9999, start), None, "those beyond are counted together");
    }
}
