//! What the audit log says of a shadow's events: one entry for each, or one for many that say the same.

use serde_json::json;

use super::super::{Action, KernelEvent};
use super::{Seen, ShadowSpawn};
use crate::audit::{Entry, Kind, Outcome};

/// Processes that an entry names which stands for many.
const MAX_NAMED: usize = 16;

/// `seen` came at once and belongs to `shadow`.
pub(super) fn of(shadow: &ShadowSpawn, seen: &[Seen<'_>]) -> Vec<Entry> {
    let mut groups: Vec<Vec<&KernelEvent>> = Vec::new();
    for Seen { event, .. } in seen {
        match groups.iter_mut().find(|group| says_the_same(group[0], event)) {
            Some(group) => group.push(event),
            None => groups.push(vec![event]),
        }
    }
    groups.iter().map(|group| entry(shadow, group)).collect()
}

fn says_the_same(one: &KernelEvent, other: &KernelEvent) -> bool {
    let said = |event: &KernelEvent| {
        (event.kind, event.action, event.uid, event.evidence.clone(), event.exe.clone(), event.address.clone())
    };
    said(one) == said(other) && one.argv.len() == other.argv.len()
}

/// The first of the group stands for all.
fn entry(shadow: &ShadowSpawn, group: &[&KernelEvent]) -> Entry {
    let event = group[0];
    let mut detail = json!({
        "shadow": shadow.id, "evidence": event.evidence, "pid": event.pid, "uid": event.uid,
        "exe": event.exe, "argv_count": event.argv.len(), "client": shadow.client,
        "address": event.address,
    });
    if group.len() > 1 {
        let pids: Vec<u32> = group.iter().take(MAX_NAMED).map(|event| event.pid).collect();
        detail["times"] = json!(group.len());
        detail["pids"] = json!(pids);
    }
    let entry = Entry::new(Kind::Kernel, outcome(event.action), "kernel").detail(detail);
    match &shadow.server {
        Some(server) => entry.server(server),
        None => entry,
    }
}

fn outcome(action: Action) -> Outcome {
    match action {
        Action::Observed => Outcome::Observed,
        Action::Held => Outcome::Held,
        Action::Killed => Outcome::Killed,
        Action::Denied => Outcome::Blocked,
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::new_record;
    use super::super::{EventKind, SeenProcess};
    use super::*;
    use crate::config::Evidence;

    fn event(pid: u32, action: Action) -> KernelEvent {
        KernelEvent {
            kind: EventKind::Spawn,
            evidence: vec![Evidence::Config],
            action,
            pid,
            uid: 1000,
            gid: 1000,
            comm: "node".into(),
            argv: vec!["node".into()],
            argv_truncated: false,
            exe: "/usr/bin/node".into(),
            exe_dev: 1,
            exe_inode: 2,
            cwd: "/home/u".into(),
            cgroup_id: 1,
            ancestors: Vec::new(),
            config_entry: None,
            shadow: u64::from(pid),
            address: None,
            at: jiff::Timestamp::UNIX_EPOCH,
            was_running: false,
        }
    }

    #[test]
    fn many_that_say_the_same_are_one_entry_that_counts_them() {
        let mut events: Vec<KernelEvent> = (1..=100).map(|pid| event(pid, Action::Killed)).collect();
        events.insert(50, event(500, Action::Denied));
        let shadow = new_record("x", &events[0]);
        let process = SeenProcess { pid: 1, started: None, held: false, shadow: 0 };
        let seen: Vec<Seen<'_>> = events.iter().map(|event| Seen { event, process, source: None }).collect();
        let entries: Vec<_> =
            of(&shadow, &seen).into_iter().map(|entry| entry.numbered(1, jiff::Timestamp::UNIX_EPOCH)).collect();
        assert_eq!(entries.len(), 2);
        assert_eq!((entries[0].outcome, entries[1].outcome), (Outcome::Killed, Outcome::Blocked));
        assert_eq!(entries[0].detail["times"], 100);
        assert_eq!(entries[0].detail["pids"].as_array().map(Vec::len), Some(MAX_NAMED));
        assert_eq!((entries[1].detail.get("times"), &entries[1].detail["pid"]), (None, &json!(500)));
    }
}
