//! Who calls, for whom, and how well that is known: for policies and for the record.

use std::time::Instant;

use serde_json::{Map, Value, json};

use super::permits::shorten;
use crate::identity::hooks::HookNotes;
use crate::identity::{Agent, Asserted, Evidence, SessionIdentity};
use crate::proxy::json::Json;

/// What a client's own words in a call's `_meta`, and those of its hooks, say of who made the call.
pub(super) fn asserted(others: &Json, uid: u32, hooks: &HookNotes) -> Option<Asserted> {
    let meta = others.get("_meta")?;
    let text = |key: &str| {
        let text = meta.get(key).and_then(Json::as_str)?;
        (!text.chars().any(char::is_control)).then(|| shorten(text).to_owned())
    };
    if let Some(tool_use) = text("claudecode/toolUseId") {
        let said = hooks.of_tool_use(uid, &tool_use, Instant::now());
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

    pub fn evidence(&self) -> Evidence {
        let proven = self.session.lineage().evidence();
        match self.asserted.as_ref().is_some_and(Asserted::is_sub_agent) {
            true => proven.min(Evidence::Asserted),
            false => proven,
        }
    }

    pub fn human(&self) -> Option<&str> {
        self.session.lineage().human.as_deref()
    }

    /// For the record. `agent` is what the registry says of it, where it was asked.
    pub fn described(&self, agent: Option<&Agent>) -> Map<String, Value> {
        let lineage = self.session.lineage();
        let mut chain: Vec<Value> = lineage.hops.iter().map(|hop| json!(hop)).collect();
        if let Some(asserted) = self.asserted.as_ref().filter(|asserted| asserted.is_sub_agent()) {
            chain.push(json!({
                "agent_type": asserted.agent_type,
                "agent_id": asserted.agent_id,
                "said_by": asserted.source,
                "evidence": Evidence::Asserted,
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
        put("evidence", json!(self.evidence()));
        put("chain", json!(chain));
        if let Some(measurement) = self.session.measurement() {
            put("measurement", json!(measurement.digest));
        }
        put("transport", json!(self.session.transport().as_str()));
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
