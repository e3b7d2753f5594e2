//! UNIX sockets: the kernel says how much a socket has sent and received, in the task that did it.
//!
//! The bytes are found by the arguments of the system call that the task is in. What io_uring moves has
//! none; its reader is caught by the mark, or by [`super::ring`].

use aya_ebpf::helpers::generated::bpf_task_pt_regs;
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use lazaret_common::hook::Hook;

use super::memory::{self, Source};
use super::number::{self, READS, WRITES};
use super::{Arguments, engine, is_compat, pending};
use crate::kernel::{current, field, offset, pointer};
use crate::maps::fired;
use crate::{channel, scope, scratch};

const AF_UNIX: u16 = 1;
/// A buffer that ends in the middle gets its first bytes, and the message stays where it is.
const EFAULT: i32 = 14;

/// Linux 6.3. The message stands in the socket already; who reads it meanwhile is judged by what it reads.
#[btf_tracepoint(function = "sock_send_length")]
pub fn socket_sent(ctx: BtfTracePointContext) -> i32 {
    let result: i32 = ctx.arg(1);
    if result <= 0 || family(ctx.arg(0)) != AF_UNIX {
        return 0;
    }
    fired(Hook::SocketSent);
    let Some(settings) = scope::settings() else { return 0 };
    let channel = channel::of_peer(ctx.arg(0));
    engine::sent(settings, channel.key);
    let Some(arguments) = arguments(WRITES) else { return 0 };
    let kind = number::of(arguments.number, arguments.compat);
    let Some(scratch) = scratch::slot(scratch::UNIX_WRITE) else { return 0 };
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        if channel.key != 0 && memory::take(scratch, Source::of(kind.shape, &arguments), result as u64) {
            pending::wrote(scratch, channel);
        }
    }
    0
}

/// Linux 6.3.
#[btf_tracepoint(function = "sock_recv_length")]
pub fn socket_received(ctx: BtfTracePointContext) -> i32 {
    let result: i32 = ctx.arg(1);
    if result <= 0 && result != -EFAULT || family(ctx.arg(0)) != AF_UNIX {
        return 0;
    }
    fired(Hook::SocketReceived);
    if scope::settings().is_none() {
        return 0;
    }
    // By way of the socket, to have a number and not a typed pointer.
    let sock = pointer(pointer(ctx.arg(0), offset!(sk_socket)), offset!(socket_sk));
    let Some(scratch) = scratch::slot(scratch::UNIX_READ) else { return 0 };
    if sock == 0 {
        return 0;
    }
    let arguments = arguments(READS);
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let readable = result > 0
            && arguments.is_some_and(|arguments| {
                let kind = number::of(arguments.number, arguments.compat);
                memory::take(scratch, Source::of(kind.shape, &arguments), result as u64)
            });
        pending::was_read(scratch, channel::of_sock(sock), readable);
    }
    0
}

#[inline(always)]
fn family(sock: *const u8) -> u16 {
    field(sock, offset!(sk_common) + offset!(common_family))
}

/// Those of the system call that the current task is in, if it is one that `does` this.
#[inline(always)]
fn arguments(does: u32) -> Option<Arguments> {
    // SAFETY: the current task is a task.
    let registers = unsafe { bpf_task_pt_regs(current()) } as u64;
    let number = pointer(registers, offset!(regs_number));
    let compat = is_compat();
    if number::of(number, compat).does & does == 0 {
        return None;
    }
    let at = |wide, narrow| {
        if compat { pointer(registers, narrow) & 0xffff_ffff } else { pointer(registers, wide) }
    };
    Some(Arguments {
        number,
        compat,
        first: at(offset!(regs_di), offset!(regs_bx)),
        second: at(offset!(regs_si), offset!(regs_cx)),
        third: pointer(registers, offset!(regs_dx)),
    })
}
