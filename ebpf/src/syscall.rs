//! Handshake evidence where functions cannot be hooked: what system calls write to and read from pipes,
//! FIFOs and terminals (sockets have tracepoints of their own).
//!
//! The two programs cost every system call of the host, so that user space attaches them only while a
//! candidate is open. What a call reads is looked at when it ends: a signal that is sent there is
//! delivered before the reader runs in user mode again.

mod candidate;
mod engine;
pub mod file;
pub mod memory;
mod number;
pub mod pending;
mod ring;
mod socket;

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use lazaret_common::hook::Hook;
use lazaret_common::settings::Settings;
use lazaret_common::watch::{Call, PIPE, SOCKET};

use crate::channel::{self, Channel};
use crate::kernel::{current, field, offset, pointer};
use crate::maps::{CALLS, CHANNELS, TALKED, WATCH, fired};
use crate::{handshake, mark, scope, scratch};
use file::Open;
use memory::Source;
use number::{FEEDS, Kind, MOVES, READS, WRITES};

/// `thread_info::status`: the task is in a 32-bit system call.
const TS_COMPAT: u32 = 2;
const FMODE_READ: u32 = 1;
const EFAULT: i64 = 14;
const FMODE_WRITE: u32 = 2;

/// The arguments of a system call. 64-bit ones are in other registers than 32-bit ones.
#[derive(Clone, Copy)]
pub struct Arguments {
    pub number: u64,
    pub compat: bool,
    pub first: u64,
    pub second: u64,
    pub third: u64,
}

/// Linux 5.5 (task storage in tracing programs 5.11, `bpf_loop` 5.17).
#[btf_tracepoint(function = "sys_enter")]
pub fn sys_enter(ctx: BtfTracePointContext) -> i32 {
    let number: u64 = ctx.arg(1);
    let compat = is_compat();
    let kind = number::of(number, compat);
    if kind.does & (READS | WRITES | MOVES | FEEDS) == 0 {
        return 0;
    }
    fired(Hook::SysEnter);
    if scope::settings().is_none() {
        return 0;
    }
    let Some(looks) = looks() else { return 0 };
    let arguments = typed(ctx.arg(0), number, compat);
    let open = Open::of(arguments.first);
    if kind.does & (READS | MOVES) != 0 {
        note(number, open, looks);
    }
    if kind.does & WRITES != 0 && open.kind & looks & (PIPE | SOCKET) != 0 {
        write(kind, &arguments, open);
    }
    if kind.does & FEEDS != 0 {
        // `sendfile` names where to first, `splice` where from; from a channel it moves what is known there.
        match kind.does & MOVES {
            0 => feed(open),
            _ if open.kind == 0 => feed(Open::of(arguments.third)),
            _ => {}
        }
    }
    0
}

/// As [`sys_enter`].
#[btf_tracepoint(function = "sys_exit")]
pub fn sys_exit(ctx: BtfTracePointContext) -> i32 {
    let result: i64 = ctx.arg(1);
    // A buffer that ends in the middle gets its first bytes, and the message stays where it is.
    if result <= 0 && result != -EFAULT {
        return 0;
    }
    let registers: *const u8 = ctx.arg(0);
    let number: u64 = field(registers, offset!(regs_number));
    let compat = is_compat();
    let kind = number::of(number, compat);
    if kind.does & (READS | MOVES) == 0 {
        return 0;
    }
    fired(Hook::SysExit);
    let Some(settings) = scope::settings() else { return 0 };
    let Some(looks) = looks() else { return 0 };
    let arguments = typed(registers, number, compat);
    let open = noted(number).unwrap_or_else(|| Open::of(arguments.first));
    if open.kind & looks == 0 {
        return 0;
    }
    let result = if result < 0 { 0 } else { result as u64 };
    if kind.does & MOVES == 0 {
        read(kind, &arguments, open, result);
    } else if result != 0 {
        moved(settings, kind, &arguments, open, result);
    }
    0
}

#[inline(always)]
fn looks() -> Option<u32> {
    WATCH.get(0).map(|watch| watch.looks)
}

#[inline(always)]
fn is_compat() -> bool {
    let status: u32 = field(current().cast(), offset!(task_thread_info) + offset!(thread_status));
    status & TS_COMPAT != 0
}

/// Of a typed `struct pt_regs`.
#[inline(always)]
fn typed(registers: *const u8, number: u64, compat: bool) -> Arguments {
    if compat {
        let low = |offset| field::<u64>(registers, offset) & 0xffff_ffff;
        let (first, second, third) = (low(offset!(regs_bx)), low(offset!(regs_cx)), low(offset!(regs_dx)));
        return Arguments { number, compat, first, second, third };
    }
    let at = |offset| field::<u64>(registers, offset);
    let (first, second, third) = (at(offset!(regs_di)), at(offset!(regs_si)), at(offset!(regs_dx)));
    Arguments { number, compat, first, second, third }
}

/// Which file the call reads: another thread may put another one in its place before the call ends.
#[inline(always)]
fn note(number: u64, open: Open, looks: u32) {
    let call = CALLS.get_or_create(current());
    if call.is_null() {
        return;
    }
    // SAFETY: this thread's own storage.
    unsafe {
        (*call).number = number as u32 + 1;
        (*call).kind = open.kind & looks;
        (*call).file = open.file;
        (*call).key = open.key;
    }
}

/// `None`: the programs were attached while the call was running.
#[inline(always)]
fn noted(number: u64) -> Option<Open> {
    let call: *mut Call = CALLS.get(current());
    // SAFETY: checked for null; this thread's own storage.
    unsafe {
        if call.is_null() || (*call).number != number as u32 + 1 {
            return None;
        }
        (*call).number = 0;
        Some(Open { file: (*call).file, key: (*call).key, kind: (*call).kind })
    }
}

#[inline(always)]
fn write(kind: Kind, arguments: &Arguments, open: Open) {
    let channel = if open.kind == SOCKET { channel::of_peer(open.sock()) } else { open.channel() };
    let Some(scratch) = scratch::slot(scratch::WRITE) else { return };
    if channel.key == 0 || kind.is_vmsplice() && open.mode() & FMODE_WRITE == 0 {
        return;
    }
    // A FIFO keeps its inode while its pipes come and go, unseen here; in an empty one nothing is marked.
    if open.kind == PIPE && channel::may_be_noted(channel.key) && channel.backlog() == 0 {
        let _ = CHANNELS.remove(&channel.key);
    }
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        if memory::take(scratch, Source::of(kind.shape, arguments), u64::MAX) {
            pending::wrote(scratch, channel);
        }
    }
}

/// What comes out of a file by itself is nobody's message to the reader; see [`mark::feed`].
#[inline(always)]
fn feed(to: Open) {
    let channel = match to.kind {
        PIPE => to.channel(),
        SOCKET => channel::of_peer(to.sock()),
        _ => channel::NONE,
    };
    let Some(scratch) = scratch::slot(scratch::WRITE) else { return };
    if channel.key != 0 {
        // SAFETY: scratch is this CPU's slot.
        unsafe { mark::feed(scratch, channel) };
    }
}

#[inline(always)]
fn read(kind: Kind, arguments: &Arguments, open: Open, result: u64) {
    let Some(scratch) = scratch::slot(scratch::READ) else { return };
    if open.key == 0 || kind.is_vmsplice() && open.mode() & (FMODE_READ | FMODE_WRITE) != FMODE_READ {
        return;
    }
    talked();
    // Several messages are counted, not their bytes.
    let length = if kind.shape == number::MESSAGES { u64::MAX } else { result };
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let readable = result != 0 && memory::take(scratch, Source::of(kind.shape, arguments), length);
        pending::was_read(scratch, open.channel(), readable);
    }
}

/// `splice` and `tee`: who moves a message has it, and so has who reads the other end.
#[inline(always)]
fn moved(settings: &Settings, kind: Kind, arguments: &Arguments, from: Open, result: u64) {
    let channel = from.channel();
    if channel.key == 0 || !channel::may_be_noted(channel.key) {
        return;
    }
    talked();
    let Some(scratch) = scratch::slot(scratch::READ) else { return };
    let to = Open::of(if kind.is_tee() { arguments.second } else { arguments.third });
    let reader = match to.kind {
        PIPE => to.channel(),
        SOCKET => channel::of_peer(to.sock()),
        _ => channel::NONE,
    };
    // SAFETY: scratch is this CPU's slot.
    unsafe { handshake::moves(settings, scratch, channel, reader, if kind.is_tee() { 0 } else { result }, true) };
}

/// Remembers when the process first read something: a handshake is among the first things.
#[inline(always)]
fn talked() {
    let group = file::group();
    if TALKED.get_ptr(&group).is_none() {
        // SAFETY: no pointers.
        let now = unsafe { bpf_ktime_get_boot_ns() };
        let _ = TALKED.insert(&group, &now, 0); // full: it counts as one that has not talked
    }
}

impl Open {
    /// The channel that is read through it.
    #[inline(always)]
    fn channel(&self) -> Channel {
        if self.kind == SOCKET { channel::of_sock(self.sock()) } else { channel::of_file(self.file, self.key) }
    }

    #[inline(always)]
    fn sock(&self) -> u64 {
        pointer(self.key, offset!(socket_sk))
    }
}
