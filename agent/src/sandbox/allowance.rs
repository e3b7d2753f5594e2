//! How much output that nobody asked for is put up with: a burst, and then a steady trickle.

use std::time::Instant;

/// Bytes that a server may write at once, and each second from then on.
const BURST: u64 = 32 << 20;
const PER_SEC: u64 = 1 << 20;

#[derive(Debug)]
pub struct Allowance {
    left: u64,
    burst: u64,
    per_sec: u64,
    since: Instant,
}

impl Allowance {
    fn new(burst: u64, per_sec: u64) -> Self {
        Self { left: burst, burst, per_sec, since: Instant::now() }
    }

    /// Whether `bytes` more are within it.
    pub fn take(&mut self, bytes: u64) -> bool {
        self.take_at(bytes, Instant::now())
    }

    fn take_at(&mut self, bytes: u64, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.since).as_millis();
        let refill = u64::try_from(elapsed).unwrap_or(u64::MAX).saturating_mul(self.per_sec) / 1000;
        // Time counts only once it is worth a byte, so that who takes often gets no less.
        if refill > 0 {
            self.left = self.left.saturating_add(refill).min(self.burst);
            self.since = now;
        }
        let enough = bytes <= self.left;
        self.left = self.left.saturating_sub(bytes);
        enough
    }
}

impl Default for Allowance {
    fn default() -> Self {
        Self::new(BURST, PER_SEC)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_burst_is_allowed_and_a_flood_is_not() {
        let mut allowance = Allowance::new(1000, 100);
        let start = allowance.since;
        assert!(allowance.take_at(1000, start));
        assert!(!allowance.take_at(1, start));
        let later = start + Duration::from_secs(2);
        assert!(allowance.take_at(200, later) && !allowance.take_at(1, later));
        assert!(allowance.take_at(1000, start + Duration::from_secs(3600)), "and never more than the burst");
        assert!(!allowance.take_at(1, start + Duration::from_secs(3600)));
    }
}
