//! A held task stays held: whoever continues it, it is stopped again before it runs in user mode.
//!
//! A task that wakes from a stop looks for signals first, whoever woke it: `kill -CONT` of its owner, a
//! shell's `fg`, the kernel itself when the group of an ended parent is orphaned, a debugger. There it gets
//! the next SIGSTOP. Only user space that takes the label away lets it go on.

use aya_ebpf::helpers::generated::bpf_send_signal;
use aya_ebpf::macros::{btf_tracepoint, fentry};
use aya_ebpf::programs::{BtfTracePointContext, FEntryContext};
use lazaret_common::hook::Hook;
use lazaret_common::settings::SCOPE_NONE;

use crate::kernel::read;
use crate::label;
use crate::maps::{SETTINGS, fired};

const SIGCHLD: i32 = 17;
const SIGSTOP: u32 = 19;
/// `si_code` of the SIGCHLD that says that a child goes on.
const CLD_CONTINUED: i32 = 6;
/// Where `si_code` stands in `struct kernel_siginfo`: part of the system call interface.
const SI_CODE: u32 = 8;

/// Linux 5.17. Every task that goes back to user mode with a signal, or out of a stop, comes here.
#[fentry(function = "dequeue_signal")]
pub fn resumed(_: FEntryContext) -> i32 {
    fired(Hook::Resumed);
    stop_again();
    0
}

/// Linux 5.5, where functions cannot be hooked. A task that goes on tells its parent so, in its own
/// name, unless that one does not want to hear it.
#[btf_tracepoint(function = "signal_generate")]
pub fn signal_generate(ctx: BtfTracePointContext) -> i32 {
    fired(Hook::SignalGenerate);
    let signal: i32 = ctx.arg(0);
    if signal == SIGCHLD && read::<i32>(ctx.arg(1), SI_CODE) == Some(CLD_CONTINUED) {
        stop_again();
    }
    0
}

/// Linux 5.5, as above: a signal that is delivered to a held task.
#[btf_tracepoint(function = "signal_deliver")]
pub fn signal_deliver(ctx: BtfTracePointContext) -> i32 {
    fired(Hook::SignalDeliver);
    if ctx.arg::<i32>(0) != SIGSTOP as i32 {
        stop_again();
    }
    0
}

#[inline(always)]
pub fn stop_again() {
    // A daemon that was taken out of the kernel holds nothing any more.
    if SETTINGS.get(0).is_none_or(|settings| settings.scope == SCOPE_NONE) || !label::is_held() {
        return;
    }
    // SAFETY: no pointers. With interrupts off the signal is sent as soon as they are on again: before
    // the task is back in user mode.
    unsafe { bpf_send_signal(SIGSTOP) };
}
