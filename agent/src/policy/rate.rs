//! How many calls an agent may make: an average per minute and a burst.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter as Governor};

use crate::config::RateConfig;
use crate::identity::Address;

/// Only enrolled agents have a cell, so that their number is bounded by the registry.
pub(super) struct RateLimiter {
    cells: DefaultKeyedRateLimiter<Address>,
    clock: DefaultClock,
}

impl RateLimiter {
    pub(super) fn new(config: &RateConfig) -> Self {
        // The configuration refuses zero; should one come by another way, it means one.
        let positive = |n: u32| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_minute(positive(config.calls_per_minute)).allow_burst(positive(config.burst));
        Self { cells: Governor::keyed(quota), clock: DefaultClock::default() }
    }

    /// Takes one call off what the agent has left, or says how long to wait for the next.
    pub(super) fn take(&self, agent: &Address) -> Result<(), Duration> {
        self.cells.check_key(agent).map_err(|refusal| refusal.wait_time_from(self.clock.now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_burst_is_all_that_goes_through_at_once_and_the_wait_is_told() {
        let limiter = RateLimiter::new(&RateConfig { calls_per_minute: 6, burst: 3 });
        let (a, b): (Address, Address) = ("a@x.y".parse().unwrap(), "b@x.y".parse().unwrap());
        for _ in 0..3 {
            assert_eq!(limiter.take(&a), Ok(()));
        }
        let wait = limiter.take(&a).unwrap_err();
        assert!(wait > Duration::from_secs(5) && wait <= Duration::from_secs(10), "{wait:?}");
        assert_eq!(limiter.take(&b), Ok(()), "one agent's calls are not another's");
    }
}
