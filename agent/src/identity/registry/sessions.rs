//! What open sessions bring to light: that a line was not the one that was signed, and what the client is made of.

use std::sync::PoisonError;

use serde_json::json;

use super::{Agent, NotActive, Registry, RegistryError, Vouch};
use crate::audit::{AuditError, Entry, Kind, Outcome};
use crate::config::OnDrift;
use crate::identity::{Drift, Measurement, SessionIdentity};

/// Parts that a refusal names; `agent show` has them all.
const NAMED_PARTS: usize = 3;

impl Registry {
    /// Writes down that a session ended because it was not whole: a line that its key had not signed next, or bytes
    /// that another process wrote.
    pub fn record_broken_session(&self, session: &SessionIdentity, why: &str) -> Result<(), AuditError> {
        let agent = session.address().as_str();
        let detail = json!({
            "gate": "registration",
            "session": session.session(),
            "did": session.did(),
            "uid": session.uid(),
            "pid": session.pid(),
        });
        let entry = Entry::new(Kind::Denial, Outcome::Deny, agent).agent(agent).reason(why).detail(detail);
        self.record_refusal(session.uid(), entry)
    }

    /// Measures the session's client; what is new against the agent's last measurement is on record when this
    /// returns. A first one is recorded as such: that it was seen first is no reason to trust it.
    pub fn measure(&self, session: &SessionIdentity) -> Result<Option<Measurement>, RegistryError> {
        let Some(measurement) = session.measurement() else { return Ok(None) };
        if !session.is_news(&measurement) {
            return Ok(Some(measurement));
        }
        // One at a time, so that two calls at once do not tell the same.
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if !session.is_news(&measurement) {
            return Ok(Some(measurement));
        }
        let last = self.last_measured(session.address())?.map(|last| last.measurement);
        if last.as_ref() != Some(&measurement) {
            let drift = last.as_ref().map(|last| last.drift_to(&measurement));
            let drift = drift.map(|drift| {
                drift.into_iter().map(|(how, part)| json!({ "how": how, "part": part })).collect::<Vec<_>>()
            });
            let agent = session.address().as_str();
            let reason = if drift.is_some() { "its measurement changed" } else { "measured for the first time" };
            let detail = json!({
                "session": session.session(),
                "did": session.did(),
                "client_pid": session.client(),
                "digest": measurement.digest,
                "drift": drift,
                "parts": if drift.is_none() { json!(measurement.parts) } else { json!(null) },
            });
            let entry = Entry::new(Kind::Agent, Outcome::Observed, agent).agent(agent).reason(reason).detail(detail);
            self.audit.record(entry)?;
            self.measured(session.address(), &measurement)?;
        }
        session.has_told(&measurement);
        Ok(Some(measurement))
    }

    /// The agent of a session, with the vouch that it has for what its client is made of at this moment.
    pub fn standing_in(&self, session: &SessionIdentity) -> Result<Agent, NotActive> {
        let measured = self.measure(session)?;
        self.standing_as(session.address(), session.did(), session.uid(), measured.as_ref())
    }

    /// Refuses an agent that is not what was vouched for, unless that is only to be reported.
    pub fn demand_no_drift(&self, agent: &Agent, session: &SessionIdentity) -> Result<(), NotActive> {
        if agent.vouch != Vouch::Drifted || self.on_drift == OnDrift::Report {
            return Ok(());
        }
        let vouched = agent.vouched.as_ref().and_then(|vouched| vouched.measurement.as_ref());
        let what = match (vouched, session.measurement()) {
            (Some(vouched), Some(now)) => name_drift(vouched, &now),
            _ => "what it is made of cannot be seen over this transport".into(),
        };
        Err(NotActive::Drifted { address: agent.address.clone(), what })
    }
}

/// The first parts of a drift, for people.
fn name_drift(vouched: &Measurement, now: &Measurement) -> String {
    let drift = vouched.drift_to(now);
    let mut named: Vec<String> = drift
        .iter()
        .take(NAMED_PARTS)
        .map(|(how, part)| {
            let how = match how {
                Drift::Added => "added",
                Drift::Removed => "removed",
                Drift::Changed => "changed",
            };
            format!("{how} {} {}", part.kind, part.name)
        })
        .collect();
    if drift.len() > NAMED_PARTS {
        named.push(format!("and {} more", drift.len() - NAMED_PARTS));
    }
    named.join(", ")
}

#[cfg(test)]
mod tests;
