//! One call's place in the queue.
//!
//! Invariant: a place that is given up without an answer has its end on record.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde_json::json;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::{Answer, AskView, Asks, PARKED, STATE_PREFIX};
use crate::audit::Outcome;

/// The place is given up when this is dropped.
pub(in crate::policy) struct Waiting {
    asks: Arc<Asks>,
    pub id: String,
    pub deadline: Instant,
    pub answer: watch::Receiver<Option<Answer>>,
    handle: String,
    parked: bool,
    /// What became of the call is on record, or will be by whoever has it now.
    settled: AtomicBool,
}

impl Asks {
    pub(super) fn waiting(self: &Arc<Self>, id: &str) -> Option<Waiting> {
        let state = self.state();
        let pending = state.pending.get(id)?;
        Some(Waiting {
            asks: self.clone(),
            id: id.to_owned(),
            deadline: pending.deadline,
            answer: pending.answer.subscribe(),
            handle: pending.handle.clone(),
            parked: false,
            settled: AtomicBool::new(false),
        })
    }

    /// Nobody waits any more, and nobody answered.
    pub(super) fn left(&self, view: &AskView) {
        let why =
            "nobody waits any more: the agent cancelled the call, left or did not come again, or the daemon stops";
        if let Err(e) = self.record(view, Outcome::Unknown, &view.binding.agent, why, json!({})) {
            tracing::error!(ask = view.id, "the end of a wait could not be recorded: {e}");
        }
    }
}

impl Waiting {
    /// Keeps the place for a client that comes again with this state.
    pub fn park(mut self) -> String {
        self.parked = true;
        format!("{STATE_PREFIX}{}", self.handle)
    }

    pub fn settle(&self) {
        self.settled.store(true, Ordering::Relaxed);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let left = {
            let mut state = self.asks.state();
            let Some(pending) = state.pending.get_mut(&self.id) else { return };
            pending.waiters = pending.waiters.saturating_sub(1);
            if pending.waiters > 0 {
                return;
            }
            if self.parked {
                pending.parked = Some(Instant::now() + PARKED);
                return;
            }
            let unanswered = pending.view.state == "waiting" && !self.settled.load(Ordering::Relaxed);
            state.pending.remove(&self.id).filter(|_| unanswered)
        };
        let Some(left) = left else { return };
        let asks = self.asks.clone();
        // The record waits for the disk.
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || asks.left(&left.view))),
            Err(_) => asks.left(&left.view),
        }
    }
}
