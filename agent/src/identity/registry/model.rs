//! An agent and the life that it leads, as it is stored and shown.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::identity::{Actions, Address, Measurement, PublicKey, Vouched};
use crate::store::Record;

/// `pending -> active <-> suspended -> revoked | expired | deregistered`; the last three are final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentState {
    Pending,
    Active,
    Suspended,
    Revoked,
    Expired,
    Deregistered,
}

impl AgentState {
    pub const ALL: [Self; 6] =
        [Self::Pending, Self::Active, Self::Suspended, Self::Revoked, Self::Expired, Self::Deregistered];

    pub fn is_final(self) -> bool {
        matches!(self, Self::Revoked | Self::Expired | Self::Deregistered)
    }

    pub fn can_become(self, to: Self) -> bool {
        match to {
            Self::Pending => false,
            Self::Active => matches!(self, Self::Pending | Self::Suspended),
            Self::Suspended => self == Self::Active,
            // A key that expired or was given back can turn out to be stolen later.
            Self::Revoked => self != Self::Revoked,
            Self::Expired | Self::Deregistered => !self.is_final(),
        }
    }
}

/// What a human's vouch for key and configuration is worth now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Vouch {
    #[default]
    None,
    Valid,
    Drifted,
    Expired,
    Revoked,
}

/// Reasons as AMP names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum RevocationReason {
    KeyCompromise,
    KeyRotation,
    AgentDeregistered,
    AdminAction,
}

macro_rules! display_as_json_name {
    ($($kind:ty),*) => {$(
        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.serialize(f)
            }
        }
    )*};
}
display_as_json_name!(AgentState, Vouch, RevocationReason);

/// A key that is never accepted again. AMP asks for 90 days; here it is kept for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// Over the raw key.
    pub fingerprint: String,
    pub agent_address: Address,
    pub revoked_at: Timestamp,
    pub reason: RevocationReason,
    /// Fingerprint of the key that took its place.
    pub superseded_by: Option<String>,
}

impl Record for Revocation {
    const TABLE: &'static str = "revocations";
    fn key(&self) -> String {
        self.fingerprint.clone()
    }
}

/// One step of an agent's life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub at: Timestamp,
    pub to: AgentState,
    pub by: String,
    pub why: String,
    /// Fingerprint of the key that the agent had from then on.
    pub key: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Agent {
    pub address: Address,
    pub did: String,
    pub public_key: PublicKey,
    /// Over the raw key.
    pub fingerprint: String,
    /// Over the DER SubjectPublicKeyInfo.
    pub fingerprint_spki: String,
    pub state: AgentState,
    /// The human or organisation that answers for it.
    #[serde(default)]
    pub owner: Option<String>,
    /// The only user who may connect as this agent; any user who holds the key if there is none.
    #[serde(default)]
    pub uid: Option<u32>,
    /// It acts for other agents only: never without a delegation.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sub_agent: bool,
    /// As it was when this was read from the registry, which finds it out anew each time.
    #[serde(default)]
    pub vouch: Vouch,
    pub created_at: Timestamp,
    #[serde(default)]
    pub revoked: Option<Revocation>,
    /// Oldest first; it spans all keys that the address ever had.
    pub history: Vec<Step>,
    /// The moment at which it expires.
    #[serde(default)]
    pub not_after: Option<Timestamp>,
    /// The only tools that it may ever see and call.
    #[serde(default)]
    pub actions: Actions,
    #[serde(default)]
    pub limits: CallLimits,
    #[serde(default)]
    pub vouched: Option<Vouched>,
    /// Why the vouch does not count although it was taken: its signer is not trusted any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distrusted: Option<String>,
}

/// How often an agent may call, beside what the configuration says for all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CallLimits {
    pub calls_per_minute: Option<u32>,
    pub calls_per_day: Option<u64>,
}

/// What an operator says of an agent that is enrolled.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Enrolment {
    pub owner: Option<String>,
    pub uid: Option<u32>,
    pub not_after: Option<Timestamp>,
    pub actions: Actions,
    pub limits: CallLimits,
    /// It waits for an operator's second word.
    pub pending: bool,
    /// It acts for other agents only.
    pub sub_agent: bool,
}

/// What an agent was found to be made of when it connected last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    pub address: Address,
    pub measurement: Measurement,
    pub at: Timestamp,
}

impl Record for Measured {
    const TABLE: &'static str = "measurements";
    fn key(&self) -> String {
        self.address.to_string()
    }
}

impl Record for Agent {
    const TABLE: &'static str = "agents";
    fn key(&self) -> String {
        self.address.to_string()
    }
}

impl Agent {
    pub(super) fn pending(address: Address, key: PublicKey, enrolment: Enrolment, by: &str) -> Self {
        let mut agent = Self {
            address,
            did: key.did(),
            public_key: key,
            fingerprint: key.fingerprint_raw(),
            fingerprint_spki: key.fingerprint_spki(),
            state: AgentState::Pending,
            owner: enrolment.owner,
            uid: enrolment.uid,
            sub_agent: enrolment.sub_agent,
            vouch: Vouch::None,
            created_at: Timestamp::now(),
            revoked: None,
            history: Vec::new(),
            not_after: enrolment.not_after,
            actions: enrolment.actions,
            limits: enrolment.limits,
            vouched: None,
            distrusted: None,
        };
        agent.step(AgentState::Pending, by, "key presented");
        agent
    }

    pub(super) fn set_key(&mut self, key: PublicKey) {
        self.did = key.did();
        self.fingerprint = key.fingerprint_raw();
        self.fingerprint_spki = key.fingerprint_spki();
        self.public_key = key;
        // A vouch is for key and configuration: a new key has none.
        self.vouch = Vouch::None;
        self.vouched = None;
    }

    /// What the vouch is worth now, for a process that was measured so. One whose measurement is not
    /// known is not shown to be what was vouched for.
    pub fn vouch_state(&self, measured: Option<&Measurement>, now: Timestamp) -> Vouch {
        let Some(vouched) = &self.vouched else { return Vouch::None };
        let document = &vouched.document;
        if vouched.revoked.is_some()
            || self.distrusted.is_some()
            || document.did != self.did
            || document.agent != self.address
        {
            return Vouch::Revoked;
        }
        if now >= document.not_after {
            return Vouch::Expired;
        }
        match (&document.measurement, measured) {
            (None, _) => Vouch::Valid,
            (Some(digest), Some(now)) if *digest == now.digest => Vouch::Valid,
            (Some(_), _) => Vouch::Drifted,
        }
    }

    /// Whether a human vouched for what its client is made of, and it still is that. Asked of an agent whose `vouch` is
    /// that of the session in question.
    pub fn is_vouched_as_measured(&self) -> bool {
        let measured = self.vouched.as_ref().is_some_and(|vouched| vouched.document.measurement.is_some());
        self.vouch == Vouch::Valid && measured
    }

    /// Whether the registered actions, and those that were vouched for, name this tool. A vouch that lost its
    /// worth still narrows: what nobody answers for any more is no reason to allow more.
    pub fn may_call(&self, server: &str, tool: &str) -> bool {
        self.actions.allows(server, tool)
            && self.vouched.as_ref().is_none_or(|vouched| vouched.document.capabilities.allows(server, tool))
    }

    /// Whether they may name something of the server whose name begins so.
    pub fn may_reach(&self, server: &str, beginning: &str) -> bool {
        self.actions.reaches(server, beginning)
            && self.vouched.as_ref().is_none_or(|vouched| vouched.document.capabilities.reaches(server, beginning))
    }

    pub fn is_overdue(&self, now: Timestamp) -> bool {
        !self.state.is_final() && self.not_after.is_some_and(|end| now >= end)
    }

    pub(super) fn step(&mut self, to: AgentState, by: &str, why: &str) {
        self.state = to;
        let step = Step { at: Timestamp::now(), to, by: by.into(), why: why.into(), key: self.fingerprint.clone() };
        self.history.push(step);
    }

    pub(super) fn revocation(&self, reason: RevocationReason, superseded_by: Option<String>) -> Revocation {
        Revocation {
            fingerprint: self.fingerprint.clone(),
            agent_address: self.address.clone(),
            revoked_at: Timestamp::now(),
            reason,
            superseded_by,
        }
    }
}
