//! One audit record, as it is stored, shown and exported.
//!
//! The JSON names are a promise to users and scripts. A record carries no secret and no raw
//! argument value: arguments are named and digested, their values stay where they are.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The intent of a tool call, written before it is forwarded.
    Call,
    /// What became of a call; `call_id` joins it to its intent.
    Result,
    /// A gate that refused.
    Denial,
    /// A call waits for a human, or a human answered.
    Ask,
    /// A server or tool was reviewed, approved, denied or put back into quarantine.
    Review,
    /// A verdict of the kernel, or what a human made of it.
    Kernel,
    /// An entry of a client config was added, rewritten or removed.
    Config,
    /// The life of an agent: enrolled, connected, suspended, revoked.
    Agent,
    /// A server connected to a host that its definition grants, or could not.
    Egress,
    /// Anything else that an operator or the daemon itself did.
    Admin,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Permit,
    Deny,
    Ok,
    Error,
    /// A call whose result nobody saw.
    Unknown,
    /// The kernel reported and did nothing.
    Observed,
    Held,
    Blocked,
    Killed,
    Released,
}

macro_rules! display_as_json_name {
    ($($kind:ty),*) => {$(
        impl std::fmt::Display for $kind {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.serialize(f)
            }
        }
    )*};
}
display_as_json_name!(Kind, Outcome);

/// What a caller says; the log adds the number and the time.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub kind: Kind,
    pub outcome: Outcome,
    /// Who decided or acted: an agent's address, `uid:N`, `operator`, `kernel`, `daemon`.
    pub actor: String,
    pub agent: Option<String>,
    pub server: Option<String>,
    pub tool: Option<String>,
    pub call_id: Option<String>,
    pub reason: Option<String>,
    pub detail: Value,
}

impl Entry {
    pub fn new(kind: Kind, outcome: Outcome, actor: impl Into<String>) -> Self {
        Self {
            kind,
            outcome,
            actor: actor.into(),
            agent: None,
            server: None,
            tool: None,
            call_id: None,
            reason: None,
            detail: Value::Null,
        }
    }

    pub fn agent(mut self, agent: impl Into<String>) -> Self {
        self.agent = Some(agent.into());
        self
    }

    pub fn server(mut self, server: impl Into<String>) -> Self {
        self.server = Some(server.into());
        self
    }

    pub fn tool(mut self, tool: impl Into<String>) -> Self {
        self.tool = Some(tool.into());
        self
    }

    pub fn call(mut self, call_id: impl Into<String>) -> Self {
        self.call_id = Some(call_id.into());
        self
    }

    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    /// Anything else worth keeping. Never a secret, never an argument's value.
    pub fn detail(mut self, detail: Value) -> Self {
        self.detail = detail;
        self
    }

    pub(crate) fn numbered(self, seq: u64, time: Timestamp) -> Record {
        let Entry { kind, outcome, actor, agent, server, tool, call_id, reason, detail } = self;
        Record { seq, time, kind, outcome, actor, agent, server, tool, call_id, reason, detail }
    }
}

/// A line of the audit log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// From 1, without a gap.
    pub seq: u64,
    /// RFC 3339, UTC.
    pub time: Timestamp,
    pub kind: Kind,
    pub outcome: Outcome,
    pub actor: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub detail: Value,
}
