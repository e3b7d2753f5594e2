//! The daemon's own process: what other processes of this host can do to it.
//!
//! Who is not root can neither signal nor trace it: it belongs to root, and the kernel refuses that. Beyond it,
//! no debugger of its own user attaches without CAP_SYS_PTRACE, no core is dumped with its keys, and it is among
//! the last that end when memory is short.

use super::sys;

/// `oom_score_adj`: almost never, but before what the host cannot do without (-1000).
const LAST: &str = "-900";

/// Says in plain words what could not be had.
pub fn protect_self() -> Vec<String> {
    let mut missing = Vec::new();
    if let Err(e) = sys::forbid_dumps() {
        missing.push(format!("keep debuggers of its own user away: {e}"));
    }
    let path = "/proc/self/oom_score_adj";
    let now: i32 = std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    if LAST.parse().is_ok_and(|last: i32| last < now)
        && let Err(e) = std::fs::write(path, LAST)
    {
        missing.push(format!("be spared when memory is short (it cannot write {path}: {e})"));
    }
    missing
}
