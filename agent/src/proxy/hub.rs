//! The running servers: one cage per approved server, started when first needed and kept warm; one
//! per agent or session where its definition says so.
//!
//! Invariants: what runs is the image that was reviewed, and nobody is handed a server whose
//! listing differs from its pin, or one that is another's; one start at a time per place; a server
//! that is no longer approved is stopped at once, an idle one after a while or to make room, and no
//! container outlives the hub.

mod backoff;
mod check;
mod logs;
mod room;
mod slots;
mod watch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use self::backoff::Failures;
use self::logs::Logs;
pub use self::logs::{ContainerLog, Ended};
use self::room::Place;
pub use self::slots::{Holder, SessionLease};
use self::slots::{Key, Running, Slot, Slots};
use super::upstream::{RemoteLink, Upstream, UpstreamError, UpstreamLimits};
use crate::admission::{Admission, AdmissionError, Server};
use crate::audit::{AuditError, AuditLog, Entry, Kind, Outcome};
use crate::config::Config;
use crate::identity::SessionIdentity;
use crate::remote::{RemoteError, Remotes};
use crate::sandbox::{CageSpec, Purpose, Sandbox, SandboxError};

/// Containers that are started at the same time: more of them end later each, and none sooner.
const STARTS: usize = 4;
/// A listing that was compared so long ago is compared again before the next call: a server need
/// not say that it changed. Unit tests play the server, and are asked only where they expect it.
const FRESH: Duration = if cfg!(test) { Duration::MAX } else { Duration::from_secs(1) };

#[derive(Debug, Clone, thiserror::Error)]
pub enum HubError {
    #[error("cannot start {server}: {cause}")]
    Cage { server: String, cause: Arc<SandboxError> },
    #[error("cannot reach {server}: {cause}")]
    Remote { server: String, cause: RemoteError },
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
    #[error("cannot start {server}: it ended again and again: {cause}")]
    KeepsEnding { server: String, cause: Arc<UpstreamError> },
    #[error(
        "cannot start {server}: {max} containers run, and each of them is at work; call it again later, or raise [sandbox] max_running"
    )]
    Full { server: String, max: usize },
    #[error("cannot start {server}: the session that it was for is over")]
    SessionOver { server: String },
    #[error("cannot start {server}: the daemon is stopping")]
    Stopping { server: String },
    #[error("cannot use {server}: {cause}")]
    Internal { server: String, cause: String },
}

impl HubError {
    /// What the server itself did, behind whatever came of it.
    pub fn upstream(&self) -> Option<&UpstreamError> {
        match self {
            Self::Upstream { cause, .. } => Some(cause),
            Self::Backoff { cause, .. } => cause.upstream(),
            _ => None,
        }
    }

    fn internal(server: &str, cause: impl ToString) -> Self {
        Self::Internal { server: server.into(), cause: cause.to_string() }
    }
}

pub struct Hub {
    sandbox: Arc<Sandbox>,
    remotes: Arc<Remotes>,
    admission: Arc<Admission>,
    audit: Arc<AuditLog>,
    limits: UpstreamLimits,
    idle_stop: Duration,
    slots: Slots,
    failures: Failures,
    logs: Logs,
    /// One for each container that may run.
    places: Arc<Semaphore>,
    max_running: usize,
    starts: Semaphore,
    stopping: std::sync::atomic::AtomicBool,
}

impl Hub {
    pub fn new(
        sandbox: Arc<Sandbox>,
        remotes: Arc<Remotes>,
        admission: Arc<Admission>,
        audit: Arc<AuditLog>,
        config: &Config,
    ) -> Arc<Self> {
        Arc::new(Self {
            sandbox,
            remotes,
            admission,
            audit,
            limits: UpstreamLimits::of(config),
            idle_stop: Duration::from_secs(config.sandbox.idle_stop_secs.max(1)),
            slots: Slots::default(),
            failures: Failures::default(),
            logs: Logs::default(),
            places: Arc::new(Semaphore::new(config.sandbox.max_running.min(Semaphore::MAX_PERMITS))),
            max_running: config.sandbox.max_running,
            starts: Semaphore::new(STARTS),
            stopping: false.into(),
        })
    }

    /// The running server that all agents share, started where it does not run.
    pub async fn upstream(self: &Arc<Self>, server: &Server) -> Result<Arc<Upstream>, HubError> {
        self.held_by(server, Holder::Everybody).await
    }

    /// The running server for the calls of a session: the one of everybody, or its own.
    pub async fn upstream_of(
        self: &Arc<Self>,
        server: &Server,
        session: &SessionIdentity,
    ) -> Result<Arc<Upstream>, HubError> {
        self.held_by(server, Holder::of(server, session)).await
    }

    async fn held_by(self: &Arc<Self>, server: &Server, holder: Holder) -> Result<Arc<Upstream>, HubError> {
        if !server.is_active() {
            return Err(HubError::NotApproved { server: server.name.clone() });
        }
        let slot = self.slots.place(Key { server: server.name.clone(), holder })?;
        self.ready(slot, server).await
    }

    /// The server in this place, started or checked where that is due.
    async fn ready(self: &Arc<Self>, slot: Arc<Slot>, server: &Server) -> Result<Arc<Upstream>, HubError> {
        let Some(pin) = server.review.as_ref().map(|review| review.pin.clone()) else {
            return Err(HubError::NotApproved { server: server.name.clone() });
        };
        if let Some(upstream) = slot.ready(&pin, FRESH) {
            return Ok(upstream);
        }
        // A task of its own: who waits may go away, and half a start would help nobody.
        let hub = self.clone();
        tokio::spawn(async move {
            let starting = slot.starting.clone().lock_owned().await;
            let ready = hub.bring_up(&slot, &pin).await;
            drop(starting);
            if ready.is_err() {
                hub.slots.prune(&slot);
            }
            ready
        })
        .await
        .unwrap_or_else(|e| Err(HubError::internal(&server.name, e)))
    }

    async fn bring_up(self: &Arc<Self>, slot: &Arc<Slot>, pin: &str) -> Result<Arc<Upstream>, HubError> {
        if let Some(upstream) = slot.ready(pin, FRESH) {
            return Ok(upstream);
        }
        let name = &slot.key.server;
        let server = self.approved(name, pin)?;
        let running = slot.state().running.clone();
        match running {
            Some(running) if running.pin == pin && running.upstream.is_alive() => {
                let verified = self.verified(slot, &server, &running.upstream, None).await;
                if let Err(HubError::Upstream { cause: UpstreamError::Remote { .. }, .. }) = &verified {
                    self.failures.not_started(name, pin, verified.as_ref().err());
                }
                return verified.map(|()| running.upstream);
            }
            Some(stale) => self.end(slot, &stale.upstream, "it was replaced").await,
            None => {}
        }
        self.failures.check(&slot.key, pin)?;
        let started = self.start(slot, &server).await;
        match &started {
            Ok(_) => self.failures.started(name),
            Err(error) => self.failures.not_started(name, pin, Some(error)),
        }
        started
    }

    /// Whether what a server answered may be given out. An answer that came after the server said
    /// that something changed waits for the comparison; one of a server that lost its approval
    /// meanwhile, or that ended before it could be compared, is withheld.
    pub async fn may_answer(
        self: &Arc<Self>,
        server: &Server,
        session: &SessionIdentity,
        upstream: &Arc<Upstream>,
    ) -> Result<(), HubError> {
        if upstream.compared().is_some() {
            return Ok(());
        }
        let now = self.upstream_of(server, session).await?;
        if Arc::ptr_eq(&now, upstream) {
            return Ok(());
        }
        let what = "it said that something changed, and ended before that could be compared".to_owned();
        Err(HubError::Changed { server: server.name.clone(), what })
    }

    /// Why a server that ended during a call will not serve the next one either, if that is so.
    pub fn withdrawn(&self, server: &Server) -> Option<HubError> {
        let pin = server.review.as_ref().map(|review| review.pin.as_str()).unwrap_or_default();
        self.approved(&server.name, pin).err()
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
        let place = self.place(server).await?;
        let link = RemoteLink::of(&self.remotes, server);
        let upstream = match link.map_err(|cause| HubError::Remote { server: name.clone(), cause })? {
            Some(link) => Upstream::open(link, self.limits)
                .await
                .map_err(|cause| HubError::Upstream { server: name.clone(), cause })?,
            None => self.caged(slot, server).await?,
        };
        self.verified(slot, server, &upstream, Some(place)).await?;
        if self.is_stopping() {
            self.end(slot, &upstream, "the daemon is stopping").await;
            return Err(HubError::Stopping { server: name.clone() });
        }
        self.record(server, slot, Outcome::Ok, "started", &upstream).map_err(|e| HubError::internal(name, e))?;
        tokio::spawn(watch::watch(
            Arc::downgrade(self),
            slot.clone(),
            server.clone(),
            upstream.clone(),
            self.idle_stop,
        ));
        Ok(upstream)
    }

    /// The server in a cage that is started for it.
    async fn caged(&self, slot: &Slot, server: &Server) -> Result<Arc<Upstream>, HubError> {
        let name = &server.name;
        let Some(review) = &server.review else { return Err(HubError::NotApproved { server: name.clone() }) };
        let spec = CageSpec {
            server: name.clone(),
            image_id: review.image_id.clone(),
            argv: review.argv.clone(),
            env: server.launch.env.clone(),
            secrets: server.launch.secrets.clone(),
            mounts: server.launch.mounts.clone(),
            egress: server.launch.egress.clone(),
            purpose: Purpose::Serve,
        };
        let cage = {
            let _turn = self.starts.acquire().await.map_err(|e| HubError::internal(name, e))?;
            if self.is_stopping() {
                return Err(HubError::Stopping { server: name.clone() });
            }
            self.sandbox.start(&spec).await.map_err(|e| HubError::Cage { server: name.clone(), cause: e.into() })?
        };
        let (container, stderr) = (cage.container_id.clone(), cage.stderr.clone());
        match Upstream::start(cage, self.limits).await {
            Ok(upstream) => Ok(upstream),
            Err(cause) => {
                self.logs.keep(&slot.key, &container, &stderr, cause.to_string());
                self.remove(&container).await;
                self.logs.settle(name, &stderr);
                Err(HubError::Upstream { server: name.clone(), cause })
            }
        }
    }

    /// Leaves the server in its place only if it still lists what was approved, else it goes to
    /// quarantine; and only if it still is approved, else it ends. One that is new brings its
    /// `place` among those that run.
    async fn verified(
        &self,
        slot: &Slot,
        server: &Server,
        upstream: &Arc<Upstream>,
        place: Option<Place>,
    ) -> Result<(), HubError> {
        let name = &server.name;
        let checked = *upstream.tools_changed().borrow();
        let verdict = match check::compare(upstream, server, &self.admission).await {
            Ok(verdict) => verdict,
            Err(cause) => {
                let why = cause.to_string();
                if slot.state().running.is_none() {
                    self.logs.keep(&slot.key, upstream.container_id(), upstream.stderr(), why.clone());
                }
                self.end(slot, upstream, &why).await;
                return Err(HubError::Upstream { server: name.clone(), cause });
            }
        };
        if let Some(what) = verdict {
            tracing::warn!(server = name, "no longer what was reviewed: {what}");
            let (admission, owned, why) = (self.admission.clone(), name.clone(), what.clone());
            let done = tokio::task::spawn_blocking(move || admission.quarantine(&owned, "lazaret", &why)).await;
            self.end(slot, upstream, "it is no longer what was reviewed").await;
            return Err(match done {
                Ok(Ok(_) | Err(AdmissionError::IsDenied { .. })) => HubError::Changed { server: name.clone(), what },
                Ok(Err(e)) => HubError::internal(name, e),
                Err(e) => HubError::internal(name, e),
            });
        }
        let pin = server.review.as_ref().map(|review| review.pin.clone()).unwrap_or_default();
        upstream.identify(name, &pin);
        upstream.found_as_approved(checked);
        if let Some(place) = place {
            upstream.belongs_to(slot.key.holder.clone());
            let (upstream, since) = (upstream.clone(), Instant::now());
            let running = Running { upstream, pin: pin.clone(), since, place };
            slot.state().running = Some(running);
        }
        // Asked once it can be found to be stopped: an approval or a session that went before is
        // seen here, one that goes later stops what is found.
        let closed = slot.state().closed;
        let gone = if closed { Err(HubError::SessionOver { server: name.clone() }) } else { Ok(()) };
        if let Err(e) = gone.and_then(|()| self.approved(name, &pin).map(drop)) {
            self.end(slot, upstream, "its approval or its session is gone").await;
            return Err(e);
        }
        Ok(())
    }

    fn record(
        &self,
        server: &Server,
        slot: &Slot,
        outcome: Outcome,
        reason: &str,
        upstream: &Upstream,
    ) -> Result<u64, AuditError> {
        let detail = serde_json::json!({
            "container": upstream.container_id(),
            "for": slot.key.holder.to_string(),
            "image": server.review.as_ref().map(|review| &review.image_id),
            "protocol_version": upstream.protocol_version(),
        });
        self.audit.record(Entry::new(Kind::Admin, outcome, "daemon").server(&server.name).reason(reason).detail(detail))
    }

    /// Ends one server for good; returns once its container is gone. Its slot is free at once.
    async fn end(&self, slot: &Slot, upstream: &Arc<Upstream>, why: &str) {
        let running = slot.take(upstream);
        if let Some(running) = &running {
            let own_end = (!upstream.is_alive() && !upstream.was_stopped()).then(|| upstream.how_it_ended()).flatten();
            let words = own_end.as_ref().map_or_else(|| format!("it was stopped: {why}"), ToString::to_string);
            self.logs.keep(&slot.key, upstream.container_id(), upstream.stderr(), words);
            match own_end {
                Some(cause) => self.failures.ended(&slot.key, &running.pin, cause, running.since.elapsed()),
                None => self.failures.forget_holder(&slot.key),
            }
        }
        upstream.stop_because(why).await;
        if !upstream.is_remote() {
            self.remove(upstream.container_id()).await;
        }
        self.logs.settle(&slot.key.server, upstream.stderr());
        drop(running);
    }

    async fn remove(&self, container: &str) {
        if let Err(e) = self.sandbox.stop(container).await {
            tracing::error!(container, "cannot remove a container, the next sweep will: {e}");
        }
    }

    /// Stops a server, all of its containers; pending calls fail at once.
    pub async fn stop(&self, server: &str) {
        let slots = self.slots.of_server(server);
        futures_util::future::join_all(slots.iter().map(|slot| self.end_running(slot, "an operator took it out")))
            .await;
    }

    /// Somebody mended what kept it from starting: it is tried again at the next call.
    pub fn try_again(&self, server: &str) {
        self.failures.forget(server);
    }

    /// Forgets what is known of a server that was removed.
    pub fn forget(&self, server: &str) {
        self.failures.forget(server);
        self.logs.forget(server);
    }

    async fn end_running(&self, slot: &Slot, why: &str) {
        let running = slot.state().running.clone();
        if let Some(running) = running {
            self.end(slot, &running.upstream, why).await;
        }
    }

    /// Ends what runs in a place, and what is about to.
    async fn empty(&self, slot: &Slot, why: &str) {
        // First what runs: whoever is checking it holds `starting`, and sees its end.
        self.end_running(slot, why).await;
        // Waits for a start that is under way: it ends by itself.
        let _starting = slot.starting.lock().await;
        self.end_running(slot, why).await;
    }

    /// Stops every server and starts none again.
    pub async fn stop_all(&self) {
        self.stopping.store(true, std::sync::atomic::Ordering::Release);
        let slots = self.slots.all();
        futures_util::future::join_all(slots.iter().map(|slot| self.empty(slot, "the daemon is stopping"))).await;
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(std::sync::atomic::Ordering::Acquire)
    }

    /// Name and container id of every server that runs, by name; a server may have several.
    pub fn running(&self) -> Vec<(String, String)> {
        self.running_for().into_iter().map(|(name, _, container)| (name, container)).collect()
    }

    /// Name, holder and container id of every server that runs, by name.
    pub fn running_for(&self) -> Vec<(String, Holder, String)> {
        let running = |slot: Arc<Slot>| {
            let state = slot.state();
            let running = state.running.as_ref().filter(|running| running.upstream.is_alive())?;
            let Key { server, holder } = slot.key.clone();
            Some((server, holder, running.upstream.container_id().to_owned()))
        };
        let mut all: Vec<_> = self.slots.all().into_iter().filter_map(running).collect();
        all.sort_unstable_by(|a, b| (&a.0, &a.2).cmp(&(&b.0, &b.2)));
        all
    }

    /// Takes a server in as if it had been started.
    #[cfg(test)]
    pub(super) fn adopt(&self, server: &Server, upstream: Arc<Upstream>) {
        let slot = self.slots.place(Key { server: server.name.clone(), holder: Holder::Everybody }).unwrap();
        let pin = server.decided_pin.clone().unwrap_or_default();
        upstream.identify(&server.name, &pin);
        upstream.found_as_approved(0);
        slot.state().running = Some(Running { upstream, pin, since: Instant::now(), place: Place::NONE });
    }
}

#[cfg(test)]
mod tests;
