//! How long a server is left alone that does not start, or that ends again and again.
//!
//! Starts fail for everybody, so that they are counted by server. What ends a running server may be
//! what one holder asks of it, so that this is counted by holder. The first end costs no pause.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::HubError;
use super::slots::Key;
use crate::proxy::upstream::UpstreamError;
use crate::sandbox::SandboxError;

/// After a failure nobody tries again for this long, doubled by each further one.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// The same where Docker is away: to ask it costs nothing, and it comes back for all at once.
const LONGEST_WITHOUT_DOCKER: Duration = Duration::from_secs(5);
/// Who ran for this long had a reason of its own to end.
const STABLE: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct Failures(Mutex<Table>);

#[derive(Default)]
struct Table {
    starts: HashMap<String, Failure>,
    ends: HashMap<Key, Failure>,
}

struct Failure {
    /// What failed; another pin gets a try of its own.
    pin: String,
    error: HubError,
    times: u32,
    until: Instant,
}

impl Failure {
    fn check(&self, pin: &str) -> Result<(), HubError> {
        match self.until.checked_duration_since(Instant::now()) {
            Some(wait) if self.pin == pin && !wait.is_zero() => Err(HubError::Backoff {
                cause: Box::new(self.error.clone()),
                times: self.times,
                secs: wait.as_secs() + 1,
            }),
            _ => Ok(()),
        }
    }
}

/// The pause before the try after so many failures.
fn pause(failures: u32, longest: Duration) -> Duration {
    match failures {
        0 => Duration::ZERO,
        n => FIRST.saturating_mul(1 << n.min(10).saturating_sub(1)).min(longest),
    }
}

impl Failures {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is time for the next try.
    pub fn check(&self, key: &Key, pin: &str) -> Result<(), HubError> {
        let table = self.table();
        let both = [table.starts.get(&key.server), table.ends.get(key)];
        both.into_iter().flatten().try_for_each(|failure| failure.check(pin))
    }

    pub fn started(&self, server: &str) {
        self.table().starts.remove(server);
    }

    pub fn not_started(&self, server: &str, pin: &str, error: Option<&HubError>) {
        let Some(error) = error else { return };
        let longest = match error {
            HubError::Cage { cause, .. } if matches!(**cause, SandboxError::Unreachable { .. }) => {
                LONGEST_WITHOUT_DOCKER
            }
            HubError::Cage { .. } | HubError::Upstream { .. } | HubError::Remote { .. } => LONGEST,
            // Nothing that a pause would mend.
            _ => return,
        };
        let mut table = self.table();
        let times = table.starts.get(server).filter(|failure| failure.pin == pin).map_or(0, |f| f.times) + 1;
        // A remote server may say itself when to come again.
        let asked = match error.upstream() {
            Some(UpstreamError::Remote { after: Some(secs), .. }) => Duration::from_secs(*secs),
            _ => Duration::ZERO,
        };
        let until = Instant::now() + pause(times, longest).max(asked);
        let failure = Failure { pin: pin.to_owned(), error: error.clone(), times, until };
        table.starts.insert(server.to_owned(), failure);
    }

    /// It ended by itself.
    pub fn ended(&self, key: &Key, pin: &str, cause: UpstreamError, lived: Duration) {
        let mut table = self.table();
        let before = table.ends.get(key).filter(|failure| failure.pin == pin && lived < STABLE);
        let times = before.map_or(0, |failure| failure.times) + 1;
        let until = Instant::now() + pause(times - 1, LONGEST);
        let error = HubError::KeepsEnding { server: key.server.clone(), cause: Arc::new(cause) };
        table.ends.insert(key.clone(), Failure { pin: pin.to_owned(), error, times, until });
    }

    pub fn forget_holder(&self, key: &Key) {
        self.table().ends.remove(key);
    }

    pub fn forget(&self, server: &str) {
        let mut table = self.table();
        table.starts.remove(server);
        table.ends.retain(|key, _| key.server != server);
    }
}

#[cfg(test)]
mod tests {
    use super::super::slots::Holder;
    use super::*;

    fn key(holder: Holder) -> Key {
        Key { server: "s".into(), holder }
    }

    fn agent(name: &str) -> Key {
        key(Holder::Agent { address: name.into(), did: "did:key:z".into() })
    }

    fn end() -> UpstreamError {
        UpstreamError::Ended { cause: "it exited with code 3".into(), last_words: "".into(), sent: true }
    }

    #[test]
    fn the_first_end_costs_no_pause_and_each_further_one_twice_the_last() {
        let failures = Failures::default();
        failures.ended(&agent("a"), "p", end(), Duration::from_secs(1));
        failures.check(&agent("a"), "p").unwrap();
        for (times, secs) in [(2, 1), (3, 2), (4, 4)] {
            failures.ended(&agent("a"), "p", end(), Duration::from_secs(1));
            match failures.check(&agent("a"), "p") {
                Err(HubError::Backoff { times: n, secs: s, .. }) => assert_eq!((n, s), (times, secs)),
                other => panic!("{other:?}"),
            }
        }
        assert!(failures.check(&agent("a"), "p").unwrap_err().to_string().contains("exited with code 3"));
        failures.check(&agent("b"), "p").expect("what one agent does to its own holds up no other");
        failures.check(&agent("a"), "q").expect("another pin gets a try of its own");
        failures.ended(&agent("a"), "p", end(), STABLE);
        failures.check(&agent("a"), "p").expect("it ran long enough");
    }

    #[test]
    fn a_start_that_fails_holds_up_everybody_and_never_for_long_without_docker() {
        let failures = Failures::default();
        let unreachable = |socket: &str| HubError::Cage {
            server: "s".into(),
            cause: Arc::new(SandboxError::Unreachable { socket: socket.into(), cause: String::new(), hint: "" }),
        };
        let refused = HubError::Upstream { server: "s".into(), cause: end() };
        for (error, longest) in [(unreachable("/x"), 6), (refused, 61)] {
            failures.started("s");
            for _ in 0..20 {
                failures.not_started("s", "p", Some(&error));
            }
            match failures.check(&agent("b"), "p") {
                Err(HubError::Backoff { times: 20, secs, .. }) => assert!((longest - 1..=longest).contains(&secs)),
                other => panic!("{other:?}"),
            }
        }
        failures.forget("s");
        failures.check(&agent("b"), "p").unwrap();
    }

    #[test]
    fn a_remote_server_is_left_alone_for_as_long_as_it_asks() {
        let failures = Failures::default();
        let cause = UpstreamError::Remote { cause: "busy".into(), sent: false, after: Some(300) };
        failures.not_started("s", "p", Some(&HubError::Upstream { server: "s".into(), cause }));
        match failures.check(&agent("b"), "p") {
            Err(HubError::Backoff { times: 1, secs, .. }) => assert!((295..=301).contains(&secs), "{secs}"),
            other => panic!("{other:?}"),
        }
    }
}
