//! What one token has open: its sessions, its share of the calls in flight. All of it ends with the token.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::Http;
use super::link::Link;
use crate::identity::{Grant, SessionIdentity};
use crate::proxy::hub::SessionLease;
use crate::proxy::session::MAX_IN_FLIGHT;

/// Sessions of one token at once; a client has one.
const MOST_SESSIONS: usize = 16;

pub(super) struct Room {
    pub(super) identity: Arc<SessionIdentity>,
    /// Shared by all sessions and requests of the token, so that none gets more by opening more.
    pub(super) places: Arc<Semaphore>,
    pub(super) over: CancellationToken,
    alone: Arc<Semaphore>,
    sessions: Mutex<HashMap<String, Arc<Link>>>,
    /// Containers of this session stay until the token ends, not only until a request does.
    _lease: SessionLease,
}

/// By the id of the token.
#[derive(Default)]
pub(super) struct Rooms(Mutex<HashMap<String, Arc<Room>>>);

impl Rooms {
    fn rooms(&self) -> MutexGuard<'_, HashMap<String, Arc<Room>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn of(&self, http: &Arc<Http>, grant: &Arc<Grant>) -> Arc<Room> {
        let mut rooms = self.rooms();
        if let Some(room) = rooms.get(grant.id()) {
            return room.clone();
        }
        let room = Arc::new(Room {
            identity: grant.identity().clone(),
            places: Arc::new(Semaphore::new(MAX_IN_FLIGHT)),
            over: http.cancel.child_token(),
            alone: Arc::new(Semaphore::new(MAX_IN_FLIGHT)),
            sessions: Mutex::default(),
            _lease: http.door.hub.open_session(grant.identity()),
        });
        rooms.insert(grant.id().to_owned(), room.clone());
        let (http, grant, watched) = (http.clone(), grant.clone(), room.clone());
        http.clone().tasks.spawn(async move {
            tokio::select! {
                () = watched.over.cancelled() => {}
                () = grant.over().cancelled() => {}
                () = tokio::time::sleep_until(grant.deadline().into()) => {}
            }
            watched.over.cancel();
            http.rooms.rooms().remove(grant.id());
        });
        room
    }
}

impl Room {
    fn sessions(&self) -> MutexGuard<'_, HashMap<String, Arc<Link>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None`: not of this token, or over.
    pub(super) fn session(&self, id: &str) -> Option<Arc<Link>> {
        self.sessions().get(id).filter(|link| !link.is_over()).cloned()
    }

    /// `None`: it has as many as may be.
    pub(super) fn keep(&self, id: String, link: Arc<Link>) -> Option<()> {
        let mut sessions = self.sessions();
        sessions.retain(|_, link| !link.is_over());
        if sessions.len() >= MOST_SESSIONS || self.over.is_cancelled() {
            return None;
        }
        sessions.insert(id, link);
        Some(())
    }

    pub(super) fn close(&self, id: &str) -> bool {
        self.sessions().remove(id).is_some_and(|link| {
            let was_open = !link.is_over();
            link.close();
            was_open
        })
    }

    /// The place of a request without a session; `None` where all are taken.
    pub(super) fn alone(&self) -> Option<OwnedSemaphorePermit> {
        self.alone.clone().try_acquire_owned().ok()
    }
}
