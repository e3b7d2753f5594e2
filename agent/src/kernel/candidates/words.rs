//! What a kernel on which no function can be hooked sees, in plain sentences.

use super::super::hooks::Role;
use super::super::load::Loaded;
use super::{OnDemand, SILENT, TALKS};

/// Adds to what the guard can and cannot do where there is no handshake evidence from functions; `why` says
/// why there is none.
pub(in crate::kernel) fn say(
    loaded: &Loaded,
    on_demand: Option<OnDemand>,
    why: &str,
    can: &mut Vec<String>,
    cannot: &mut Vec<String>,
) {
    if loaded.is_proven(Role::Sockets) {
        can.push("stop any other server before it reads its first MCP message from a UNIX socket".into());
    }
    if !loaded.is_proven(Role::Ring) {
        cannot.push("see what io_uring reads, but for a message whose writer was seen".into());
    }
    let Some(now) = on_demand else {
        cannot.push(format!(
            "see the MCP handshake in a pipe, so that a server which neither a config nor the catalogue names goes unseen there: {why}"
        ));
        return;
    };
    let attached = if now.attached { "attached" } else { "not attached" };
    can.push(format!(
        "stop any other server before it reads its first MCP message from a pipe or FIFO, or below an MCP client from \
         a terminal: by programs on system calls, attached while a candidate is open ({attached} now, {} open; \
         attached {} times, within {} us)",
        now.open, now.attachments, now.longest_us
    ));
    cannot.push(format!(
        "see all pipes all the time ({why}): a candidate is a process whose standard input is a pipe when it starts, \
         until {} s after it first reads from one, or {} min if nobody writes to it",
        TALKS.as_secs(),
        SILENT.as_secs() / 60
    ));
    if now.late > 0 {
        cannot.push(format!(
            "be sure of {} candidates of {} that waited: they went on before the programs were attached",
            now.late, now.waited
        ));
    }
    cannot.push(
        "attach anything when the daemon was killed: what was attached then stays, and if nothing was, the handshake in \
         a pipe goes unseen until it is started again"
            .into(),
    );
}

/// What becomes of connects to container engines there.
pub(in crate::kernel) fn say_of_engines(loaded: &Loaded, why: &str, can: &mut Vec<String>, cannot: &mut Vec<String>) {
    let (by_name, by_peer) = (loaded.is_proven(Role::UnixByName), loaded.is_proven(Role::Sockets));
    if by_name {
        can.push(
            "deny connects of flagged processes to container engines by the name that they ask for, and report those \
             below an MCP client"
                .into(),
        );
    }
    if by_peer {
        can.push(
            "end a flagged process that reached a container engine by another name, and report one below an MCP client, \
             when it has sent something there"
                .into(),
        );
    }
    let beforehand = if by_name { ", unless it is asked for by its own name" } else { "" };
    cannot.push(format!("see what a connect to a UNIX socket leads to before it is made{beforehand}: {why}"));
}
