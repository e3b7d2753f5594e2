//! fork and clone: a new process gets the label of the one that made it.
//!
//! Threads are no processes: they share their group's label, io_uring's workers included, which no hook
//! of fork sees. Whoever the child's parent is said to be (`CLONE_PARENT`) does not matter.

use aya_ebpf::bindings::task_struct;
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use lazaret_common::hook::Hook;
use lazaret_common::label::{DOOR, IN_SCOPE};
use lazaret_common::settings::Settings;

use crate::maps::{SETTINGS, fired};
use crate::{label, scope};

/// Linux 5.5.
#[btf_tracepoint(function = "sched_process_fork")]
pub fn fork(ctx: BtfTracePointContext) -> i32 {
    fired(Hook::Fork);
    if let Some(settings) = SETTINGS.get(0) {
        inherit(settings, ctx.arg(1));
    }
    0
}

#[inline(always)]
fn inherit(settings: &Settings, child: *mut task_struct) {
    if label::leader(child) != child {
        return;
    }
    let own = label::current_label();
    // SAFETY: checked for null; both point to task storage.
    unsafe {
        let (mut flags, shadow) = if own.is_null() { (0, 0) } else { ((*own).flags & !DOOR, (*own).shadow) };
        if scope::is_inside(settings) {
            flags |= IN_SCOPE;
        }
        if flags == 0 {
            return;
        }
        let label = label::make(child);
        if !label.is_null() {
            (*label).flags = flags;
            (*label).shadow = shadow;
        }
    }
}
