//! What io_uring has read: its requests name no system call.

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use lazaret_common::hook::Hook;

use super::file::Open;
use super::memory::{self, Source};
use super::number::{BUFFER, MESSAGE, SEGMENTS};
use super::pending;
use crate::kernel::{offset, pointer, read};
use crate::maps::fired;
use crate::{scope, scratch};

/// `enum io_uring_op`: part of the system call interface.
const READV: u8 = 1;
const READ_FIXED: u8 = 4;
const RECVMSG: u8 = 10;
const READ: u8 = 22;
const RECV: u8 = 27;
const READ_MULTISHOT: u8 = 49;

/// Linux 5.17. Runs in the task that asked, or in one of its process's threads.
#[btf_tracepoint(function = "io_uring_complete")]
pub fn ring_complete(ctx: BtfTracePointContext) -> i32 {
    fired(Hook::RingComplete);
    let request: u64 = ctx.arg(1);
    let operation = read::<u8>(request, offset!(request_opcode)).unwrap_or(0);
    let (shape, address) = match operation {
        READV => (SEGMENTS, pointer(request, offset!(ring_read_address))),
        READ | READ_FIXED | READ_MULTISHOT => (BUFFER, pointer(request, offset!(ring_read_address))),
        RECVMSG => (MESSAGE, pointer(request, offset!(ring_receive_address))),
        RECV => (BUFFER, pointer(request, offset!(ring_receive_address))),
        _ => return 0,
    };
    let result = read::<i32>(ctx.arg(2), offset!(completion_result)).unwrap_or(0);
    if result <= 0 {
        return 0;
    }
    if scope::settings().is_none() {
        return 0;
    }
    let open = Open::of_file(pointer(request, offset!(request_file)));
    let Some(scratch) = scratch::slot(scratch::UNIX_READ) else { return 0 };
    if open.key == 0 {
        return 0;
    }
    // SAFETY: scratch is this CPU's slot. A buffer that the kernel chose is not found: then the mark decides.
    unsafe {
        let count = if shape == BUFFER { result as u64 } else { iov_count() };
        let readable = address != 0 && memory::take(scratch, Source::new(shape, address, count), result as u64);
        pending::was_read(scratch, open.channel(), readable);
    }
    0
}

/// As many as are ever looked at; entries behind the last one are not reached within the result's length.
#[inline(always)]
fn iov_count() -> u64 {
    crate::iov::SEGMENTS as u64
}
