//! Pipes, FIFOs, UNIX sockets and terminals: what a hook names, and which of them something is known about.

use aya_ebpf::helpers::generated::bpf_get_current_pid_tgid;
use lazaret_common::mcp::Parser;

use crate::kernel::{field, offset, pointer, read};
use crate::maps::NOTED;

pub const WRITING: u64 = 0;
pub const READING: u64 = 1;

/// What was seen of a message that is not complete yet. Each writer has its own: a reader that can write to the
/// channel too must not break into the client's message.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct PartialKey {
    channel: u64,
    direction: u64,
}

impl PartialKey {
    #[inline(always)]
    pub fn of(channel: Channel, direction: u64) -> Self {
        // SAFETY: no arguments.
        let task = unsafe { bpf_get_current_pid_tgid() };
        let writer = if direction == WRITING { task >> 32 } else { 0 };
        Self { channel: channel.key, direction: direction | writer << 32 }
    }

    #[inline(always)]
    pub fn of_reader(channel: u64) -> Self {
        Self { channel, direction: READING }
    }
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

/// Nothing that a hook looks at.
pub const NONE: Channel = Channel { key: 0, owner: 0, pipe: true };

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

    /// What tells the channel from another one that gets its memory. A connection that nobody has accepted yet has
    /// no inode: what it is connected to stands for it, which is there as long as it is.
    #[inline(always)]
    pub fn identity(&self) -> u64 {
        match self.inode() {
            0 if !self.pipe => self.peer(),
            inode => inode,
        }
    }

    /// A kernel address, which no inode's number is.
    #[inline(always)]
    fn peer(&self) -> u64 {
        pointer(self.key, offset!(unix_peer))
    }

    /// Where one of the two is not known, the end of the memory's use has been seen: see `ends.rs`.
    #[inline(always)]
    pub fn has_identity(&self, identity: u64) -> bool {
        let inode = self.inode();
        identity == 0 || inode == 0 || identity == inode || !self.pipe && identity == self.peer()
    }

    /// The current task has it as its standard input.
    #[inline(always)]
    pub fn is_stdin(&self) -> bool {
        let file = crate::syscall::file::file(0);
        file != 0 && of_end(file as *const u8, false).key == self.key
    }

    /// More bytes than stand unread in the channel. Neither a pipe's buffers nor a socket's have one size.
    #[inline(always)]
    pub fn backlog(&self) -> u64 {
        if !self.pipe {
            let queue = offset!(sk_receive_queue) + offset!(queue_length);
            return read::<u32>(self.key, queue).unwrap_or(0) as u64 * LARGEST_PACKET;
        }
        if self.owner == 0 {
            return TERMINAL_BUFFER;
        }
        let head = read::<u32>(self.key, offset!(pipe_head)).unwrap_or(0);
        let tail = read::<u32>(self.key, offset!(pipe_tail)).unwrap_or(0);
        head.wrapping_sub(tail) as u64 * LARGEST_BUFFER
    }
}

const LARGEST_PACKET: u64 = 1 << 20;
const LARGEST_BUFFER: u64 = 64 << 10;
const TERMINAL_BUFFER: u64 = 128 << 10;
const S_IFMT: u16 = 0o170_000;
const S_IFIFO: u16 = 0o010_000;
const S_IFSOCK: u16 = 0o140_000;

/// What can be read from a `struct file`, or with `writes` what is read of that which is written to it. The key is
/// 0 if it is neither a pipe nor a socket.
#[inline(always)]
pub fn of_end(file: *const u8, writes: bool) -> Channel {
    if file.is_null() {
        return NONE;
    }
    let data = pointer(file as u64, offset!(file_private_data));
    let mode = read::<u16>(pointer(file as u64, offset!(file_inode)), offset!(inode_mode)).unwrap_or(0);
    match mode & S_IFMT {
        S_IFIFO => of_file(file as u64, data),
        S_IFSOCK => {
            let sock = pointer(data, offset!(socket_sk));
            if writes { of_peer(sock) } else { of_sock(sock) }
        }
        _ => NONE,
    }
}

/// A terminal, by the end that is read.
#[inline(always)]
pub fn of_terminal(tty: u64) -> Channel {
    Channel { key: tty, owner: 0, pipe: true }
}

/// The pipe that a `struct pipe_inode_info` is; whose inode is not known from here.
#[inline(always)]
pub fn of_pipe_itself(pipe: u64) -> Channel {
    Channel { key: pipe, owner: 0, pipe: true }
}

/// The pipe behind a `struct kiocb`.
#[inline(always)]
pub fn of_pipe(kiocb: *const u8) -> Channel {
    let file: *const u8 = field(kiocb, offset!(kiocb_file));
    if file.is_null() {
        return NONE;
    }
    Channel { key: field(file, offset!(file_private_data)), owner: file as u64, pipe: true }
}

/// What a `struct file` leads to, by numbers: a pipe or a terminal. Nothing is said of sockets.
#[inline(always)]
pub fn of_file(file: u64, key: u64) -> Channel {
    Channel { key, owner: file, pipe: true }
}

/// The receiving end that a `struct socket` is.
#[inline(always)]
pub fn of_reader(socket: *const u8) -> Channel {
    // Not by `field`: the key is a number to us, and a typed pointer must not be hashed.
    Channel { key: pointer(socket as u64, offset!(socket_sk)), owner: socket as u64, pipe: false }
}

/// The receiving end that a `struct sock` is.
#[inline(always)]
pub fn of_sock(sock: u64) -> Channel {
    Channel { key: sock, owner: pointer(sock, offset!(sk_socket)), pipe: false }
}

/// The receiving end that a `struct socket` writes to.
#[inline(always)]
pub fn of_writer(socket: *const u8) -> Channel {
    of_peer(pointer(socket as u64, offset!(socket_sk)))
}

/// The receiving end that a `struct sock` writes to.
#[inline(always)]
pub fn of_peer(sock: u64) -> Channel {
    let peer = pointer(sock, offset!(unix_peer));
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
