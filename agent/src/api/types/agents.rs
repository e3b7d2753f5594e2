//! What operators say and hear of agents.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::identity::{Actions, Agent, Drift, Enrolment, Measured, Measurement, Part, Revocation, RevocationReason};

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enroll {
    pub address: String,
    /// Base64 of the raw 32 bytes.
    pub public_key: String,
    /// Its `uid` is the owner of the key file: the only user who may connect as this agent.
    #[serde(default)]
    pub enrolment: Enrolment,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revoke {
    pub reason: RevocationReason,
}

/// What the vouch document is to say; what is `None` is as the registry has it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DraftVouch {
    pub not_after: Timestamp,
    #[serde(default)]
    pub capabilities: Option<Actions>,
    #[serde(default)]
    pub measurement: Option<Measurement>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GiveVouch {
    /// The very bytes that were signed.
    pub document: String,
    /// Armoured SSHSIG.
    pub signature: String,
    #[serde(default)]
    pub measurement: Option<Measurement>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportRevocations {
    pub revocations: Vec<Revocation>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Imported {
    pub new: usize,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportCard {
    /// The card as it was received.
    pub card: String,
    #[serde(default)]
    pub enrolment: Enrolment,
}

/// A part that is not what was vouched for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Drifted {
    pub how: Drift,
    #[serde(flatten)]
    pub part: Part,
}

/// An agent, and what it was found to be made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AgentView {
    #[serde(flatten)]
    pub agent: Agent,
    pub measured: Option<Measured>,
    pub drift: Vec<Drifted>,
}

impl AgentView {
    pub fn new(agent: Agent, measured: Option<Measured>) -> Self {
        let vouched = agent.vouched.as_ref().and_then(|vouched| vouched.measurement.as_ref());
        let drift = match (vouched, &measured) {
            (Some(then), Some(now)) => then.drift_to(&now.measurement),
            _ => Vec::new(),
        };
        Self { agent, measured, drift: drift.into_iter().map(|(how, part)| Drifted { how, part }).collect() }
    }
}
