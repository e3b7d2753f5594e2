//! Room for one more container: no more than `[sandbox] max_running` run at once.
//!
//! Where all places are taken, the container that nobody has used for the longest time goes.
//! One that is at work never does. A connection to a remote server is no container: it takes no place and makes none.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;

use super::slots::Slot;
use super::{Hub, HubError};
use crate::admission::Server;
use crate::proxy::upstream::Upstream;

/// How long a start waits for one of the others to have done its work.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it looks whether one has: that announces itself to nobody.
const LOOK: Duration = Duration::from_millis(100);
/// Who was handed a server so short a time ago is about to call it.
const JUST_USED: Duration = Duration::from_millis(250);

/// A container's among those that may run, until it is gone; of a remote server, none.
#[derive(Clone)]
pub(super) struct Place(Option<Arc<OwnedSemaphorePermit>>);

impl Place {
    pub(super) const NONE: Self = Self(None);

    fn is_taken(&self) -> bool {
        self.0.is_some()
    }
}

impl From<OwnedSemaphorePermit> for Place {
    fn from(permit: OwnedSemaphorePermit) -> Self {
        Self(Some(permit.into()))
    }
}

impl Hub {
    pub(super) async fn place(&self, server: &Server) -> Result<Place, HubError> {
        if server.launch.remote().is_some() {
            return Ok(Place::NONE);
        }
        let give_up = Instant::now() + PATIENCE;
        loop {
            if let Ok(place) = self.places.clone().try_acquire_owned() {
                return Ok(place.into());
            }
            if let Some((slot, upstream)) = self.least_recently_used() {
                self.end(&slot, &upstream, "its room was needed for another server").await;
                continue;
            }
            if Instant::now() >= give_up {
                return Err(HubError::Full { server: server.name.clone(), max: self.max_running });
            }
            if let Ok(Ok(place)) = tokio::time::timeout(LOOK, self.places.clone().acquire_owned()).await {
                return Ok(place.into());
            }
        }
    }

    pub(super) fn least_recently_used(&self) -> Option<(Arc<Slot>, Arc<Upstream>)> {
        let idle = |slot: Arc<Slot>| {
            let upstream = {
                let state = slot.state();
                state.running.as_ref().filter(|running| running.place.is_taken())?.upstream.clone()
            };
            let idle = upstream.idle().filter(|idle| *idle >= JUST_USED)?;
            Some((idle, slot, upstream))
        };
        let longest = self.slots.all().into_iter().filter_map(idle).max_by_key(|(idle, ..)| *idle);
        longest.map(|(_, slot, upstream)| (slot, upstream))
    }
}
