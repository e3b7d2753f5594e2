//! The beginning and the end of a channel: another one may get its memory, and must not inherit what is known of it.
//!
//! Most channels are told apart by their inode. A pipe that is named by itself has none at hand, a FIFO keeps its
//! inode while its pipes come and go, and so does a socket that nobody has accepted.

use aya_ebpf::macros::{fentry, fexit};
use aya_ebpf::programs::{FEntryContext, FExitContext};
use lazaret_common::hook::Hook;

use crate::channel::{self, PartialKey};
use crate::kernel::argument;
use crate::maps::{CHANNELS, FEEDS, PARTIALS, fired};

/// `alloc_pipe_info()`: not the end, which has no function of its own on every kernel.
#[fexit(function = "alloc_pipe_info")]
pub fn pipe_begin(ctx: FExitContext) -> i32 {
    fired(Hook::PipeBegin);
    let pipe: u64 = ctx.arg(0);
    if pipe != 0 {
        let _ = FEEDS.remove(&pipe);
        forget(pipe);
    }
    0
}

/// `unix_sock_destructor(sk)`.
#[fentry(function = "unix_sock_destructor")]
pub fn socket_end(ctx: FEntryContext) -> i32 {
    fired(Hook::SocketEnd);
    forget(argument(&ctx, 0));
    0
}

/// Whoever is in scope: the next one that gets the memory may be.
#[inline(always)]
pub fn forget(key: u64) {
    if channel::may_be_noted(key) {
        // What a writer has kept back ends with its process.
        let _ = CHANNELS.remove(&key);
        let _ = PARTIALS.remove(&PartialKey::of_reader(key));
        channel::forget(key);
    }
}
