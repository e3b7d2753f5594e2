//! Who calls, for whom, and how well that is known: for policies and for the record.

use std::time::Instant;

use serde_json::{Map, Value, json};

use super::permits::shorten;
use crate::identity::delegation::Hop;
use crate::identity::hooks::HookNotes;
use crate::identity::{Agent, Asserted, Evidence, SessionIdentity};
use crate::proxy::json::Json;

/// What a client's own words in a call's `_meta`, and those of its hooks, say of who made the call.
pub(super) fn asserted(others: &Json, session: &SessionIdentity, hooks: &HookNotes) -> Option<Asserted> {
    let meta = others.get("_meta")?;
    let text = |key: &str| {
        let text = meta.get(key).and_then(Json::as_str)?;
        (!text.chars().any(char::is_control)).then(|| shorten(text).to_owned())
    };
    if let Some(tool_use) = text("claudecode/toolUseId") {
        let said = hooks.of_tool_use(session.uid(), &tool_use, session.client_process(), Instant::now());
        let source = "claude-code".to_owned();
        return Some(said.unwrap_or(Asserted { source, tool_use: Some(tool_use), ..Asserted::default() }));
    }
    let of = |source: &str, session| Asserted { source: source.into(), session: Some(session), ..Asserted::default() };
    text("ai.opencode/sessionID")
        .map(|session| of("opencode", session))
        .or_else(|| text("threadId").map(|session| of("codex", session)))
}

/// The caller of one call.
#[derive(Clone)]
pub(super) struct Caller<'a> {
    pub session: &'a SessionIdentity,
    pub asserted: Option<Asserted>,
}

impl Caller<'_> {
    /// A sub-agent that is only asserted is one deeper than the agent that spoke.
    pub fn depth(&self) -> u32 {
        let deeper = self.asserted.as_ref().is_some_and(Asserted::is_sub_agent);
        self.session.lineage().depth.saturating_add(deeper.into())
    }

    /// The least that is known of anybody in the chain. `agent` is the session's own, with the vouch that it has now.
    pub fn evidence(&self, agent: Option<&Agent>) -> Evidence {
        let proven = self.session.lineage().evidence();
        self.of_sub_agent(agent).map_or(proven, |said| proven.min(said))
    }

    /// How the sub-agent is known that a hook spoke of; `None` where none did.
    fn of_sub_agent(&self, agent: Option<&Agent>) -> Option<Evidence> {
        let asserted = self.asserted.as_ref().filter(|asserted| asserted.is_sub_agent())?;
        Some(match asserted {
            Asserted { contradicted: true, .. } => Evidence::Unknown,
            Asserted { from_client: true, .. } if agent.is_some_and(Agent::is_vouched_as_measured) => {
                Evidence::Attested
            }
            _ => Evidence::Asserted,
        })
    }

    pub fn human(&self) -> Option<&str> {
        self.session.lineage().human.as_deref()
    }

    /// For the record. `agent` is what the registry says of it, where it was asked, and `above` of those that it acts
    /// for.
    pub fn described(&self, agent: Option<&Agent>, above: &[Agent]) -> Map<String, Value> {
        let lineage = self.session.lineage();
        let known = |hop: &Hop| above.iter().chain(agent).find(|agent| agent.address == hop.address);
        let hop = |hop: &Hop| {
            let mut shown = json!(hop);
            if let Some(agent) = known(hop) {
                shown["vouch"] = vouch(agent);
            }
            shown
        };
        let mut chain: Vec<Value> = lineage.hops.iter().map(hop).collect();
        if let Some(asserted) = self.asserted.as_ref().filter(|asserted| asserted.is_sub_agent()) {
            chain.push(json!({
                "agent_type": asserted.agent_type,
                "agent_id": asserted.agent_id,
                "said_by": asserted.source,
                "evidence": self.of_sub_agent(agent),
            }));
        }
        let mut detail = Map::new();
        let mut put = |name: &str, value: Value| drop(detail.insert(name.to_owned(), value));
        put("session", json!(self.session.session()));
        put("did", json!(self.session.did()));
        put("uid", json!(self.session.uid()));
        put("pid", json!(self.session.pid()));
        put("human", json!(self.human()));
        put("depth", json!(self.depth()));
        put("evidence", json!(self.evidence(agent)));
        put("chain", json!(chain));
        if let Some(measurement) = self.session.measurement() {
            put("measurement", json!(measurement.digest));
        }
        put("transport", json!(self.session.transport().as_str()));
        if let Some(token) = self.session.token() {
            put("token", json!(token));
        }
        if let Some(asserted) = &self.asserted {
            put("asserted", json!(asserted));
        }
        if let Some(granted) = lineage.capabilities() {
            put("capabilities", json!(granted));
        }
        if let Some(agent) = agent {
            put("fingerprint", json!(agent.fingerprint));
            put("vouch", vouch(agent));
        }
        detail
    }
}

/// What the vouch for an agent is worth at this moment, and whose it is.
fn vouch(agent: &Agent) -> Value {
    let mut shown = json!({ "state": agent.vouch });
    if let Some(vouched) = &agent.vouched {
        shown["by"] = json!(vouched.by);
        shown["key"] = json!(vouched.signing_key);
        shown["at"] = json!(vouched.at);
        shown["not_after"] = json!(vouched.document.not_after);
        shown["measurement"] = json!(vouched.document.measurement);
    }
    shown
}
