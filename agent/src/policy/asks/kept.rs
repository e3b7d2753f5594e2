//! What of the asks outlives the daemon: approvals that were not used up, and the record of what waited.
//!
//! Invariant: the number of calls that an approval is good for only falls, on disk before in effect.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{AskError, AskView, Asks, Binding, Grant, GrantView};
use crate::audit::{Entry, Kind, Outcome, Record as Logged};
use crate::store::{Record, StoreError};

/// Records that are looked through: what waited when the daemon ended lies among the last ones.
const LOOK_BACK: usize = 10_000;

/// An approval as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Approval {
    /// The call that it was given for.
    pub ask: String,
    pub by: String,
    pub binding: Binding,
    pub until: Timestamp,
    /// For how long it was given: a clock that was set back does not make it longer.
    pub secs: u64,
    pub left: u32,
}

impl Record for Approval {
    const TABLE: &'static str = "approvals";
    fn key(&self) -> String {
        self.ask.clone()
    }
}

impl Approval {
    pub(super) fn view(&self) -> GrantView {
        GrantView {
            ask: self.ask.clone(),
            by: self.by.clone(),
            binding: self.binding.clone(),
            until: self.until,
            times_left: self.left,
        }
    }
}

impl Asks {
    /// Writes down what is left of an approval, which may be nothing.
    pub(super) fn keep(&self, approval: &Approval) -> Result<(), StoreError> {
        match approval.left {
            0 => self.store.delete::<Approval>(&approval.ask).map(drop),
            _ => self.store.put(approval),
        }
    }

    /// Takes what has expired off the disk.
    pub(super) fn sweep(&self) -> Result<(), StoreError> {
        let now = Timestamp::now();
        for over in self.store.list::<Approval>()?.iter().filter(|approval| approval.until <= now) {
            self.store.delete::<Approval>(&over.ask)?;
        }
        Ok(())
    }

    /// Takes up what an earlier daemon left: its approvals hold on, its waiting calls are over and get their end on
    /// record. To be called at the start, before calls are taken. Returns how many calls had waited.
    pub fn restore(self: &Arc<Self>) -> Result<usize, AskError> {
        self.sweep()?;
        let now = Timestamp::now();
        let grants = self.store.list::<Approval>()?.into_iter().filter_map(|kept| {
            let left = Duration::try_from(kept.until.duration_since(now)).ok()?;
            Some(Grant { until: Instant::now() + left.min(Duration::from_secs(kept.secs)), kept })
        });
        let grants = grants.collect();
        let records = self.audit.tail(LOOK_BACK)?;
        let mut open = waiting_in(&records);
        open.sort_by_key(|view| view.asked_at);
        for view in &open {
            let why = "the daemon restarted before anybody answered; the call was not carried out";
            let entry = Entry::new(Kind::Ask, Outcome::Deny, "daemon")
                .agent(&view.binding.agent)
                .server(&view.binding.server)
                .tool(&view.binding.tool)
                .reason(why)
                .detail(json!({ "ask": view.id }));
            self.audit.record(entry)?;
        }
        let count = open.len();
        let mut state = self.state();
        state.grants = grants;
        state.ended = open;
        Ok(count)
    }

    /// An operator takes an approval back.
    pub fn revoke(&self, id: &str, by: &str) -> Result<GrantView, AskError> {
        let approval = {
            let mut state = self.state();
            let at = state.grants.iter().position(|grant| grant.kept.ask == id);
            state.grants.swap_remove(at.ok_or_else(|| AskError::NoApproval(id.to_owned()))?).kept
        };
        self.end(&approval, by, &format!("the approval was taken back by {by}"))?;
        Ok(approval.view())
    }

    /// Ends every approval that does not stand any more by `stands`: its agent, key, server or tool was revoked.
    pub fn forget(&self, stands: impl Fn(&Binding) -> bool) -> Result<(), AskError> {
        // Asked outside of the lock: the answer comes from the disk.
        let held: Vec<Binding> = self.state().grants.iter().map(|grant| grant.kept.binding.clone()).collect();
        let gone: Vec<Binding> = held.into_iter().filter(|binding| !stands(binding)).collect();
        if gone.is_empty() {
            return Ok(());
        }
        let ended: Vec<Grant> =
            self.state().grants.extract_if(.., |grant| gone.contains(&grant.kept.binding)).collect();
        for grant in ended {
            self.end(&grant.kept, "daemon", "the approval ended: what it was given for was revoked or changed")?;
        }
        Ok(())
    }

    /// It is out of memory already.
    fn end(&self, approval: &Approval, by: &str, why: &str) -> Result<(), AskError> {
        self.store.delete::<Approval>(&approval.ask)?;
        let entry = Entry::new(Kind::Ask, Outcome::Deny, by)
            .agent(&approval.binding.agent)
            .server(&approval.binding.server)
            .tool(&approval.binding.tool)
            .reason(why)
            .detail(json!({ "ask": approval.ask, "times_left": approval.left }));
        self.audit.record(entry)?;
        Ok(())
    }
}

/// The calls whose wait has no end in these records, as far as they can be read.
fn waiting_in(records: &[Logged]) -> Vec<AskView> {
    let mut open = HashMap::new();
    for record in records {
        let ask = record.detail["ask"].as_str();
        match record.kind {
            Kind::Ask if record.outcome == Outcome::Held => {
                open.extend(ask.zip(view_of(record)));
            }
            Kind::Ask => drop(ask.map(|ask| open.remove(ask))),
            // Timed out, or what it stood on was revoked.
            Kind::Denial => drop(record.detail["arguments"]["ask"].as_str().map(|ask| open.remove(ask))),
            _ => {}
        }
    }
    open.into_values().collect()
}

fn view_of(record: &Logged) -> Option<AskView> {
    let detail = &record.detail;
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let texts = |value: &serde_json::Value| value.as_array().into_iter().flatten().filter_map(text).collect();
    Some(AskView {
        id: text(&detail["ask"])?,
        binding: Binding {
            agent: record.agent.clone()?,
            did: text(&detail["did"])?,
            server: record.server.clone()?,
            tool: record.tool.clone()?,
            tool_digest: text(&detail["tool_digest"])?,
            arguments_digest: text(&detail["arguments"]["digest"])?,
        },
        argument_names: texts(&detail["arguments"]["names"]),
        reason: "the daemon restarted; the agent has to call again".into(),
        policies: texts(&detail["policies"]),
        uid: detail["uid"].as_u64().and_then(|uid| uid.try_into().ok()).unwrap_or_default(),
        asked_at: record.time,
        until: detail["until"].as_str()?.parse().ok()?,
        state: "ended".into(),
        arguments: None,
    })
}
