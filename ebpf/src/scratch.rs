//! Working memory per CPU: a kernel program has 512 bytes of stack.
//!
//! Programs that can be preempted by one another must not share a slot; the kernel itself skips
//! a second run of the same program on a CPU.

use lazaret_common::event::Event;
use lazaret_common::mcp::Parser;

use crate::argv::Words;
use crate::catalogue::Walk;
use crate::iov::Input;
use crate::maps::SCRATCH;
use crate::path::PathWalk;

pub const EXEC: u32 = 0;
pub const WRITE: u32 = 1;
pub const READ: u32 = 2;
pub const CONNECT: u32 = 3;
pub const UNIX_WRITE: u32 = 4;
pub const UNIX_READ: u32 = 5;
pub const SLOTS: usize = 6;

#[repr(C)]
pub struct Scratch {
    pub event: Event,
    pub words: Words,
    pub walk: Walk,
    pub path: PathWalk,
    pub input: Input,
    pub parser: Parser,
    /// Where the walk over the ancestors stands.
    pub cursor: u64,
    /// A kernfs name or a socket path.
    pub name: [u8; 128],
}

#[inline(always)]
pub fn slot(index: u32) -> Option<*mut Scratch> {
    SCRATCH.get_ptr_mut(index)
}
