//! What open sessions bring to light: that a line was not the one that was signed, and what the client is made of.

use serde_json::json;

use super::{Registry, RegistryError};
use crate::audit::{AuditError, Entry, Kind, Outcome};
use crate::identity::signed::BadLine;
use crate::identity::{Measurement, SessionIdentity};

impl Registry {
    /// Writes down that a session ended because a line was not what its key had signed next.
    pub fn record_broken_session(&self, session: &SessionIdentity, why: &BadLine) -> Result<(), AuditError> {
        let agent = session.address().as_str();
        let detail = json!({
            "gate": "registration",
            "session": session.session(),
            "did": session.did(),
            "uid": session.uid(),
            "pid": session.pid(),
        });
        let entry = Entry::new(Kind::Denial, Outcome::Deny, agent).agent(agent).reason(why.to_string()).detail(detail);
        self.record_refusal(session.uid(), entry)
    }

    /// Measures the session's client; what is new against the agent's last measurement is on record when this
    /// returns. A first one is recorded as such: that it was seen first is no reason to trust it.
    pub fn measure(&self, session: &SessionIdentity) -> Result<Option<Measurement>, RegistryError> {
        let Some(measurement) = session.measurement() else { return Ok(None) };
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
}
