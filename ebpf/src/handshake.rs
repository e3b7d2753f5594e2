//! Handshake evidence: an MCP message in a pipe, FIFO or UNIX socket, and who reads it.
//!
//! The writer's side marks the channel, because an honest client writes a whole message while a
//! reader may take it byte by byte. The reader's side acts on the mark, and on what it sees itself.
//! The signal is delivered before the reader's system call returns: it never sees the message.
//! Linux 5.17; reads and writes of anything else cost nothing.

use aya_ebpf::macros::{fentry, fexit};
use aya_ebpf::programs::{FEntryContext, FExitContext};
use lazaret_common::event::HANDSHAKE as KIND;
use lazaret_common::hook::Hook;
use lazaret_common::label::{CLEARED, INERT};
use lazaret_common::mcp::Parser;
use lazaret_common::settings::{HANDSHAKE, Settings};

use crate::channel::{self, Channel, Mark, Partial, PartialKey, READING, WRITING};
use crate::kernel::{current, offset, pointer};
use crate::maps::{CHANNELS, PARTIALS, fired};
use crate::scratch::{self, Scratch};
use crate::{argv, iov, label, scope, verdict};

#[fentry(function = "pipe_write")]
pub fn pipe_write(ctx: FEntryContext) -> i32 {
    fired(Hook::PipeWrite);
    pipe_written(&ctx)
}

/// Since about 6.15, beside `anon_pipe_write`.
#[fentry(function = "fifo_pipe_write")]
pub fn fifo_write(ctx: FEntryContext) -> i32 {
    fired(Hook::FifoWrite);
    pipe_written(&ctx)
}

#[fentry(function = "unix_stream_sendmsg")]
pub fn unix_send(ctx: FEntryContext) -> i32 {
    fired(Hook::UnixSend);
    if scope::settings().is_none() {
        return 0;
    }
    let iter = inside(ctx.arg(1), offset!(msghdr_iter));
    writes(scratch::UNIX_WRITE, channel::of_writer(ctx.arg(0)), iter)
}

#[fexit(function = "pipe_read")]
pub fn pipe_read(ctx: FExitContext) -> i32 {
    fired(Hook::PipeRead);
    pipe_was_read(&ctx)
}

/// Since about 6.15, beside `anon_pipe_read`.
#[fexit(function = "fifo_pipe_read")]
pub fn fifo_read(ctx: FExitContext) -> i32 {
    fired(Hook::FifoRead);
    pipe_was_read(&ctx)
}

#[fexit(function = "unix_stream_recvmsg")]
pub fn unix_recv(ctx: FExitContext) -> i32 {
    fired(Hook::UnixRecv);
    let Some(settings) = scope::settings() else { return 0 };
    // Behind the four arguments stands what the function returned.
    let count = ctx.arg::<i32>(4) as i64;
    let iter = inside(ctx.arg(1), offset!(msghdr_iter));
    reads(settings, scratch::UNIX_READ, channel::of_reader(ctx.arg(0)), iter, count)
}

#[inline(always)]
fn pipe_written(ctx: &FEntryContext) -> i32 {
    if scope::settings().is_none() {
        return 0;
    }
    writes(scratch::WRITE, channel::of_pipe(ctx.arg(0)), ctx.arg(1))
}

#[inline(always)]
fn pipe_was_read(ctx: &FExitContext) -> i32 {
    let Some(settings) = scope::settings() else { return 0 };
    let count = ctx.arg::<i64>(2);
    reads(settings, scratch::READ, channel::of_pipe(ctx.arg(0)), ctx.arg(1), count)
}

#[inline(always)]
fn inside(base: *const u8, offset: u32) -> *const u8 {
    base.wrapping_add(offset as usize)
}

#[inline(always)]
fn writes(slot: u32, channel: Channel, iter: *const u8) -> i32 {
    let Some(scratch) = scratch::slot(slot) else { return 0 };
    if channel.key == 0 {
        return 0;
    }
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let noted = channel::may_be_noted(channel.key);
        if !iov::written(scratch, iter) || !noted && !iov::may_be_json(scratch) {
            return 0;
        }
        if is_mcp(scratch, channel, WRITING, noted) {
            let mark = Mark { inode: channel.inode(), writer: 0, reserved: 0 };
            if CHANNELS.insert(&channel.key, &mark, 0).is_ok() {
                channel::note(channel.key);
            }
        }
    }
    0
}

#[inline(always)]
fn reads(settings: &Settings, slot: u32, channel: Channel, iter: *const u8, count: i64) -> i32 {
    if count <= 0 || channel.key == 0 {
        return 0;
    }
    let Some(scratch) = scratch::slot(slot) else { return 0 };
    let noted = channel::may_be_noted(channel.key);
    let marked = noted && take_mark(channel);
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        if !marked {
            let readable = iov::filled(scratch, iter, count as u64);
            if !readable || !noted && !iov::may_be_json(scratch) {
                return 0;
            }
        }
        if label::flags() & (CLEARED | INERT) != 0 {
            return 0;
        }
        if marked || is_mcp(scratch, channel, READING, noted) {
            convict(scratch, settings);
        }
    }
    0
}

/// One message, one reader: an approved one consumes the mark.
#[inline(always)]
fn take_mark(channel: Channel) -> bool {
    let Some(mark) = CHANNELS.get_ptr(&channel.key) else { return false };
    // SAFETY: read at once.
    let inode = unsafe { (*mark).inode };
    let _ = CHANNELS.remove(&channel.key);
    forget(channel);
    inode == 0 || inode == channel.inode()
}

/// Clears the note if nothing is kept about the channel any more.
#[inline(always)]
fn forget(channel: Channel) {
    let partial = |direction| PARTIALS.get_ptr(&PartialKey { channel: channel.key, direction }).is_some();
    if CHANNELS.get_ptr(&channel.key).is_none() && !partial(WRITING) && !partial(READING) {
        channel::forget(channel.key);
    }
}

/// Looks at one piece of what goes through the channel.
#[inline(always)]
unsafe fn is_mcp(scratch: *mut Scratch, channel: Channel, direction: u64, noted: bool) -> bool {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let key = PartialKey { channel: channel.key, direction };
        let open = noted && resume(scratch, channel, &key);
        if !open {
            if noted && !iov::may_be_json(scratch) {
                return false;
            }
            (*scratch).parser = Parser::NEW;
        }
        if !iov::is_suspicious(scratch) && !open {
            return false;
        }
        let found = iov::is_mcp(scratch);
        let s = &mut *scratch;
        if s.parser.is_open() && !found {
            let partial = Partial { inode: channel.inode(), parser: s.parser };
            if PARTIALS.insert(&key, &partial, 0).is_ok() && !open {
                channel::note(channel.key);
            }
        } else if open {
            let _ = PARTIALS.remove(&key);
            forget(channel);
        }
        found
    }
}

/// Goes on where the last piece of a message ended; `false` if it starts here.
#[inline(always)]
unsafe fn resume(scratch: *mut Scratch, channel: Channel, key: &PartialKey) -> bool {
    let Some(partial) = PARTIALS.get_ptr(key) else { return false };
    // SAFETY: scratch is this CPU's slot; the entry is read at once.
    unsafe {
        if (*partial).inode != channel.inode() {
            return false;
        }
        (*scratch).parser = (*partial).parser;
    }
    true
}

#[inline(always)]
unsafe fn convict(scratch: *mut Scratch, settings: &Settings) {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let head = &mut (*scratch).event.head;
        head.flags = 0;
        head.config_entry = 0;
        head.address_length = 0;
        head.address_family = 0;
        head.argv_length = 0;
        let task = current() as u64;
        argv::take(scratch, pointer(task, offset!(task_mm)));
        verdict::convict(scratch, settings, KIND, 1 << HANDSHAKE);
    }
}
