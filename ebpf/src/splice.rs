//! Messages that are moved without being read: `splice`, `tee`, and `vmsplice` out of a pipe. io_uring's go the same way.
//!
//! Who moves a message out of its channel has it, and so has who reads it where it is moved to. The mark goes
//! there before the message does.

use aya_ebpf::macros::{fentry, fexit};
use aya_ebpf::programs::{FEntryContext, FExitContext};
use lazaret_common::hook::Hook;

use crate::channel;
use crate::kernel::argument;
use crate::maps::fired;
use crate::{handshake, mark, scope, scratch};

/// `do_splice(in, off_in, out, off_out, len, flags)`.
#[fentry(function = "do_splice")]
pub fn splices(ctx: FEntryContext) -> i32 {
    fired(Hook::Splices);
    moves(scratch::SPLICE, ctx.arg(0), ctx.arg(2), 0, false);
    0
}

#[fexit(function = "do_splice")]
pub fn spliced(ctx: FExitContext) -> i32 {
    fired(Hook::Spliced);
    let count: i64 = ctx.arg(6);
    if count > 0 {
        moves(scratch::SPLICE, ctx.arg(0), ctx.arg(2), count as u64, true);
    }
    0
}

/// `do_tee(in, out, len, flags)`.
#[fentry(function = "do_tee")]
pub fn tees(ctx: FEntryContext) -> i32 {
    fired(Hook::Tees);
    moves(scratch::TEE, ctx.arg(0), ctx.arg(1), 0, false);
    0
}

#[fexit(function = "do_tee")]
pub fn teed(ctx: FExitContext) -> i32 {
    fired(Hook::Teed);
    let count: i64 = ctx.arg(4);
    if count > 0 {
        moves(scratch::TEE, ctx.arg(0), ctx.arg(1), 0, true);
    }
    0
}

/// `__splice_from_pipe(pipe, sd, actor)`: what `vmsplice` copies to user memory goes through it, and through no
/// function that reads. What it is for else is seen in the hooks above.
#[fexit(function = "__splice_from_pipe")]
pub fn from_pipe(ctx: FExitContext) -> i32 {
    fired(Hook::FromPipe);
    let count: i64 = ctx.arg(3);
    if count <= 0 {
        return 0;
    }
    let Some(settings) = scope::settings() else { return 0 };
    let Some(scratch) = scratch::slot(scratch::FROM_PIPE) else { return 0 };
    let pipe = argument(&ctx, 0);
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        handshake::moves(settings, scratch, channel::of_pipe_itself(pipe), channel::NONE, 0, true);
    }
    0
}

/// `splice_file_to_pipe(in, pipe, offset, len, flags)`, also for `sendfile`: no program sees these bytes.
#[fentry(function = "splice_file_to_pipe")]
pub fn file_to_pipe(ctx: FEntryContext) -> i32 {
    fired(Hook::FileToPipe);
    if scope::settings().is_none() {
        return 0;
    }
    let Some(scratch) = scratch::slot(scratch::SPLICE) else { return 0 };
    let pipe = argument(&ctx, 1);
    // SAFETY: scratch is this CPU's slot.
    unsafe { mark::feed(scratch, channel::of_pipe_itself(pipe)) };
    0
}

#[inline(always)]
fn moves(slot: u32, from: *const u8, to: *const u8, count: u64, done: bool) {
    let Some(settings) = scope::settings() else { return };
    let Some(scratch) = scratch::slot(slot) else { return };
    let from = channel::of_end(from, false);
    if from.key == 0 {
        return;
    }
    // SAFETY: scratch is this CPU's slot.
    unsafe { handshake::moves(settings, scratch, from, channel::of_end(to, true), count, done) };
}
