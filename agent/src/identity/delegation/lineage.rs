//! On whose behalf a session acts: the human, the agents between, and how each of them is known.

use serde::{Deserialize, Serialize};

use super::Capabilities;
use crate::identity::{Address, PublicKey};

/// How an agent of a chain is known, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// What was said of it contradicts itself.
    Unknown,
    /// A process of the same user says so.
    Asserted,
    /// A hook says so that was started below the very client that was measured, and a human vouched for that client
    /// with its settings. What else the client starts could say it too.
    Attested,
    /// By its own key.
    Proven,
}

impl std::fmt::Display for Evidence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.serialize(f)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    pub address: Address,
    pub did: String,
    /// Of the delegation that made it; none for the top agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    pub evidence: Evidence,
}

/// Who acts for whom, as it was established when the session began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lineage {
    /// Who answers for the top agent.
    pub human: Option<String>,
    /// Outermost first; the last one is the session's own agent. Never empty.
    pub hops: Vec<Hop>,
    /// Of the session's own agent: a human is 0, a top agent 1.
    pub depth: u32,
    /// What the last delegation grants; all that its agent may where there is none.
    pub(in crate::identity) capabilities: Option<Capabilities>,
    /// Unix seconds of the first expiry in the chain.
    pub(in crate::identity) exp: Option<i64>,
}

impl Lineage {
    /// An agent that acts for its human without another one between.
    pub fn top(address: &Address, key: &PublicKey, human: Option<String>) -> Self {
        let hop = Hop { address: address.clone(), did: key.did(), jti: None, evidence: Evidence::Proven };
        Self { human, hops: vec![hop], depth: 1, capabilities: None, exp: None }
    }

    pub fn root(&self) -> &Hop {
        &self.hops[0]
    }

    /// The agents that the session's own acts for, outermost first.
    pub fn ancestors(&self) -> &[Hop] {
        &self.hops[..self.hops.len() - 1]
    }

    /// The least that is known of any of them.
    pub fn evidence(&self) -> Evidence {
        self.hops.iter().map(|hop| hop.evidence).min().unwrap_or(Evidence::Unknown)
    }

    pub fn capabilities(&self) -> Option<&Capabilities> {
        self.capabilities.as_ref()
    }

    /// Whether the chain grants this tool. What its agents may beside that is for the gates to say.
    pub fn allows(&self, server: &str, tool: &str) -> bool {
        self.capabilities.as_ref().is_none_or(|granted| granted.allows(server, tool))
    }

    pub fn exp(&self) -> Option<i64> {
        self.exp
    }

    /// The ids of its delegations, outermost first.
    pub fn delegations(&self) -> impl Iterator<Item = &str> {
        self.hops.iter().filter_map(|hop| hop.jti.as_deref())
    }
}

/// What a client says of the part of itself that made a call. Nobody proves it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asserted {
    /// `claude-code`, `codex` or `opencode`.
    pub source: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<String>,
    /// The client's own session or thread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_use: Option<String>,
    /// A process below the session's own client said it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_client: bool,
    /// It was said in two ways, so that nobody knows which part of the client it was.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub contradicted: bool,
}

impl Asserted {
    /// Whether it names a sub-agent, which is one deeper than the session's own agent. Who contradicts himself does
    /// not become the top agent by it.
    pub fn is_sub_agent(&self) -> bool {
        self.agent_id.is_some() || self.agent_type.is_some() || self.contradicted
    }
}
