//! What the client above a connector is made of, and whether it still is.
//!
//! The client is the nearest of the connector's ancestors that is known by name (`profiles.toml`), else its parent.
//! What stands between the two, such as a shell or a script that the agent has written itself, is measured too: a
//! client that starts the connector in another way is not the one that was vouched for.
//!
//! A survey reads everything; each call then asks the file system only whether any of it has changed. Invariant: what
//! [`Witness::now`] returns is what a survey found in files that have not changed since, and it blocks on nothing but
//! the disk.

mod argv;
mod files;
mod profile;
mod python;
mod scripts;
mod select;
mod survey;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use self::survey::Survey;
use super::{Measurement, Part, PeerProcess, Strange};
use crate::kernel::tree::Process;

pub use files::Digests;
#[doc(hidden)]
pub use select::digest_members;

/// Reads a command line as a measurement does, whatever its bytes: this is a fuzz target.
#[doc(hidden)]
pub fn digest_command_line(cmdline: &[u8]) -> String {
    argv::digest(&argv::words(cmdline), &profile::of_others().argv)
}

/// A look at the file system holds for this long: the gates of one call ask more than once.
const FRESH: Duration = Duration::from_millis(2);

/// A survey that can be repeated, for what measures the measuring.
#[doc(hidden)]
pub struct Sample(Survey);

impl Sample {
    /// Of one process, without what stands below it.
    pub fn take(pid: u32, uid: u32, digests: &Digests) -> Self {
        Self(Survey::take(pid, &[], uid, digests, || true))
    }

    pub fn still_holds(&self) -> bool {
        self.0.still_holds()
    }

    pub fn parts(&self) -> &[Part] {
        self.0.parts()
    }
}

/// What the house itself contributes: the tools that the agent is shown, and the policies that hold for it.
pub trait Surroundings: Send + Sync {
    /// Cheap as long as nothing has changed.
    fn parts(&self) -> Vec<Part>;
}

/// One open session's client.
pub struct Witness {
    process: PeerProcess,
    client: Process,
    digests: Arc<Digests>,
    surroundings: Arc<dyn Surroundings>,
    state: Mutex<Option<State>>,
    /// Digest of the measurement that is on record.
    told: Mutex<Option<String>>,
}

struct State {
    /// When it was last looked at.
    at: Instant,
    survey: Survey,
    surroundings: Vec<Part>,
    measurement: Arc<Measurement>,
}

impl Witness {
    /// Finds the client above `process`. Reads no file yet.
    pub fn new(process: PeerProcess, digests: Arc<Digests>, surroundings: Arc<dyn Surroundings>) -> Self {
        let client = survey::client(process.parents());
        // A connector without any parent is in a pid namespace of its own: it stands for itself.
        let client = client.unwrap_or(Process { pid: process.pid(), started: 0 });
        Self { process, client, digests, surroundings, state: Mutex::default(), told: Mutex::default() }
    }

    /// Whether connector, client and what is between them are still those that opened the session.
    pub fn check(&self) -> Result<(), Strange> {
        if self.client.pid == self.process.pid() { self.process.check() } else { self.process.check_up_to(self.client) }
    }

    /// The measurement as of this moment.
    pub fn now(&self) -> Arc<Measurement> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = state.as_ref().filter(|kept| kept.at.elapsed() < FRESH) {
            return kept.measurement.clone();
        }
        let at = Instant::now();
        let surroundings = self.surroundings.parts();
        let survey = match state.take() {
            Some(kept) if kept.survey.still_holds() => {
                if kept.surroundings == surroundings {
                    let measurement = kept.measurement.clone();
                    *state = Some(State { at, ..kept });
                    return measurement;
                }
                kept.survey
            }
            _ => self.survey(),
        };
        let parts = survey.parts().iter().chain(&surroundings).cloned().collect();
        let measurement = Arc::new(Measurement::of(parts));
        *state = Some(State { at, survey, surroundings, measurement: measurement.clone() });
        measurement
    }

    fn survey(&self) -> Survey {
        let began = Instant::now();
        let between: Vec<Process> =
            self.process.parents().iter().take_while(|process| **process != self.client).copied().collect();
        let survey =
            Survey::take(self.client.pid, &between, self.process.uid(), &self.digests, || self.check().is_ok());
        tracing::debug!(
            pid = self.process.pid(),
            client = self.client.pid,
            parts = survey.parts().len(),
            took_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX),
            "measured a client"
        );
        survey
    }

    /// Whether it has not been told yet, and is one of processes that were all there when they were measured.
    pub(super) fn is_news(&self, measurement: &Measurement) -> bool {
        let whole =
            self.state.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_some_and(|s| s.survey.is_whole());
        whole && self.told.lock().unwrap_or_else(PoisonError::into_inner).as_ref() != Some(&measurement.digest)
    }

    pub(super) fn has_told(&self, measurement: &Measurement) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Some(measurement.digest.clone());
    }

    /// Pid of the client that is measured.
    pub fn client(&self) -> u32 {
        self.client.pid
    }

    pub fn client_process(&self) -> Process {
        self.client
    }
}

impl std::fmt::Debug for Witness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Witness").field("process", &self.process).field("client", &self.client).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
