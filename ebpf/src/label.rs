//! Labels of the current task: its own, else its thread group's.
//!
//! Fork copies a label to threads too. Tasks that ran before the programs were attached get theirs
//! from user space, which can only name thread group leaders.

use aya_ebpf::bindings::task_struct;
use lazaret_common::label::Label;

use crate::kernel::{current, offset};
use crate::maps::LABELS;

#[inline(always)]
pub fn leader(task: *mut task_struct) -> *mut task_struct {
    // SAFETY: a typed kernel pointer; the verifier checks that the offset is a task's, and the
    // load faults softly.
    unsafe { *task.cast::<u8>().add(offset!(task_group_leader) as usize).cast::<*mut task_struct>() }
}

/// Null if the current task has none.
#[inline(always)]
pub fn current_label() -> *mut Label {
    let task = current();
    let own = LABELS.get(task);
    if !own.is_null() {
        return own;
    }
    let leader = leader(task);
    if leader.is_null() {
        return core::ptr::null_mut();
    }
    LABELS.get(leader)
}

#[inline(always)]
pub fn flags() -> u32 {
    let label = current_label();
    // SAFETY: not null, so it points to this task's storage.
    if label.is_null() { 0 } else { unsafe { (*label).flags } }
}

/// The label of `task`, made if there is none; null if the kernel has no memory for it.
#[inline(always)]
pub fn make(task: *mut task_struct) -> *mut Label {
    LABELS.get_or_create(task)
}
