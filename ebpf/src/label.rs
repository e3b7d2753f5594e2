//! The label of a process: of the current task's thread group.
//!
//! It lives on the group's leader, so that all threads have one and the same, user space can reach it by a
//! pidfd, and a thread that was not there when it was given has it all the same. Where another thread than
//! the leader executes a program, that thread becomes the leader; [`crate::exec`] carries the label over.

use aya_ebpf::bindings::task_struct;
use lazaret_common::label::{HELD, Label, RELEASED};

use crate::kernel::{current, offset};
use crate::maps::LABELS;

#[inline(always)]
pub fn leader(task: *mut task_struct) -> *mut task_struct {
    // SAFETY: a typed kernel pointer; the verifier checks that the offset is a task's, and the
    // load faults softly.
    unsafe { *task.cast::<u8>().add(offset!(task_group_leader) as usize).cast::<*mut task_struct>() }
}

/// Null if the current process has none.
#[inline(always)]
pub fn current_label() -> *mut Label {
    of(current())
}

/// The label of the process that `task` is a thread of; null if it has none.
#[inline(always)]
pub fn of(task: *mut task_struct) -> *mut Label {
    let leader = leader(task);
    if leader.is_null() {
        return core::ptr::null_mut();
    }
    LABELS.get(leader)
}

#[inline(always)]
pub fn flags() -> u32 {
    let label = current_label();
    // SAFETY: not null, so it points to this process's storage.
    if label.is_null() { 0 } else { unsafe { (*label).flags } }
}

/// The current process is held and nobody has decided yet.
#[inline(always)]
pub fn is_held() -> bool {
    flags() & (HELD | RELEASED) == HELD
}

/// The label of the current process, made if there is none; null if the kernel has no memory for it.
#[inline(always)]
pub fn make_current() -> *mut Label {
    let leader = leader(current());
    if leader.is_null() {
        return core::ptr::null_mut();
    }
    make(leader)
}

/// The label of `leader`, made if there is none; null if the kernel has no memory for it.
#[inline(always)]
pub fn make(leader: *mut task_struct) -> *mut Label {
    LABELS.get_or_create(leader)
}
