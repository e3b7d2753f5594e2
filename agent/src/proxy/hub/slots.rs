//! Who may use which container, and the place of each.
//!
//! Invariant: a container is found only under the key that it was started for, so that what one
//! holder leaves in it is never seen by another. A place that is closed takes no container any more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::room::Place;
use super::{Hub, HubError};
use crate::admission::{Isolation, Server};
use crate::identity::SessionIdentity;
use crate::proxy::upstream::Upstream;

/// Whom a container serves.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Holder {
    Everybody,
    /// The key is part of it: an address that was enrolled anew may belong to somebody else.
    Agent {
        address: String,
        did: String,
    },
    Session {
        address: String,
        session: String,
    },
}

impl Holder {
    /// Whom the container is for that serves a call of this session.
    pub fn of(server: &Server, session: &SessionIdentity) -> Self {
        let address = session.address().to_string();
        match server.launch.isolation {
            Isolation::Shared => Self::Everybody,
            Isolation::PerAgent => Self::Agent { address, did: session.did().to_owned() },
            Isolation::PerSession => Self::Session { address, session: session.session().to_owned() },
        }
    }
}

/// For people; session ids are long, and their start tells them apart.
impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Everybody => f.write_str("all agents"),
            Self::Agent { address, .. } => f.write_str(address),
            Self::Session { address, session } => {
                write!(f, "{address}, session {}", &session[..session.floor_char_boundary(8)])
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub server: String,
    pub holder: Holder,
}

/// One container's place. `starting` is held by whoever starts, checks or stops it.
pub(super) struct Slot {
    pub key: Key,
    pub starting: Arc<tokio::sync::Mutex<()>>,
    state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    pub running: Option<Running>,
    /// Its session is over.
    pub closed: bool,
}

#[derive(Clone)]
pub(super) struct Running {
    pub upstream: Arc<Upstream>,
    pub pin: String,
    pub since: Instant,
    pub place: Place,
}

impl Slot {
    fn new(key: Key) -> Self {
        Self { key, starting: Arc::default(), state: Mutex::default() }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The running server, if it is as it was when it was compared, and that is not long ago.
    pub fn ready(&self, pin: &str, fresh: Duration) -> Option<Arc<Upstream>> {
        let state = self.state();
        let running = state.running.as_ref()?;
        let fresh = running.pin == pin
            && running.upstream.is_alive()
            && running.upstream.compared().is_some_and(|age| age < fresh);
        fresh.then(|| {
            running.upstream.touch();
            running.upstream.clone()
        })
    }

    /// Takes the server out if it is this one; of several who try, one gets it.
    pub fn take(&self, upstream: &Arc<Upstream>) -> Option<Running> {
        let mut state = self.state();
        let is_this = state.running.as_ref().is_some_and(|running| Arc::ptr_eq(&running.upstream, upstream));
        if is_this { state.running.take() } else { None }
    }
}

#[derive(Default)]
pub(super) struct Slots(Mutex<Table>);

#[derive(Default)]
struct Table {
    by_key: HashMap<Key, Arc<Slot>>,
    /// The sessions that are open, and how many leases each has: no other gets a container of its own.
    sessions: HashMap<String, usize>,
}

impl Slots {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn place(&self, key: Key) -> Result<Arc<Slot>, HubError> {
        let mut table = self.table();
        if let Holder::Session { session, .. } = &key.holder
            && !table.sessions.contains_key(session)
        {
            return Err(HubError::SessionOver { server: key.server });
        }
        Ok(table.by_key.entry(key.clone()).or_insert_with(|| Arc::new(Slot::new(key))).clone())
    }

    pub fn all(&self) -> Vec<Arc<Slot>> {
        self.table().by_key.values().cloned().collect()
    }

    pub fn of_server(&self, server: &str) -> Vec<Arc<Slot>> {
        self.all().into_iter().filter(|slot| slot.key.server == server).collect()
    }

    /// Forgets a place that holds nothing and that nobody else is about to use.
    pub fn prune(&self, slot: &Arc<Slot>) {
        let mut table = self.table();
        // The table's own, and the caller's; further ones are made under the lock only.
        if Arc::strong_count(slot) <= 2 && slot.state().running.is_none() {
            table.by_key.remove(&slot.key);
        }
    }

    fn open(&self, session: &str) {
        *self.table().sessions.entry(session.to_owned()).or_default() += 1;
    }

    /// With its last lease, closes the places of a session; they are for the caller to empty.
    fn close(&self, session: &str) -> Vec<Arc<Slot>> {
        let mut table = self.table();
        if let Some(leases) = table.sessions.get_mut(session).filter(|leases| **leases > 1) {
            *leases -= 1;
            return Vec::new();
        }
        table.sessions.remove(session);
        let of_session = |key: &Key| matches!(&key.holder, Holder::Session { session: its, .. } if its == session);
        let slots: Vec<_> = table.by_key.values().filter(|slot| of_session(&slot.key)).cloned().collect();
        slots.iter().for_each(|slot| slot.state().closed = true);
        slots
    }
}

/// As long as one is held, the session may have containers of its own; they end with it.
#[must_use]
pub struct SessionLease {
    hub: Weak<Hub>,
    session: String,
}

impl Hub {
    pub fn open_session(self: &Arc<Self>, session: &SessionIdentity) -> SessionLease {
        let session = session.session().to_owned();
        self.slots.open(&session);
        SessionLease { hub: Arc::downgrade(self), session }
    }
}

impl Drop for SessionLease {
    fn drop(&mut self) {
        let Some(hub) = self.hub.upgrade() else { return };
        let slots = hub.slots.close(&self.session);
        // Without a runtime the daemon is ending: its last sweep removes the containers.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        for slot in slots {
            let hub = hub.clone();
            runtime.spawn(async move {
                hub.empty(&slot, "its session is over").await;
                hub.failures.forget_holder(&slot.key);
                hub.slots.prune(&slot);
            });
        }
    }
}
