//! A process as one of those who may read a message, or as one that carries it: by its pid and when it started. A pid is
//! used again, and a message may wait for longer than those live who may read it.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;

use crate::kernel::{current, offset};

/// The init process is everybody's ancestor.
const INIT: u32 = 1;
/// Odd, and as good as random (2^64 divided by the golden ratio).
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

/// Of the current task.
#[inline(always)]
pub fn own() -> u32 {
    let task = current() as u64;
    number(group(task), task)
}

/// Of the process that `task` is a thread of; 0 for init and for the kernel.
#[inline(always)]
pub fn of(task: u64) -> u32 {
    let group = group(task);
    if group <= INIT { 0 } else { number(group, task) }
}

#[inline(always)]
fn group(task: u64) -> u32 {
    softly(task, offset!(task_tgid))
}

/// Never 0, nor `mark::EVERYBODY`.
#[inline(always)]
fn number(group: u32, task: u64) -> u32 {
    // The leader's, which a thread that executes a program gets too (`de_thread` in fs/exec.c).
    let started: u64 = softly(softly(task, offset!(task_group_leader)), offset!(task_start_time));
    ((started ^ (group as u64) << 40).wrapping_mul(MIX) >> 33) as u32 | 1
}

/// 0 where it cannot be read, without a branch that the verifier would follow to the end of the program.
#[inline(always)]
fn softly<T: Copy>(base: u64, offset: u32) -> T {
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: the helper checks the source and fills the whole value, with zeros where that is bad; `T` is an integer.
    unsafe {
        bpf_probe_read_kernel(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            base.wrapping_add(offset as u64) as *const _,
        );
        value.assume_init()
    }
}
