//! The tools of a server: what a review listed, and the decisions on each.
//!
//! Invariant: a decision belongs to the digest of the descriptor; one that changed starts anew.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;

use super::{Admission, DeniedPin, Result, outcome, tool_step};
use crate::admission::model::{AdmissionState, Server, Tool};
use crate::admission::{AdmissionError, offer, pins};
use crate::audit::{Entry, Kind, Outcome};
use crate::proxy::json::Json;
use crate::store::Record as _;

/// Most tools that one audit record tells of.
const MOST_TOLD: usize = 50;

impl Admission {
    /// Takes over the tools that a review listed. What did not change keeps its state. Gives back
    /// which tools lost a decision, and why.
    pub(super) fn replace_tools(
        &self,
        server: &str,
        names: Vec<String>,
        tools: &[Json],
        by: &str,
    ) -> Result<Vec<String>> {
        let mut fell = Vec::new();
        let old: HashMap<String, Tool> =
            self.tools(server)?.into_iter().map(|tool| (tool.name.clone(), tool)).collect();
        let listed: HashSet<&str> = names.iter().map(String::as_str).collect();
        for gone in old.values().filter(|tool| !listed.contains(tool.name.as_str())) {
            self.store.delete::<Tool>(&gone.key())?;
            fell.push(format!("{}: it is gone", gone.name));
        }
        let mut records = Vec::with_capacity(tools.len());
        for (name, descriptor) in names.into_iter().zip(tools) {
            let digest = pins::tool_digest(descriptor);
            let known = old.get(&name);
            let mut tool = Tool {
                server: server.into(),
                name,
                state: known.map_or(AdmissionState::Quarantined, |tool| tool.state),
                descriptor: descriptor.to_text(),
                digest,
                history: known.map(|tool| tool.history.clone()).unwrap_or_default(),
            };
            if let Some(denied) = self.denied(&[&tool.digest])? {
                if tool.state != AdmissionState::Denied {
                    let why = format!("denied by {}: {}", denied.by, denied.why);
                    fell.push(format!("{}: {why}", tool.name));
                    tool_step(&mut tool, AdmissionState::Denied, "lazaret", &why);
                }
            } else if known.is_none_or(|old| old.digest != tool.digest) {
                let why = if known.is_some() { "its descriptor changed" } else { "seen for the first time" };
                if known.is_some() {
                    fell.push(format!("{}: {why}", tool.name));
                }
                tool_step(&mut tool, AdmissionState::Quarantined, by, why);
            }
            records.push(tool);
        }
        self.store.put_all(&records)?;
        fell.truncate(MOST_TOLD);
        Ok(fell)
    }

    /// Decides on one tool, by the digest that it has now. `expected` is the digest that the
    /// person was shown.
    pub fn set_tool(
        &self,
        server: &str,
        tool: &str,
        state: AdmissionState,
        expected: Option<&str>,
        by: &str,
        why: &str,
    ) -> Result<Tool> {
        if state == AdmissionState::Denied && why.trim().is_empty() {
            return Err(AdmissionError::NoReason(format!("{server}:{tool}")));
        }
        let _step = self.lock();
        self.server(server)?;
        let key = Tool::key_of(server, tool);
        let no_tool = || AdmissionError::NoTool { server: server.into(), tool: tool.into() };
        let mut record: Tool = self.store.get(&key)?.ok_or_else(no_tool)?;
        if let Some(expected) = expected
            && expected != record.digest
        {
            return Err(AdmissionError::ToolChanged {
                server: server.into(),
                tool: tool.into(),
                expected: expected.into(),
                found: record.digest,
            });
        }
        tool_step(&mut record, state, by, why);
        let denied = DeniedPin {
            digest: record.digest.clone(),
            server: server.into(),
            tool: Some(tool.into()),
            reviewed: true,
            by: by.into(),
            why: why.into(),
            at: Timestamp::now(),
        };
        let entry = Entry::new(Kind::Review, outcome(state), by)
            .server(server)
            .tool(tool)
            .reason(why)
            .detail(serde_json::json!({ "digest": record.digest, "state": state }));
        if state == AdmissionState::Denied {
            self.store.put(&record)?;
            self.store.put(&denied)?;
            self.changed();
            self.audit(entry)?;
            self.deny_elsewhere(&denied)?;
        } else {
            self.audit(entry)?;
            self.store.delete::<DeniedPin>(&denied.digest)?;
            self.store.put(&record)?;
            self.changed();
        }
        Ok(record)
    }

    /// The same descriptor at other servers is the same tool.
    fn deny_elsewhere(&self, denied: &DeniedPin) -> Result<()> {
        let why = format!("it is what was denied at {} by {}: {}", denied.server, denied.by, denied.why);
        let same = |tool: &Tool| tool.digest == denied.digest && tool.state != AdmissionState::Denied;
        for mut tool in self.store.list::<Tool>()?.into_iter().filter(same) {
            tool_step(&mut tool, AdmissionState::Denied, "lazaret", &why);
            self.store.put(&tool)?;
            self.changed();
            let entry = Entry::new(Kind::Review, Outcome::Deny, "lazaret").server(&tool.server).tool(&tool.name);
            let detail = serde_json::json!({ "digest": tool.digest, "state": tool.state });
            self.audit(entry.reason(&why).detail(detail))?;
        }
        Ok(())
    }

    /// The tools of one server as its last review listed them, in any state.
    pub fn tools(&self, server: &str) -> Result<Vec<Tool>> {
        Ok(self.store.list_prefix(&Tool::key_of(server, ""))?)
    }

    /// One tool of one server, in any state.
    pub fn tool(&self, server: &str, tool: &str) -> Result<Option<Tool>> {
        Ok(self.store.get(&Tool::key_of(server, tool))?)
    }

    /// Every tool that may be found and called: approved itself, fit to be served, on a server that is active.
    pub fn approved_tools(&self) -> Result<Vec<Tool>> {
        let mut servers: Vec<Server> = self.store.list()?;
        servers.retain(Server::is_active);
        let mut tools: Vec<Tool> = self.store.list()?;
        tools.retain(|tool| {
            tool.state == AdmissionState::Approved
                && offer::unfit(&tool.name, &tool.descriptor).is_none()
                && servers.iter().any(|server| server.name == tool.server)
        });
        Ok(tools)
    }
}
