//! exec: judged after the point of no return, before the new image runs its first instruction.
//!
//! The argv is read from the new image's own memory, where no other thread can have changed it.

use aya_ebpf::bindings::task_struct;
use aya_ebpf::macros::{btf_tracepoint, fentry};
use aya_ebpf::programs::{BtfTracePointContext, FEntryContext};
use lazaret_common::catalogue::{CLIENT as IS_CLIENT, SERVER as IS_SERVER};
use lazaret_common::event::{CLIENT, OBSERVED, SPAWN};
use lazaret_common::hook::Hook;
use lazaret_common::label::{
    APPROVED, CLEARED, CLIENT as BELOW_CLIENT, FLAGGED, HELD, IN_SCOPE, OF_THE_IMAGE, TRUSTED,
};
use lazaret_common::settings::{CATALOGUE, CONFIG, Settings};

use crate::kernel::{current, offset, pointer};
use crate::maps::{LABELS, fired};
use crate::scratch::{self, Scratch};
use crate::{argv, catalogue, entries, event, grant, label, names, scope, trust, verdict};

/// Linux 5.5 (`bpf_send_signal` 5.3, task storage in tracing programs 5.11, `bpf_loop` 5.17).
#[btf_tracepoint(function = "sched_process_exec")]
pub fn exec(ctx: BtfTracePointContext) -> i32 {
    fired(Hook::Exec);
    let Some(settings) = scope::settings() else { return 0 };
    let bprm: *const u8 = ctx.arg(2);
    // SAFETY: kernel memory is read softly, scratch is this CPU's slot.
    unsafe { judge(settings, bprm) };
    0
}

/// Linux 6.10. Before the kernel ends the other threads (`de_thread` in fs/exec.c).
#[btf_tracepoint(function = "sched_prepare_exec")]
pub fn prepare_exec(_: BtfTracePointContext) -> i32 {
    fired(Hook::PrepareExec);
    carry_over();
    0
}

/// Linux 5.8, where there is no tracepoint.
#[fentry(function = "begin_new_exec")]
pub fn prepare_exec_fentry(_: FEntryContext) -> i32 {
    fired(Hook::PrepareExecFentry);
    carry_over();
    0
}

/// The thread that executes a program takes its leader's place, and the leader's label would go with the leader.
#[inline(always)]
fn carry_over() {
    let task = current();
    let leader = label::leader(task);
    if leader == task || leader.is_null() {
        return;
    }
    let theirs = LABELS.get(leader);
    if theirs.is_null() {
        return;
    }
    let own = label::make(task);
    if !own.is_null() {
        // SAFETY: storage of two live tasks.
        unsafe { *own = *theirs };
    }
}

#[inline(always)]
unsafe fn judge(settings: &Settings, bprm: *const u8) {
    let task = current();
    let Some(scratch) = scratch::slot(scratch::EXEC) else { return };
    let mm = pointer(task as u64, offset!(task_mm));
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let flags = relabel(scratch, task, bprm, mm, settings);
        if flags & CLEARED != 0 || !argv::take(scratch, mm) {
            return;
        }
        names::find(scratch, bprm);
        let head = &mut (*scratch).event.head;
        head.address_length = 0;
        head.address_family = 0;
        let (evidence, is_client) = evidence(scratch);
        if evidence != 0 {
            verdict::convict(scratch, settings, SPAWN, evidence);
        } else if is_client {
            client(scratch, flags);
        }
    }
}

/// What the argv in the event convicts of, and whether it is an MCP client's. Its words must have been found.
#[inline(always)]
pub unsafe fn evidence(scratch: *mut Scratch) -> (u8, bool) {
    let mut evidence = 0;
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        (*scratch).event.head.config_entry = 0;
        if entries::matches(scratch) {
            evidence |= 1 << CONFIG;
        }
        let mut found = catalogue::judge(scratch);
        if found == 0 && evidence == 0 {
            match names::judge_others(scratch) {
                0 => {}
                IS_SERVER => found = IS_SERVER,
                _ => evidence |= 1 << CONFIG,
            }
        }
        if found == IS_SERVER {
            evidence |= 1 << CATALOGUE;
        }
        (evidence, found == IS_CLIENT)
    }
}

/// What the new image keeps and gets; returns the label's flags.
#[inline(always)]
unsafe fn relabel(scratch: *mut Scratch, task: *mut task_struct, bprm: *const u8, mm: u64, settings: &Settings) -> u32 {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let mut gets = trust::label_of(scratch, task, bprm, mm);
        if settings.grants != 0 && gets & TRUSTED == 0 && grant::take(scratch, task) {
            gets |= APPROVED;
        }
        // Also what was put into the scope's cgroup from outside is born in it here.
        if scope::is_inside(settings) {
            gets |= IN_SCOPE;
        }
        let own = LABELS.get(task);
        if own.is_null() && gets == 0 {
            return 0;
        }
        let own = if own.is_null() { label::make(task) } else { own };
        if own.is_null() {
            return gets;
        }
        let mut flags = (*own).flags & !(OF_THE_IMAGE | HELD) | gets;
        if gets & APPROVED != 0 {
            flags &= !FLAGGED;
            (*own).shadow = 0;
            (*own).told = 0;
        }
        (*own).flags = flags;
        flags
    }
}

/// A client is no shadow: user space hears of it once, to read its configs.
#[inline(always)]
unsafe fn client(scratch: *mut Scratch, flags: u32) {
    if flags & BELOW_CLIENT != 0 {
        return;
    }
    let own = label::make_current();
    if !own.is_null() {
        // SAFETY: not null.
        unsafe { (*own).flags |= BELOW_CLIENT };
    }
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let head = &mut (*scratch).event.head;
        head.kind = CLIENT;
        head.evidence = 0;
        head.action = OBSERVED;
        head.shadow = 0;
        event::send(scratch);
    }
}
