//! What of an agent's life goes by the clock, and what an operator changes about it.
//!
//! Invariant: an agent that is overdue has no standing from that moment on, whether or not the
//! timer has already written it down.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{Agent, AgentState, CallLimits, Registry, RegistryError};
use crate::audit::Outcome;
use crate::identity::{Actions, Address};

/// However far away the next end is, the clock may be set: it is asked this often.
const LONGEST_NAP: Duration = Duration::from_secs(60);

/// What an operator changes; what is `None` stays.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Amendment {
    pub owner: Option<String>,
    pub not_after: Option<Timestamp>,
    pub actions: Option<Actions>,
    pub limits: CallLimits,
}

impl Registry {
    /// Changes what is registered of an agent; its key and state stay.
    pub fn amend(&self, address: &Address, amendment: Amendment, by: &str) -> Result<Agent, RegistryError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut agent = self.require(address)?;
        if agent.state.is_final() {
            return Err(super::refused(&agent, agent.state));
        }
        if let Some(not_after) = amendment.not_after.filter(|end| *end <= Timestamp::now()) {
            return Err(RegistryError::Ended { address: address.clone(), not_after });
        }
        let Amendment { owner, not_after, actions, limits } = amendment;
        let mut what = Vec::new();
        if let Some(owner) = owner {
            what.push(format!("owner {owner}"));
            agent.owner = Some(owner);
        }
        if let Some(not_after) = not_after {
            what.push(format!("ends {not_after}"));
            agent.not_after = Some(not_after);
        }
        if let Some(actions) = actions {
            what.push(format!("actions {actions}"));
            agent.actions = actions;
        }
        if let Some(calls) = limits.calls_per_minute {
            what.push(format!("{calls} calls a minute"));
            agent.limits.calls_per_minute = Some(calls);
        }
        if let Some(calls) = limits.calls_per_day {
            what.push(format!("{calls} calls a day"));
            agent.limits.calls_per_day = Some(calls);
        }
        let why = format!("changed: {}", what.join("; "));
        agent.step(agent.state, by, &why);
        self.record(&agent, Outcome::Ok, by, &why)?;
        self.store.put(&agent)?;
        self.changed();
        Ok(agent)
    }

    /// Writes down which agents have come to their end; returns when the next one will.
    pub fn expire(&self, now: Timestamp) -> Result<Option<Timestamp>, RegistryError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next: Option<Timestamp> = None;
        for mut agent in self.list()? {
            if agent.is_overdue(now) {
                agent.step(AgentState::Expired, "daemon", "its time is over");
                self.store.put(&agent)?;
                self.changed();
                self.record(&agent, Outcome::Deny, "daemon", "expired")?;
            } else if let Some(end) = agent.not_after.filter(|_| !agent.state.is_final()) {
                next = Some(next.map_or(end, |next| next.min(end)));
            }
        }
        Ok(next)
    }
}

/// Ends agents, and with them their sessions, when their time is over.
pub async fn follow_expiry(registry: Arc<Registry>, cancel: CancellationToken) {
    let mut changes = registry.changes();
    loop {
        changes.mark_unchanged();
        let asked = tokio::task::spawn_blocking({
            let registry = registry.clone();
            move || registry.expire(Timestamp::now())
        });
        let next = match asked.await {
            Ok(Ok(next)) => next,
            Ok(Err(e)) => {
                tracing::error!("which agents have expired cannot be written down: {e}");
                None
            }
            Err(e) => {
                tracing::error!("looking for expired agents failed: {e}");
                None
            }
        };
        let nap = next.map_or(LONGEST_NAP, |next| {
            let left = next.duration_since(Timestamp::now());
            // A moment more than needed: at the end itself it is over.
            Duration::try_from(left).unwrap_or_default().saturating_add(Duration::from_millis(1)).min(LONGEST_NAP)
        });
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(nap) => {}
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}
