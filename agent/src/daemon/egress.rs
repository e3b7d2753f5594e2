//! Writes down where servers connected to, as far as they may.

use std::sync::Arc;

use crate::audit::{AuditLog, Entry, Kind, Outcome};
use crate::sandbox::{EgressEvent, EgressOutcome, EgressWitness};

pub(super) struct Recorder {
    audit: Arc<AuditLog>,
}

impl Recorder {
    pub fn new(audit: Arc<AuditLog>) -> Self {
        Self { audit }
    }
}

impl EgressWitness for Recorder {
    fn egress(&self, event: EgressEvent) {
        let audit = self.audit.clone();
        // It may wait for the disk.
        tokio::task::spawn_blocking(move || {
            if let Err(e) = audit.record(entry(&event)) {
                tracing::error!(server = event.server, "a connection to {} is not on record: {e}", event.egress);
            }
        });
    }
}

fn entry(event: &EgressEvent) -> Entry {
    let mut detail = serde_json::json!({"container": event.container, "to": event.egress.to_string()});
    let (outcome, reason) = match &event.what {
        EgressOutcome::Opened { to } => {
            detail["address"] = to.ip().to_string().into();
            (Outcome::Permit, format!("first connection to {}", event.egress))
        }
        EgressOutcome::Refused { why } => (Outcome::Deny, format!("no connection to {}: {why}", event.egress)),
        EgressOutcome::Total { opened, refused, bytes_out, bytes_in } => {
            detail["opened"] = (*opened).into();
            detail["refused"] = (*refused).into();
            detail["bytes_out"] = (*bytes_out).into();
            detail["bytes_in"] = (*bytes_in).into();
            (Outcome::Ok, format!("its container ended: {opened} connections to {}, {refused} refused", event.egress))
        }
    };
    Entry::new(Kind::Egress, outcome, "daemon").server(&event.server).reason(reason).detail(detail)
}
