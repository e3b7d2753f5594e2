//! Which system calls read, write or move what is in a channel, and how they name the memory.
//!
//! Numbers of x86-64 and, for 32-bit calls there, of i386: the registers' names in `pt_regs` see to it
//! that nothing is attached elsewhere.

pub const READS: u32 = 1;
pub const WRITES: u32 = 1 << 1;
/// From one descriptor to another.
pub const MOVES: u32 = 1 << 2;

/// Address and length.
pub const BUFFER: u32 = 0;
/// `struct iovec` and how many.
pub const SEGMENTS: u32 = 1;
/// `struct msghdr`.
pub const MESSAGE: u32 = 2;
/// `struct mmsghdr` and how many; the first one is looked at.
pub const MESSAGES: u32 = 3;

const VMSPLICE: u32 = 1 << 3;
const TEE: u32 = 1 << 4;
/// From a file, unseen.
pub const FEEDS: u32 = 1 << 5;

#[derive(Clone, Copy)]
pub struct Kind {
    pub does: u32,
    pub shape: u32,
}

impl Kind {
    #[inline(always)]
    pub fn is_vmsplice(&self) -> bool {
        self.does & VMSPLICE != 0
    }

    #[inline(always)]
    pub fn is_tee(&self) -> bool {
        self.does & TEE != 0
    }
}

/// Calls at an offset (`pread`) fail on channels, but for those that take -1 for none (`preadv2`).
#[inline(always)]
pub fn of(number: u64, compat: bool) -> Kind {
    let (does, shape) = if compat { of_i386(number) } else { of_x86_64(number) };
    Kind { does, shape }
}

#[inline(always)]
fn of_x86_64(number: u64) -> (u32, u32) {
    match number {
        0 => (READS, BUFFER),
        1 => (WRITES, BUFFER),
        19 | 327 => (READS, SEGMENTS),
        20 | 328 => (WRITES, SEGMENTS),
        44 => (WRITES, BUFFER),
        45 => (READS, BUFFER),
        46 => (WRITES, MESSAGE),
        47 => (READS, MESSAGE),
        40 => (FEEDS, BUFFER),
        275 => (MOVES | FEEDS, BUFFER),
        276 => (MOVES | TEE, BUFFER),
        278 => (READS | WRITES | VMSPLICE, SEGMENTS),
        299 => (READS, MESSAGES),
        307 => (WRITES, MESSAGES),
        _ => (0, BUFFER),
    }
}

#[inline(always)]
fn of_i386(number: u64) -> (u32, u32) {
    match number {
        3 => (READS, BUFFER),
        4 => (WRITES, BUFFER),
        145 | 378 => (READS, SEGMENTS),
        146 | 379 => (WRITES, SEGMENTS),
        187 | 239 => (FEEDS, BUFFER),
        313 => (MOVES | FEEDS, BUFFER),
        315 => (MOVES | TEE, BUFFER),
        316 => (READS | WRITES | VMSPLICE, SEGMENTS),
        337 => (READS, MESSAGES),
        345 => (WRITES, MESSAGES),
        369 => (WRITES, BUFFER),
        370 => (WRITES, MESSAGE),
        371 => (READS, BUFFER),
        372 => (READS, MESSAGE),
        _ => (0, BUFFER),
    }
}
