//! fork and clone: the child gets the label of the task that made it.

use aya_ebpf::bindings::task_struct;
use aya_ebpf::macros::{btf_tracepoint, lsm};
use aya_ebpf::programs::{BtfTracePointContext, LsmContext};
use lazaret_common::hook::Hook;
use lazaret_common::label::IN_SCOPE;
use lazaret_common::settings::Settings;

use crate::maps::{SETTINGS, fired};
use crate::{label, scope};

/// Linux 5.5. Misses io_uring's workers; their leader's label stands for them.
#[btf_tracepoint(function = "sched_process_fork")]
pub fn fork(ctx: BtfTracePointContext) -> i32 {
    fired(Hook::Fork);
    if let Some(settings) = SETTINGS.get(0) {
        inherit(settings, ctx.arg(1));
    }
    0
}

/// Linux 5.7, `bpf` in the LSM list. Sees every task that is made.
#[lsm(hook = "task_alloc")]
pub fn task_alloc(ctx: LsmContext) -> i32 {
    fired(Hook::TaskAlloc);
    let ret: i32 = ctx.arg(2);
    if ret != 0 {
        return ret;
    }
    if let Some(settings) = SETTINGS.get(0) {
        inherit(settings, ctx.arg(0));
    }
    0
}

#[inline(always)]
fn inherit(settings: &Settings, child: *mut task_struct) {
    let own = label::current_label();
    // SAFETY: checked for null; both point to task storage.
    unsafe {
        let (mut flags, shadow) = if own.is_null() { (0, 0) } else { ((*own).flags, (*own).shadow) };
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
