//! The running servers: one cage per approved server, started when first needed and kept warm.
//!
//! Invariants: what runs is the image that was reviewed, and nobody is handed a server whose
//! listing differs from its pin; one start at a time per server; a server that is no longer
//! approved is stopped at once, an idle one after a while, and no container outlives the hub.

mod check;
mod watch;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::upstream::{Upstream, UpstreamError, UpstreamLimits};
use crate::admission::{Admission, AdmissionError, Server};
use crate::audit::{AuditError, AuditLog, Entry, Kind, Outcome};
use crate::config::Config;
use crate::sandbox::{CageSpec, Purpose, Sandbox, SandboxError};

/// After a failed start nobody tries again for this long, doubled by each further failure.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, thiserror::Error)]
pub enum HubError {
    #[error("cannot start {server}: {cause}")]
    Cage { server: String, cause: Arc<SandboxError> },
    #[error("cannot start {server}: {cause}")]
    Upstream { server: String, cause: UpstreamError },
    #[error(
        "cannot use {server}: it is no longer what was reviewed ({what}); it is in quarantine, run `lazaret server review {server}`"
    )]
    Changed { server: String, what: String },
    #[error("cannot use {server}: it is not approved; see `lazaret server show {server}`")]
    NotApproved { server: String },
    #[error("{cause} (it failed {times} times, the next try is in {secs} s)")]
    Backoff { cause: Box<HubError>, times: u32, secs: u64 },
    #[error("cannot start {server}: the daemon is stopping")]
    Stopping { server: String },
    #[error("cannot use {server}: {cause}")]
    Internal { server: String, cause: String },
}

impl HubError {
    fn internal(server: &str, cause: impl ToString) -> Self {
        Self::Internal { server: server.into(), cause: cause.to_string() }
    }
}

pub struct Hub {
    sandbox: Arc<Sandbox>,
    admission: Arc<Admission>,
    audit: Arc<AuditLog>,
    limits: UpstreamLimits,
    idle_stop: Duration,
    slots: Mutex<HashMap<String, Arc<Slot>>>,
    stopping: std::sync::atomic::AtomicBool,
}

/// One server's place. `starting` is held by whoever starts, checks or stops it.
#[derive(Default)]
struct Slot {
    starting: Arc<tokio::sync::Mutex<()>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: Option<Running>,
    failure: Option<Failure>,
}

#[derive(Clone)]
struct Running {
    upstream: Arc<Upstream>,
    pin: String,
    /// The count of tool changes up to which its listing was compared with the pin.
    checked: u64,
}

struct Failure {
    /// What failed; another pin gets a try of its own.
    pin: String,
    error: HubError,
    times: u32,
    until: Instant,
}

impl Slot {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The running server, if it is as it was checked.
    fn ready(&self, pin: &str) -> Option<Arc<Upstream>> {
        let state = self.state();
        let running = state.running.as_ref()?;
        let fresh = running.pin == pin
            && running.upstream.is_alive()
            && *running.upstream.tools_changed().borrow() == running.checked;
        fresh.then(|| {
            running.upstream.touch();
            running.upstream.clone()
        })
    }
}

impl Hub {
    pub fn new(sandbox: Arc<Sandbox>, admission: Arc<Admission>, audit: Arc<AuditLog>, config: &Config) -> Arc<Self> {
        Arc::new(Self {
            sandbox,
            admission,
            audit,
            limits: UpstreamLimits::of(config),
            idle_stop: Duration::from_secs(config.sandbox.idle_stop_secs.max(1)),
            slots: Mutex::default(),
            stopping: false.into(),
        })
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<String, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The running server behind an entry, started where it does not run.
    pub async fn upstream(self: &Arc<Self>, server: &Server) -> Result<Arc<Upstream>, HubError> {
        let Some(pin) = server.review.as_ref().map(|review| review.pin.clone()).filter(|_| server.is_active()) else {
            return Err(HubError::NotApproved { server: server.name.clone() });
        };
        let slot = self.slots().entry(server.name.clone()).or_default().clone();
        if let Some(upstream) = slot.ready(&pin) {
            return Ok(upstream);
        }
        // A task of its own: who waits may go away, and half a start would help nobody.
        let (hub, name) = (self.clone(), server.name.clone());
        tokio::spawn(async move {
            let _starting = slot.starting.clone().lock_owned().await;
            hub.bring_up(&slot, &name, &pin).await
        })
        .await
        .unwrap_or_else(|e| Err(HubError::internal(&server.name, e)))
    }

    async fn bring_up(self: &Arc<Self>, slot: &Arc<Slot>, name: &str, pin: &str) -> Result<Arc<Upstream>, HubError> {
        if let Some(upstream) = slot.ready(pin) {
            return Ok(upstream);
        }
        let server = self.approved(name, pin)?;
        let running = slot.state().running.clone();
        match running {
            Some(running) if running.pin == pin && running.upstream.is_alive() => {
                return self.verified(slot, &server, running.upstream).await;
            }
            Some(stale) => self.end(slot, &stale.upstream).await,
            None => {}
        }
        if let Some(failure) = slot.state().failure.as_ref().filter(|failure| failure.pin == pin)
            && let Some(wait) = failure.until.checked_duration_since(Instant::now())
        {
            let secs = wait.as_secs() + 1;
            return Err(HubError::Backoff { cause: Box::new(failure.error.clone()), times: failure.times, secs });
        }
        let started = self.start(slot, &server).await;
        let mut state = slot.state();
        match &started {
            Ok(_) => state.failure = None,
            Err(error @ (HubError::Cage { .. } | HubError::Upstream { .. })) => {
                let before = state.failure.as_ref().filter(|failure| failure.pin == pin);
                let times = before.map_or(0, |failure| failure.times) + 1;
                let wait = FIRST_BACKOFF.saturating_mul(1 << times.min(10).saturating_sub(1)).min(LONGEST_BACKOFF);
                state.failure =
                    Some(Failure { pin: pin.to_owned(), error: error.clone(), times, until: Instant::now() + wait });
            }
            Err(_) => {}
        }
        started
    }

    /// The entry as it is now, if the pin is still the approved one.
    fn approved(&self, name: &str, pin: &str) -> Result<Server, HubError> {
        let server = self.admission.get(name).map_err(|e| HubError::internal(name, e))?;
        let current =
            |server: &Server| server.is_active() && server.review.as_ref().is_some_and(|review| review.pin == pin);
        server.filter(current).ok_or_else(|| HubError::NotApproved { server: name.into() })
    }

    async fn start(self: &Arc<Self>, slot: &Arc<Slot>, server: &Server) -> Result<Arc<Upstream>, HubError> {
        let name = &server.name;
        if self.is_stopping() {
            return Err(HubError::Stopping { server: name.clone() });
        }
        let Some(review) = &server.review else { return Err(HubError::NotApproved { server: name.clone() }) };
        let spec = CageSpec {
            server: name.clone(),
            image_id: review.image_id.clone(),
            argv: review.argv.clone(),
            env: server.launch.env.clone(),
            mounts: server.launch.mounts.clone(),
            purpose: Purpose::Serve,
        };
        let cage =
            self.sandbox.start(&spec).await.map_err(|e| HubError::Cage { server: name.clone(), cause: e.into() })?;
        let upstream = Upstream::start(cage, self.limits)
            .await
            .map_err(|cause| HubError::Upstream { server: name.clone(), cause })?;
        let upstream = self.verified(slot, server, upstream).await?;
        if self.is_stopping() {
            self.end(slot, &upstream).await;
            return Err(HubError::Stopping { server: name.clone() });
        }
        self.record(server, Outcome::Ok, "started", &upstream).map_err(|e| HubError::internal(name, e))?;
        tokio::spawn(watch::watch(
            Arc::downgrade(self),
            slot.clone(),
            server.clone(),
            upstream.clone(),
            self.idle_stop,
        ));
        Ok(upstream)
    }

    /// Hands the server out only if it still lists what was approved, else it goes to quarantine;
    /// and only if it still is approved, else it ends.
    async fn verified(&self, slot: &Slot, server: &Server, upstream: Arc<Upstream>) -> Result<Arc<Upstream>, HubError> {
        let name = &server.name;
        let checked = *upstream.tools_changed().borrow();
        let verdict = match check::compare(&upstream, server, &self.admission).await {
            Ok(verdict) => verdict,
            Err(cause) => {
                self.end(slot, &upstream).await;
                return Err(HubError::Upstream { server: name.clone(), cause });
            }
        };
        if let Some(what) = verdict {
            tracing::warn!(server = name, "no longer what was reviewed: {what}");
            let (admission, owned, why) = (self.admission.clone(), name.clone(), what.clone());
            let done = tokio::task::spawn_blocking(move || admission.quarantine(&owned, "lazaret", &why)).await;
            self.end(slot, &upstream).await;
            return Err(match done {
                Ok(Ok(_) | Err(AdmissionError::IsDenied { .. })) => HubError::Changed { server: name.clone(), what },
                Ok(Err(e)) => HubError::internal(name, e),
                Err(e) => HubError::internal(name, e),
            });
        }
        let pin = server.review.as_ref().map(|review| review.pin.clone()).unwrap_or_default();
        upstream.identify(name, &pin);
        slot.state().running = Some(Running { upstream: upstream.clone(), pin: pin.clone(), checked });
        // Asked once it can be found to be stopped: an approval that went before is seen here, one
        // that goes later stops what is found.
        if let Err(e) = self.approved(name, &pin) {
            self.end(slot, &upstream).await;
            return Err(e);
        }
        Ok(upstream)
    }

    fn record(&self, server: &Server, outcome: Outcome, reason: &str, upstream: &Upstream) -> Result<u64, AuditError> {
        let detail = serde_json::json!({
            "container": upstream.container_id(),
            "image": server.review.as_ref().map(|review| &review.image_id),
            "protocol_version": upstream.protocol_version(),
        });
        self.audit.record(Entry::new(Kind::Admin, outcome, "daemon").server(&server.name).reason(reason).detail(detail))
    }

    /// Ends one server for good; returns once its container is gone. Its place is free at once.
    async fn end(&self, slot: &Slot, upstream: &Arc<Upstream>) {
        {
            let mut state = slot.state();
            if state.running.as_ref().is_some_and(|running| Arc::ptr_eq(&running.upstream, upstream)) {
                state.running = None;
            }
        }
        upstream.stop().await;
        if let Err(e) = self.sandbox.stop(upstream.container_id()).await {
            tracing::error!(container = upstream.container_id(), "cannot remove a container, the next sweep will: {e}");
        }
    }

    /// Stops a server; its pending calls fail at once.
    pub async fn stop(&self, server: &str) {
        let slot = self.slots().get(server).cloned();
        if let Some(slot) = slot {
            self.end_running(&slot).await;
        }
    }

    async fn end_running(&self, slot: &Slot) {
        let running = slot.state().running.clone();
        if let Some(running) = running {
            self.end(slot, &running.upstream).await;
        }
    }

    /// Stops every server and starts none again.
    pub async fn stop_all(&self) {
        self.stopping.store(true, std::sync::atomic::Ordering::Release);
        let slots: Vec<Arc<Slot>> = self.slots().values().cloned().collect();
        let each = slots.iter().map(|slot| async {
            // First what runs: whoever is checking it holds `starting`, and sees its end.
            self.end_running(slot).await;
            // Waits for a start that is under way: it ends by itself.
            let _starting = slot.starting.lock().await;
            self.end_running(slot).await;
        });
        futures_util::future::join_all(each).await;
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(std::sync::atomic::Ordering::Acquire)
    }

    /// Name and container id of every server that runs, by name.
    pub fn running(&self) -> Vec<(String, String)> {
        let running = |(name, slot): (&String, &Arc<Slot>)| {
            let state = slot.state();
            let running = state.running.as_ref().filter(|running| running.upstream.is_alive())?;
            Some((name.clone(), running.upstream.container_id().to_owned()))
        };
        let mut names: Vec<_> = self.slots().iter().filter_map(running).collect();
        names.sort_unstable();
        names
    }

    /// What a running server last wrote to its standard error.
    pub fn stderr_tail(&self, server: &str, lines: usize) -> Option<Vec<String>> {
        let slot = self.slots().get(server).cloned()?;
        let state = slot.state();
        state.running.as_ref().map(|running| running.upstream.stderr().tail(lines))
    }

    /// Takes a server in as if it had been started.
    #[cfg(test)]
    pub(super) fn adopt(&self, server: &Server, upstream: Arc<Upstream>) {
        let slot = self.slots().entry(server.name.clone()).or_default().clone();
        let pin = server.decided_pin.clone().unwrap_or_default();
        upstream.identify(&server.name, &pin);
        slot.state().running = Some(Running { upstream, pin, checked: 0 });
    }
}

#[cfg(test)]
mod tests;
