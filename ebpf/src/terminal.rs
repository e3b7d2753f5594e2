//! Pseudo terminals as stdio: a client writes to the master, the server reads the slave.
//!
//! The other direction is what programs print, and the echo: nobody is judged by that. What a slave's reader has
//! got is not looked at either: terminals are typed at.

use aya_ebpf::macros::{fentry, fexit};
use aya_ebpf::programs::{FEntryContext, FExitContext};
use lazaret_common::hook::Hook;

use crate::channel;
use crate::kernel::{argument, at_most, offset, pointer, read};
use crate::maps::fired;
use crate::{ends, handshake, iov, scope, scratch};

/// `PTY_TYPE_MASTER` in include/linux/tty_driver.h.
const MASTER: u16 = 1;

/// `pty_write(tty, buf, c)`; the bytes are in kernel memory.
#[fentry(function = "pty_write")]
pub fn terminal_write(ctx: FEntryContext) -> i32 {
    fired(Hook::TerminalWrite);
    if scope::settings().is_none() {
        return 0;
    }
    let slave = slave_of(argument(&ctx, 0));
    if slave == 0 {
        return 0;
    }
    let Some(scratch) = scratch::slot(scratch::TERMINAL_WRITE) else { return 0 };
    // The upper half is undefined where the count is an `int` (before 6.6).
    let count = at_most(ctx.arg::<u64>(2) & 0x7fff_ffff, i32::MAX as u64);
    // SAFETY: scratch is this CPU's slot; kernel memory is read softly.
    unsafe {
        iov::at_kernel(scratch, argument(&ctx, 1), count);
        handshake::wrote(scratch, channel::of_terminal(slave));
    }
    0
}

/// `n_tty_read(tty, file, kbuf, nr, cookie, offset)`.
#[fexit(function = "n_tty_read")]
pub fn terminal_read(ctx: FExitContext) -> i32 {
    fired(Hook::TerminalRead);
    let count: i64 = ctx.arg(6);
    let tty = argument(&ctx, 0);
    if count <= 0 || !channel::may_be_noted(tty) {
        return 0;
    }
    let Some(settings) = scope::settings() else { return 0 };
    let Some(scratch) = scratch::slot(scratch::TERMINAL_READ) else { return 0 };
    // SAFETY: scratch is this CPU's slot.
    unsafe { handshake::obeys(settings, scratch, channel::of_terminal(tty), count as u64) };
    0
}

/// `pty_close(tty, file)`: the slave's memory will be another terminal's, which must not inherit the mark.
#[fentry(function = "pty_close")]
pub fn terminal_end(ctx: FEntryContext) -> i32 {
    fired(Hook::TerminalEnd);
    let slave = slave_of(argument(&ctx, 0));
    if slave != 0 {
        ends::forget(slave);
    }
    0
}

/// 0 if it is no master.
#[inline(always)]
fn slave_of(tty: u64) -> u64 {
    if read::<u16>(pointer(tty, offset!(tty_driver)), offset!(driver_subtype)) == Some(MASTER) {
        pointer(tty, offset!(tty_link))
    } else {
        0
    }
}
