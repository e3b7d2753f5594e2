//! What the guard says about itself: which hooks were proven, what it can and cannot stop, and why.

use serde::Serialize;

use super::candidates::{self, OnDemand, Watcher};
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
    /// `tp_btf`, `lsm`, `fmod_ret`, `fentry`, `fexit` or `cgroup`.
    pub kind: &'static str,
    pub attached: bool,
    /// It was fired on purpose at start and its counter moved.
    pub proven: bool,
    /// How often it has run since start.
    pub fired: u64,
    /// How often the kernel skipped it because it was running on the same processor already: a task that was
    /// preempted in the middle of it. Always 0 where the kernel does not preempt, and for LSM programs.
    pub skipped: u64,
    /// It is attached only while a candidate is open.
    pub on_demand: bool,
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
    /// Events that are on no record: the ring buffer had no room for them, or a daemon was killed that had taken them
    /// out early. Their verdicts stood all the same.
    pub lost_events: u64,
    /// Events that did not decode.
    pub bad_events: u64,
    /// Links and maps are pinned: enforcement outlives the daemon.
    pub pinned: bool,
    /// Whether labels and config entries of an earlier daemon were taken over.
    pub took_over: bool,
    /// `None` where nothing has to be attached on demand, or nothing can.
    pub on_demand: Option<OnDemand>,
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
    let on_demand = active.watcher.as_ref().map(Watcher::report);
    let hooks = loaded.map(|loaded| hooks(loaded, on_demand)).unwrap_or_default();
    let (can, cannot) = abilities(active, loaded);
    KernelReport {
        backend: backend(loaded),
        kernel: sys::kernel_release(),
        mode: active.mode,
        scope: settings.scope.clone(),
        lost_events: loaded.map_or(0, |loaded| maps::lost(&loaded.ebpf)),
        bad_events,
        pinned: loaded.is_some_and(|loaded| loaded.hooks.iter().any(|hook| hook.pinned)),
        took_over: active.took_over,
        on_demand,
        hooks,
        can,
        cannot,
    }
}

fn hooks(loaded: &Loaded, on_demand: Option<OnDemand>) -> Vec<Hook> {
    let demanded = on_demand.is_some_and(|now| now.attached);
    loaded
        .hooks
        .iter()
        .map(|hook| Hook {
            name: hook.target.into(),
            kind: hook.spec.kind,
            attached: hook.link.is_some() || hook.pinned || demanded && hook.spec.role == Role::OnDemand,
            on_demand: hook.spec.role == Role::OnDemand,
            proven: hook.proven,
            // One counter stands for each way of attaching the same program.
            fired: if hook.proven { maps::fired(&loaded.ebpf, hook.spec.hook) } else { 0 },
            skipped: maps::skipped(&loaded.ebpf, hook.spec.program),
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
        let on_demand = active.watcher.as_ref().map(Watcher::report);
        candidates::say(loaded, on_demand, &why(loaded, Role::Handshake), &mut can, &mut cannot);
    }
    connects(loaded, &mut can, &mut cannot);
    for (why, command) in active.left_out.iter().take(5) {
        cannot.push(format!("stop what a client config starts as {command} before it runs: {why}"));
    }
    if !loaded.is_proven(Role::ThreadExec) && !loaded.is_proven(Role::ThreadExecFunction) {
        cannot.push(format!(
            "keep what it knows of a process when another thread than its first executes a program: {}",
            why(loaded, Role::ThreadExecFunction)
        ));
    }
    if !loaded.is_proven(Role::Tamper) {
        cannot.push(format!(
            "notice a debugger that takes over the connector before that has made itself unreadable: {}",
            why(loaded, Role::Tamper)
        ));
    }
    if loaded.is_proven(Role::Hold) {
        can.push("keep a held process still, whoever continues it".into());
    } else {
        cannot.push(format!(
            "keep a held process still at the very moment when its owner continues it: it is stopped again when its parent hears of that, or within a second ({})",
            why(loaded, Role::Hold)
        ));
    }
    match &active.not_judged {
        None => can.push("find servers of a client config, or of the catalogue, that were running before it".into()),
        Some(reason) => cannot.push(format!("judge what was running before it: {reason}")),
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

/// What becomes of connects.
fn connects(loaded: &Loaded, can: &mut Vec<String>, cannot: &mut Vec<String>) {
    const BELOW: &str = "report those below an MCP client to container engines and to remote servers that client configs name, and deny them where [kernel] connect_below_clients says so";
    if loaded.is_proven(Role::DenyConnect) || loaded.is_proven(Role::ModifyConnect) {
        can.push(format!("deny connects of flagged processes, whose call fails while they live; {BELOW}"));
    } else if loaded.is_proven(Role::KillConnect) {
        can.push(format!("end flagged processes that connect; {BELOW}, by ending the process"));
        cannot.push(format!("deny a connect without ending the process: {}", why(loaded, Role::ModifyConnect)));
    } else {
        if loaded.is_proven(Role::CgroupConnect) {
            can.push("deny inet connects of flagged processes, and those below an MCP client to remote servers that client configs name where [kernel] connect_below_clients says so".into());
        }
        candidates::say_of_engines(loaded, &why(loaded, Role::KillConnect), can, cannot);
    }
    if loaded.is_proven(Role::DenySend) || loaded.is_proven(Role::ModifySend) {
        can.push("see MCP that a process below an MCP client sends to a TCP port of this host".into());
        if loaded.hooks.iter().any(|hook| hook.spec.role == Role::DoorEnd && !hook.proven) {
            let why = why(loaded, Role::DoorEnd);
            cannot.push(format!("tell this daemon's own HTTP from other servers below an MCP client: {why}"));
        }
    } else {
        cannot.push(format!("see MCP over HTTP on this host: {}", why(loaded, Role::ModifySend)));
    }
}

/// The first reason why a role was not proven.
fn why(loaded: &Loaded, role: Role) -> String {
    let mut reasons = loaded.hooks.iter().filter(|hook| hook.spec.role == role && !hook.proven);
    reasons.find_map(|hook| hook.reason.clone()).unwrap_or_else(|| "it was not tried".into())
}
