//! The hooks on pipes, FIFOs and UNIX sockets.
//!
//! Each has a slot of its own in the scratch space: a kernel that preempts may run one inside of another.

use aya_ebpf::macros::{fentry, fexit};
use aya_ebpf::programs::{FEntryContext, FExitContext};
use lazaret_common::hook::Hook;

use crate::channel::{self, Channel};
use crate::kernel::offset;
use crate::maps::fired;
use crate::{handshake, iov, mark, scope, scratch};

const MSG_PEEK: u32 = 2;
/// A buffer that ends in the middle gets its first bytes, and the message stays where it is.
const EFAULT: i64 = 14;

#[fentry(function = "pipe_write")]
pub fn pipe_write(ctx: FEntryContext) -> i32 {
    fired(Hook::PipeWrite);
    pipe_written(&ctx, scratch::WRITE)
}

/// Since about 6.15, beside `anon_pipe_write`.
#[fentry(function = "fifo_pipe_write")]
pub fn fifo_write(ctx: FEntryContext) -> i32 {
    fired(Hook::FifoWrite);
    pipe_written(&ctx, scratch::FIFO_WRITE)
}

#[fentry(function = "unix_stream_sendmsg")]
pub fn unix_send(ctx: FEntryContext) -> i32 {
    fired(Hook::UnixSend);
    socket_written(&ctx, scratch::UNIX_WRITE)
}

/// Until 6.5: pages of a file, by `sendfile` or `splice`.
#[fentry(function = "unix_stream_sendpage")]
pub fn unix_send_page(ctx: FEntryContext) -> i32 {
    fired(Hook::UnixSendPage);
    let channel = channel::of_writer(ctx.arg(0));
    if channel.key == 0 || scope::settings().is_none() {
        return 0;
    }
    let Some(scratch) = scratch::slot(scratch::SPLICE) else { return 0 };
    // SAFETY: scratch is this CPU's slot.
    unsafe { mark::feed(scratch, channel) };
    0
}

/// Also what is sent to a `SOCK_SEQPACKET` socket. Only to a peer: nobody's stdio is unconnected.
#[fentry(function = "unix_dgram_sendmsg")]
pub fn packet_send(ctx: FEntryContext) -> i32 {
    fired(Hook::PacketSend);
    socket_written(&ctx, scratch::PACKET_WRITE)
}

#[fexit(function = "pipe_read")]
pub fn pipe_read(ctx: FExitContext) -> i32 {
    fired(Hook::PipeRead);
    pipe_was_read(&ctx, scratch::READ)
}

/// Since about 6.15, beside `anon_pipe_read`.
#[fexit(function = "fifo_pipe_read")]
pub fn fifo_read(ctx: FExitContext) -> i32 {
    fired(Hook::FifoRead);
    pipe_was_read(&ctx, scratch::FIFO_READ)
}

#[fexit(function = "unix_stream_recvmsg")]
pub fn unix_recv(ctx: FExitContext) -> i32 {
    fired(Hook::UnixRecv);
    socket_was_read(&ctx, scratch::UNIX_READ, channel::of_reader(ctx.arg(0)))
}

/// Also what is received from a `SOCK_SEQPACKET` socket.
#[fexit(function = "__unix_dgram_recvmsg")]
pub fn packet_recv(ctx: FExitContext) -> i32 {
    fired(Hook::PacketRecv);
    // By way of the socket, to have a number and not a typed pointer.
    let sock: *const u8 = ctx.arg(0);
    let socket = crate::kernel::pointer(sock as u64, offset!(sk_socket));
    socket_was_read(&ctx, scratch::PACKET_READ, channel::of_sock(crate::kernel::pointer(socket, offset!(socket_sk))))
}

#[inline(always)]
fn pipe_written(ctx: &FEntryContext, slot: u32) -> i32 {
    if scope::settings().is_some() {
        writes(slot, channel::of_pipe(ctx.arg(0)), ctx.arg(1));
    }
    0
}

#[inline(always)]
fn socket_written(ctx: &FEntryContext, slot: u32) -> i32 {
    if scope::settings().is_some() {
        writes(slot, channel::of_writer(ctx.arg(0)), inside(ctx.arg(1), offset!(msghdr_iter)));
    }
    0
}

#[inline(always)]
fn pipe_was_read(ctx: &FExitContext, slot: u32) -> i32 {
    reads(slot, channel::of_pipe(ctx.arg(0)), ctx.arg(1), ctx.arg::<i64>(2), true);
    0
}

#[inline(always)]
fn socket_was_read(ctx: &FExitContext, slot: u32, channel: Channel) -> i32 {
    // Behind the four arguments stands what the function returned.
    let count = ctx.arg::<i32>(4) as i64;
    let takes = ctx.arg::<u32>(3) & MSG_PEEK == 0;
    reads(slot, channel, inside(ctx.arg(1), offset!(msghdr_iter)), count, takes);
    0
}

#[inline(always)]
fn inside(base: *const u8, offset: u32) -> *const u8 {
    base.wrapping_add(offset as usize)
}

#[inline(always)]
fn writes(slot: u32, channel: Channel, iter: *const u8) {
    let Some(scratch) = scratch::slot(slot) else { return };
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        if channel.key == 0 {
            return;
        }
        if iov::written(scratch, iter) {
            handshake::wrote(scratch, channel);
        } else {
            // Pages of a file, by `sendfile` or `splice`.
            mark::feed(scratch, channel);
        }
    }
}

#[inline(always)]
fn reads(slot: u32, channel: Channel, iter: *const u8, count: i64, takes: bool) {
    if channel.key == 0 || count <= 0 && count != -EFAULT {
        return;
    }
    let Some(settings) = scope::settings() else { return };
    let Some(scratch) = scratch::slot(slot) else { return };
    let got = if count > 0 { count as u64 } else { 0 };
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let goes_on = handshake::obeys(settings, scratch, channel, if takes { got } else { 0 });
        if goes_on && got != 0 && iov::filled(scratch, iter, got) {
            handshake::look(settings, scratch, channel, takes);
        }
    }
}
