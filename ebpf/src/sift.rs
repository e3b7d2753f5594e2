//! The first two looks at what goes through a channel: does a message start in it, and does it say anything that only
//! a handshake says?
//!
//! Eight bytes are compared at a time ([`lazaret_common::sift`]), and what lies across a chunk's border is seen with
//! the next chunk. Words are aligned, or the compiler reads them byte by byte; those in between are put together.

use lazaret_common::sift::{confirms, may_say, says, starts};

use crate::iov::{AFTER, BEFORE, CHUNK, Input};
use crate::kernel::Loop;

/// Bytes that one turn looks at.
pub const BLOCK: u64 = 64;
const WORDS: usize = BLOCK as usize / 8;

#[inline(always)]
unsafe fn before(at: *const u64, bytes: u32) -> u64 {
    // SAFETY: as the caller says.
    unsafe { *at << (8 * bytes) | *at.sub(1) >> (64 - 8 * bytes) }
}

#[inline(always)]
unsafe fn behind(at: *const u64) -> u64 {
    // SAFETY: as the caller says.
    unsafe { *at >> 8 | *at.add(1) << 56 }
}

/// The next block, which starts `back` bytes before its place in the chunk.
#[inline(always)]
unsafe fn next(input: &mut Input, back: usize) -> Option<*const u64> {
    // Opaque, or the compiler leaves out the mask, without which the verifier sees no bound.
    let at = core::hint::black_box(input.at as u64);
    if at >= input.filled as u64 + back as u64 {
        return None;
    }
    input.at = (at + BLOCK) as u32;
    let at = at & (CHUNK as u64 - 1) & !(BLOCK - 1);
    // SAFETY: bounded by the chunk, which has room on both sides.
    Some(unsafe { (&raw const input.chunk).cast::<u8>().add(BEFORE - back + at as usize).cast() })
}

/// A turn of the first look.
pub unsafe extern "C" fn look(_: u64, context: *mut Loop) -> i64 {
    // SAFETY: the context is `repeat`'s.
    unsafe {
        let input = &mut (*(*context).scratch).input;
        let Some(from) = next(input, 0) else { return 1 };
        let mut start = 0;
        for word in 0..WORDS {
            let own = from.add(word);
            start |= starts(*own, || before(own, 1), || before(own, 2));
        }
        if start == 0 {
            return 0;
        }
        input.found = 1;
        input.stop = 1;
        1
    }
}

/// A turn of the second look; ends it at a block that says something. It starts with the last word of the chunk before,
/// whose last byte has something behind it only now.
pub unsafe extern "C" fn turn(_: u64, context: *mut Loop) -> i64 {
    // SAFETY: as above.
    unsafe {
        let input = &mut (*(*context).scratch).input;
        let Some(from) = next(input, 8) else { return 1 };
        let mut may = 0;
        for word in 0..WORDS {
            may |= may_say(*from.add(word));
        }
        if may == 0 {
            return 0;
        }
        let mut said = 0;
        for word in 0..WORDS {
            let own = from.add(word);
            said |= says(*own, before(own, 1), behind(own));
        }
        if said == 0 {
            return 0;
        }
        input.near = 1;
        1
    }
}

/// A byte of that block: does what it says start here, or with the byte before?
pub unsafe extern "C" fn near(i: u64, context: *mut Loop) -> i64 {
    // SAFETY: as above; the index is bounded.
    unsafe {
        let input = &mut (*(*context).scratch).input;
        let at = core::hint::black_box((input.at as u64).wrapping_sub(BLOCK + 9) + i);
        let at = (at + BEFORE as u64) & (2 * CHUNK as u64 - 1);
        if i > BLOCK || at > (BEFORE + CHUNK) as u64 {
            return 1;
        }
        let own = (&raw const input.chunk).cast::<u64>().add(at as usize / 8);
        let skip = 8 * (at & 7);
        if !confirms(*own >> skip | *own.add(1) << 1 << (63 - skip)) {
            return 0;
        }
        input.found = 1;
        input.stop = 1;
        1
    }
}

/// What an earlier message left behind the chunk must not count.
#[inline(always)]
pub unsafe fn clear_behind(input: &mut Input) {
    let end = input.filled as usize & (CHUNK - 1);
    // SAFETY: bounded by the room behind the chunk.
    unsafe {
        let behind = (&raw mut input.chunk).cast::<u8>().add(BEFORE + end);
        for i in 0..AFTER / 8 {
            behind.add(8 * i).cast::<u64>().write_unaligned(0);
        }
    }
}

/// Takes the last two words along to the next chunk.
#[inline(always)]
pub unsafe fn carry(input: &mut Input) {
    let end = input.filled as usize & (CHUNK - 1);
    let bytes = (&raw mut input.chunk).cast::<u8>();
    // SAFETY: bounded by the chunk.
    unsafe {
        for i in 0..BEFORE / 8 {
            let carried = bytes.add(end + 8 * i).cast::<u64>().read_unaligned();
            bytes.add(8 * i).cast::<u64>().write(carried);
        }
    }
}

/// The message ends with a closing bracket, perhaps a line end behind it: `last` are its last bytes, the very last one
/// first.
#[inline(always)]
pub fn ends_whole(last: [u8; 3]) -> bool {
    let mut at = 0;
    if last[at] == b'\n' {
        at += 1;
        if last[at] == b'\r' {
            at += 1;
        }
    } else if last[at] == b'\r' {
        at += 1;
    }
    matches!(last[at], b'}' | b']')
}
