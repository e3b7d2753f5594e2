//! Working memory per CPU: a kernel program has 512 bytes of stack.
//!
//! Programs that can be preempted by one another must not share a slot; the kernel itself skips
//! a second run of the same program on a CPU.

use lazaret_common::event::Event;
use lazaret_common::mcp::Parser;

use crate::argv::Words;
use crate::catalogue::Walk;
use crate::connect_send::Sending;
use crate::iov::Input;
use crate::maps::SCRATCH;
use crate::mark::{Mark, Readers};
use crate::names::Names;
use crate::path::PathWalk;
use crate::syscall::memory::Segments;
use crate::syscall::pending::Pending;
use crate::trust::Environment;

pub const EXEC: u32 = 0;
pub const WRITE: u32 = 1;
pub const READ: u32 = 2;
pub const CONNECT: u32 = 3;
pub const UNIX_WRITE: u32 = 4;
pub const UNIX_READ: u32 = 5;
pub const JUDGE: u32 = 6;
pub const UNIX_CONNECT: u32 = 7;
pub const SEND: u32 = 8;
pub const FIFO_WRITE: u32 = 9;
pub const FIFO_READ: u32 = 10;
pub const PACKET_WRITE: u32 = 11;
pub const PACKET_READ: u32 = 12;
pub const SPLICE: u32 = 13;
pub const TEE: u32 = 14;
pub const FROM_PIPE: u32 = 15;
pub const TERMINAL_WRITE: u32 = 16;
pub const TERMINAL_READ: u32 = 17;
pub const SLOTS: usize = 18;

#[repr(C)]
pub struct Scratch {
    pub event: Event,
    pub words: Words,
    pub walk: Walk,
    pub names: Names,
    pub environment: Environment,
    pub path: PathWalk,
    pub input: Input,
    pub parser: Parser,
    pub mark: Mark,
    /// Those that `mark` is compared with.
    pub others: Readers,
    pub sending: Sending,
    /// A copy of user memory's segments.
    pub segments: Segments,
    pub pending: Pending,
    /// Where the walk over the ancestors stands.
    pub cursor: u64,
    /// Which slot it is: what a global function is called with, so that it has a pointer into the map to work with.
    /// 6.1 takes no key from memory that it only knows as an argument.
    pub slot: u64,
    /// A kernfs name or a socket path.
    pub name: [u8; 128],
}

#[inline(always)]
pub fn slot(index: u32) -> Option<*mut Scratch> {
    let scratch = SCRATCH.get_ptr_mut(index)?;
    // SAFETY: this CPU's slot.
    unsafe { (*scratch).slot = index as u64 };
    Some(scratch)
}
