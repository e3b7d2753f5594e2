//! What the guard says about itself: which hooks were proven, what it can and cannot stop, and why.

use lazaret_common::hook::LOST_EVENTS;
use serde::Serialize;

use super::guard::Active;
use super::hooks::Role;
use super::load::Loaded;
use super::{Backend, KernelSettings, maps, sys};
use crate::config::{Mode, Scope};

/// One kernel program.
#[derive(Debug, Clone, Serialize)]
pub struct Hook {
    /// Kernel function, tracepoint or LSM hook.
    pub name: String,
    /// `tp_btf`, `lsm`, `fentry`, `fexit` or `cgroup`.
    pub kind: &'static str,
    pub attached: bool,
    /// It was fired on purpose at start and its counter moved.
    pub proven: bool,
    /// How often it has run since start.
    pub fired: u64,
    /// Why it is not attached or not proven.
    pub reason: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct KernelReport {
    pub backend: Backend,
    /// `uname -r`.
    pub kernel: String,
    pub mode: Mode,
    pub scope: Scope,
    pub hooks: Vec<Hook>,
    /// Plain sentences.
    pub can: Vec<String>,
    pub cannot: Vec<String>,
    /// Events that the ring buffer had no room for; their verdicts stood all the same.
    pub lost_events: u64,
    /// Events that did not decode.
    pub bad_events: u64,
    /// Links and maps are pinned: enforcement outlives the daemon.
    pub pinned: bool,
    /// Whether labels and config entries of an earlier daemon were taken over.
    pub took_over: bool,
}

pub(super) fn backend(loaded: Option<&Loaded>) -> Backend {
    let Some(loaded) = loaded.filter(|loaded| loaded.is_proven(Role::Exec)) else { return Backend::ObserveOnly };
    match (loaded.is_proven(Role::Handshake), loaded.is_proven(Role::DenyConnect)) {
        (true, true) => Backend::Lsm,
        (true, false) => Backend::Tracing,
        _ => Backend::Tracepoint,
    }
}

pub(super) fn of(active: &Active, settings: &KernelSettings, bad_events: u64) -> KernelReport {
    let loaded = active.loaded.as_ref();
    let hooks = loaded.map(hooks).unwrap_or_default();
    let (can, cannot) = abilities(active, loaded);
    KernelReport {
        backend: backend(loaded),
        kernel: sys::kernel_release(),
        mode: active.mode,
        scope: settings.scope.clone(),
        lost_events: loaded.map_or(0, |loaded| maps::counter(&loaded.ebpf, LOST_EVENTS)),
        bad_events,
        pinned: loaded.is_some_and(|loaded| loaded.hooks.iter().any(|hook| hook.pinned)),
        took_over: active.took_over,
        hooks,
        can,
        cannot,
    }
}

fn hooks(loaded: &Loaded) -> Vec<Hook> {
    loaded
        .hooks
        .iter()
        .map(|hook| Hook {
            name: hook.target.into(),
            kind: hook.spec.kind,
            attached: hook.link.is_some() || hook.pinned,
            proven: hook.proven,
            fired: maps::fired(&loaded.ebpf, hook.spec.hook),
            reason: hook.reason.clone(),
        })
        .collect()
}

fn abilities(active: &Active, loaded: Option<&Loaded>) -> (Vec<String>, Vec<String>) {
    let Some(loaded) = loaded else {
        return (Vec::new(), vec![format!("stop or see anything: {}", active.reason)]);
    };
    let mut can =
        vec!["stop a server of a client config, or of the catalogue, before its first instruction".to_owned()];
    let mut cannot = Vec::new();
    if loaded.is_proven(Role::Handshake) {
        can.push("stop any other server before it reads its first MCP message from a pipe, FIFO or UNIX socket".into());
    } else {
        cannot.push(format!(
            "see the MCP handshake, so that a server which neither a config nor the catalogue names goes unseen: {}",
            why(loaded, Role::Handshake)
        ));
    }
    if loaded.is_proven(Role::DenyConnect) {
        can.push(
            "deny connects of flagged processes, and report those to container engines below an MCP client".into(),
        );
    } else if loaded.is_proven(Role::KillConnect) {
        can.push(
            "end flagged processes that connect, and report connects to container engines below an MCP client".into(),
        );
        cannot.push(format!("deny a connect without ending the process: {}", why(loaded, Role::DenyConnect)));
    } else {
        if loaded.is_proven(Role::CgroupConnect) {
            can.push("deny inet connects of flagged processes".into());
        }
        cannot.push(format!("see connects to container engines: {}", why(loaded, Role::DenyConnect)));
    }
    if let Some(reason) = &active.not_pinned {
        cannot.push(format!("go on guarding when the daemon ends: {reason}"));
    }
    for executable in active.trusted.iter().filter(|executable| executable.replaceable) {
        cannot.push(format!(
            "tell {} from a program that uid {} puts in its place: install it so that it belongs to root",
            executable.path.display(),
            executable.uid
        ));
    }
    (can, cannot)
}

/// The first reason why a role was not proven.
fn why(loaded: &Loaded, role: Role) -> String {
    let mut reasons = loaded.hooks.iter().filter(|hook| hook.spec.role == role && !hook.proven);
    reasons.find_map(|hook| hook.reason.clone()).unwrap_or_else(|| "it was not tried".into())
}
