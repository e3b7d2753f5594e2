//! One shadow record: its shape, and what another event of the same thing changes in it.

use std::collections::HashMap;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::super::tree::Process;
use super::super::{Action, Ancestor, EventKind, KernelEvent};
use super::clients::{ConfigSource, client_among};
use super::process;
use crate::config::Evidence;
use crate::store::Record;

/// Processes and addresses that one record remembers; older ones have long ended.
const MAX_REMEMBERED: usize = 16;
/// Held processes that one record remembers; the kernel's labels know the others.
const MAX_HELD: usize = 1024;

/// Where a record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShadowState {
    New,
    /// A process of it is stopped and waits for `release` or `kill`.
    Held,
    Adopted,
    Denied,
    Released,
    Killed,
}

impl ShadowState {
    pub fn as_str(self) -> &'static str {
        match self {
            ShadowState::New => "new",
            ShadowState::Held => "held",
            ShadowState::Adopted => "adopted",
            ShadowState::Denied => "denied",
            ShadowState::Released => "released",
            ShadowState::Killed => "killed",
        }
    }
}

/// A process that was seen, with its start time, so that a reused pid is never mistaken for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenProcess {
    pub pid: u32,
    /// Clock ticks since boot; `None` when it had ended before it could be looked at.
    pub started: Option<u64>,
    pub held: bool,
    /// The kernel's number for it and its children; 0 where that is not known.
    #[serde(default)]
    pub shadow: u64,
}

impl SeenProcess {
    /// `None` if it had ended before it could be looked at.
    pub(super) fn process(&self) -> Option<Process> {
        self.started.map(|started| Process { pid: self.pid, started })
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ShadowSpawn {
    pub id: String,
    pub state: ShadowState,
    pub first_seen: Timestamp,
    pub last_seen: Timestamp,
    /// How often it was tried.
    pub count: u64,
    pub evidence: Vec<Evidence>,
    /// What the kernel did the last time: `observed`, `held`, `killed`, `denied`.
    pub action: Action,
    pub exe: PathBuf,
    /// `sha256:…` of the executable, if it still was what ran.
    pub exe_digest: Option<String>,
    pub argv: Vec<String>,
    pub argv_truncated: bool,
    pub cwd: PathBuf,
    pub uid: u32,
    pub user: Option<String>,
    /// The MCP client that started it, as far as the config or the parent chain tell.
    pub client: Option<String>,
    /// Parents, nearest first.
    pub ancestors: Vec<Ancestor>,
    pub processes: Vec<SeenProcess>,
    /// The client config entry that names it.
    pub config_source: Option<ConfigSource>,
    /// The kernel's number for what that entry starts.
    #[serde(default)]
    pub config_entry: Option<u64>,
    /// Addresses that it tried to reach.
    pub addresses: Vec<String>,
    /// The server that it was adopted as.
    pub server: Option<String>,
    /// It ran already when the guard came on.
    #[serde(default)]
    pub was_running: bool,
}

impl Record for ShadowSpawn {
    const TABLE: &'static str = "shadows";
    fn key(&self) -> String {
        self.id.clone()
    }
}

pub(super) fn new_record(id: &str, event: &KernelEvent) -> ShadowSpawn {
    ShadowSpawn {
        id: id.into(),
        state: ShadowState::New,
        first_seen: event.at,
        last_seen: event.at,
        count: 0,
        evidence: Vec::new(),
        action: event.action,
        exe: event.exe.clone(),
        exe_digest: None,
        argv: event.argv.clone(),
        argv_truncated: event.argv_truncated,
        cwd: event.cwd.clone(),
        uid: event.uid,
        user: process::user_name(event.uid),
        client: None,
        ancestors: event.ancestors.clone(),
        processes: Vec::new(),
        config_source: None,
        config_entry: None,
        addresses: Vec::new(),
        server: None,
        was_running: event.was_running,
    }
}

pub(super) fn merge(shadow: &mut ShadowSpawn, event: &KernelEvent, seen: SeenProcess, source: Option<ConfigSource>) {
    shadow.last_seen = event.at;
    shadow.action = event.action;
    shadow.was_running |= event.was_running;
    // A later exec or message of a process that is already counted is not another try.
    if event.kind == EventKind::Spawn
        && !shadow.processes.iter().any(|p| p.pid == seen.pid && p.started == seen.started)
    {
        shadow.count += 1;
    }
    shadow.count = shadow.count.max(1);
    for evidence in &event.evidence {
        if !shadow.evidence.contains(evidence) {
            shadow.evidence.push(*evidence);
        }
    }
    shadow.evidence.sort();
    if let Some(address) = &event.address
        && !shadow.addresses.contains(address)
        && shadow.addresses.len() < MAX_REMEMBERED
    {
        shadow.addresses.push(address.clone());
    }
    if shadow.config_source.is_none() && source.is_some() {
        shadow.config_source = source;
        shadow.config_entry = event.config_entry;
    }
    if shadow.client.is_none() {
        let configured = shadow.config_source.as_ref().map(|source| source.client.clone());
        shadow.client = configured.or_else(|| client_among(&event.ancestors));
    }
    shadow.processes.retain(|p| p.pid != seen.pid);
    shadow.processes.push(seen);
    forget_oldest(&mut shadow.processes);
    // A human's decision stands; only what waits or waits no longer changes by itself.
    match (shadow.state, event.action) {
        (ShadowState::Denied | ShadowState::Adopted, _) => {}
        (_, Action::Held) => shadow.state = ShadowState::Held,
        (ShadowState::Held, _) => shadow.state = ShadowState::New,
        _ => {}
    }
}

/// What is held is remembered as long as there is room for anything.
fn forget_oldest(processes: &mut Vec<SeenProcess>) {
    while processes.len() > MAX_REMEMBERED {
        match processes.iter().position(|process| !process.held) {
            Some(at) => processes.remove(at),
            None if processes.len() > MAX_HELD => processes.remove(0),
            None => return,
        };
    }
}

/// The records that make room: of whoever has the most, the oldest that nobody has decided on. `all` has the
/// newest first.
pub(super) fn to_forget(all: &[ShadowSpawn], count: usize) -> Vec<&str> {
    let mut of_users: HashMap<u32, Vec<&ShadowSpawn>> = HashMap::new();
    for shadow in all.iter().filter(|shadow| shadow.state == ShadowState::New) {
        of_users.entry(shadow.uid).or_default().push(shadow);
    }
    let oldest = |_| of_users.values_mut().max_by_key(|shadows| shadows.len()).and_then(Vec::pop);
    (0..count).map_while(oldest).map(|shadow| shadow.id.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shadow(id: &str, uid: u32) -> ShadowSpawn {
        ShadowSpawn { uid, ..new_record(id, &event(1, Action::Killed, Evidence::Config)) }
    }

    fn event(pid: u32, action: Action, evidence: Evidence) -> KernelEvent {
        KernelEvent {
            kind: EventKind::Spawn,
            evidence: vec![evidence],
            action,
            pid,
            uid: 1000,
            gid: 1000,
            comm: "node".into(),
            argv: vec!["node".into(), "server.js".into()],
            argv_truncated: false,
            exe: "/usr/bin/node".into(),
            exe_dev: 1,
            exe_inode: 2,
            cwd: "/home/u".into(),
            cgroup_id: 1,
            ancestors: Vec::new(),
            config_entry: None,
            shadow: 7,
            address: None,
            at: Timestamp::UNIX_EPOCH,
            was_running: false,
        }
    }

    fn seen(pid: u32, started: u64, held: bool) -> SeenProcess {
        SeenProcess { pid, started: Some(started), held, shadow: 7 }
    }

    #[test]
    fn a_process_that_is_held_is_not_forgotten_for_newer_ones() {
        let mut events = vec![(event(1, Action::Held, Evidence::Config), seen(1, 1, true))];
        events.extend((2..100).map(|n| (event(n, Action::Killed, Evidence::Config), seen(n, u64::from(n), false))));
        let shadow = after(&events);
        assert!(shadow.processes.contains(&seen(1, 1, true)));
        assert_eq!(shadow.processes.len(), MAX_REMEMBERED);
    }

    fn after(events: &[(KernelEvent, SeenProcess)]) -> ShadowSpawn {
        let mut shadow = new_record("x", &events[0].0);
        for (event, process) in events {
            merge(&mut shadow, event, *process, None);
        }
        shadow
    }

    #[test]
    fn later_evidence_on_the_same_process_is_not_another_try() {
        let shadow = after(&[
            (event(10, Action::Observed, Evidence::Catalogue), seen(10, 1, false)),
            (event(10, Action::Observed, Evidence::Config), seen(10, 1, false)),
            (event(11, Action::Observed, Evidence::Config), seen(11, 2, false)),
        ]);
        assert_eq!(shadow.count, 2);
        assert_eq!(shadow.evidence, [Evidence::Config, Evidence::Catalogue]);
    }

    #[test]
    fn a_reused_pid_is_another_try_and_takes_the_place_of_the_first() {
        let shadow = after(&[
            (event(10, Action::Held, Evidence::Config), seen(10, 1, true)),
            (event(10, Action::Held, Evidence::Config), seen(10, 99, true)),
        ]);
        assert_eq!(shadow.count, 2);
        assert_eq!(shadow.processes, [seen(10, 99, true)]);
        assert_eq!(shadow.state, ShadowState::Held);
    }

    #[test]
    fn a_decision_stands_whatever_comes_after_it() {
        let mut shadow = new_record("x", &event(1, Action::Killed, Evidence::Config));
        shadow.state = ShadowState::Denied;
        merge(&mut shadow, &event(2, Action::Held, Evidence::Config), seen(2, 1, true), None);
        assert_eq!(shadow.state, ShadowState::Denied);
    }

    #[test]
    fn a_record_remembers_a_bounded_number_of_processes() {
        let events: Vec<_> =
            (1..100).map(|n| (event(n, Action::Killed, Evidence::Config), seen(n, u64::from(n), false))).collect();
        let shadow = after(&events);
        assert_eq!(shadow.count, 99);
        assert_eq!(shadow.processes.len(), MAX_REMEMBERED);
        assert_eq!(shadow.processes.last(), Some(&seen(99, 99, false)));
    }

    #[test]
    fn a_user_who_floods_the_records_pushes_out_his_own() {
        let record = |uid: u32, n: usize, state| {
            let mut shadow = shadow(&format!("{uid}-{n}"), uid);
            shadow.state = state;
            shadow
        };
        let mut all: Vec<ShadowSpawn> = (0..5).map(|n| record(1000, n, ShadowState::New)).collect();
        all.push(record(1001, 0, ShadowState::New));
        all.push(record(1000, 9, ShadowState::Held));
        assert_eq!(to_forget(&all, 3), ["1000-4", "1000-3", "1000-2"]);
        assert_eq!(to_forget(&all, 100).len(), 6, "what is held or decided stays");
    }
}
