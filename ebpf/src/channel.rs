//! Pipes, FIFOs and UNIX sockets: which of them hold an MCP message that nobody has read.

use lazaret_common::mcp::Parser;

use crate::kernel::{field, offset, pointer};
use crate::maps::NOTED;

/// A message stands in the channel. Keyed by the kernel object that the reader will name.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Mark {
    /// Inode of the channel, so that reused memory does not inherit a mark; 0 if it had none.
    pub inode: u64,
    pub writer: u32,
    pub reserved: u32,
}

pub const WRITING: u64 = 0;
pub const READING: u64 = 1;

/// What was seen of a message that is not complete yet.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct PartialKey {
    pub channel: u64,
    pub direction: u64,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub struct Partial {
    pub inode: u64,
    pub parser: Parser,
}

/// A channel, by what its reader will name too: the pipe, or the reading end's sock.
#[derive(Clone, Copy)]
pub struct Channel {
    pub key: u64,
    /// A `struct file` of a pipe, or the reading end's `struct socket`.
    owner: u64,
    pipe: bool,
}

impl Channel {
    /// 0 for a connection that nobody has accepted yet.
    #[inline(always)]
    pub fn inode(&self) -> u64 {
        if self.owner == 0 {
            return 0;
        }
        let inode = if self.pipe {
            pointer(self.owner, offset!(file_inode))
        } else {
            self.owner - offset!(socket_alloc_socket) as u64 + offset!(socket_alloc_inode) as u64
        };
        pointer(inode, offset!(inode_ino))
    }
}

/// The pipe behind a `struct kiocb`.
#[inline(always)]
pub fn of_pipe(kiocb: *const u8) -> Channel {
    let file: *const u8 = field(kiocb, offset!(kiocb_file));
    if file.is_null() {
        return Channel { key: 0, owner: 0, pipe: true };
    }
    Channel { key: field(file, offset!(file_private_data)), owner: file as u64, pipe: true }
}

/// The receiving end that a `struct socket` is.
#[inline(always)]
pub fn of_reader(socket: *const u8) -> Channel {
    // Not by `field`: the key is a number to us, and a typed pointer must not be hashed.
    Channel { key: pointer(socket as u64, offset!(socket_sk)), owner: socket as u64, pipe: false }
}

/// The receiving end that a `struct socket` writes to.
#[inline(always)]
pub fn of_writer(socket: *const u8) -> Channel {
    let peer = pointer(pointer(socket as u64, offset!(socket_sk)), offset!(unix_peer));
    let owner = if peer == 0 { 0 } else { pointer(peer, offset!(sk_socket)) };
    Channel { key: peer, owner, pipe: false }
}

/// `NOTED` says which channels `CHANNELS` and `PARTIALS` have entries for, so that most reads and
/// writes can do without a lookup there. A slot holds the channel's key, or `SEVERAL` for good.
pub const SLOTS: usize = 4096;
const SEVERAL: u64 = 1;

#[inline(always)]
fn slot(key: u64) -> Option<*mut u64> {
    // Kernel objects of one kind differ above the low bits.
    NOTED.get_ptr_mut(((key >> 6 ^ key >> 18) & (SLOTS as u64 - 1)) as u32)
}

#[inline(always)]
pub fn may_be_noted(key: u64) -> bool {
    let Some(slot) = slot(key) else { return true };
    // SAFETY: an array slot.
    let noted = unsafe { core::ptr::read_volatile(slot) };
    noted == key || noted == SEVERAL
}

#[inline(always)]
pub fn note(key: u64) {
    let Some(slot) = slot(key) else { return };
    // SAFETY: as above. Two channels that share a slot and are noted within the same nanoseconds
    // on two processors can hide one another; its reader then judges by what it reads itself.
    unsafe {
        let before = core::ptr::read_volatile(slot);
        if before != key {
            core::ptr::write_volatile(slot, if before == 0 { key } else { SEVERAL });
        }
    }
}

/// Nothing is kept about the channel any more, in either direction.
#[inline(always)]
pub fn forget(key: u64) {
    let Some(slot) = slot(key) else { return };
    // SAFETY: as above.
    unsafe {
        if core::ptr::read_volatile(slot) == key {
            core::ptr::write_volatile(slot, 0);
        }
    }
}
