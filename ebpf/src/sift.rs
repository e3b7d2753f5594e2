//! The first two looks at what goes through a channel: does a message start in it, and does it say anything that only
//! a handshake says?
//!
//! Eight bytes are compared at a time ([`lazaret_common::sift`]), and what lies across a chunk's border is seen with
//! the next chunk.

use lazaret_common::sift::{confirms, says, starts};

use crate::iov::{AFTER, BEFORE, CHUNK, Input, LOOKS};
use crate::kernel::{Loop, repeat};
use crate::scratch::Scratch;

/// Bytes that one turn sifts: four words of eight bytes that overlap by two.
const TURN: u64 = 24;
/// Where the first turn starts: what was cut off at the last chunk's end is whole now.
const BACK: usize = 10;
/// Bytes that one turn looks at for a message's start.
const LOOK: u64 = 64;

#[inline(always)]
pub unsafe fn chunk(scratch: *mut Scratch, pass: u32) {
    // SAFETY: scratch is this CPU's slot; offsets are bounded.
    unsafe {
        let input = &mut (*scratch).input;
        let filled = input.filled as usize & (2 * CHUNK - 1);
        let end = if filled > CHUNK { CHUNK } else { filled };
        let bytes = (&raw mut input.chunk).cast::<u8>();
        // What an earlier message left behind must not count.
        for i in 0..AFTER / 8 {
            bytes.add(BEFORE + end + 8 * i).cast::<u64>().write_unaligned(0);
        }
        if pass == LOOKS {
            repeat(((end as u64 + LOOK - 1) / LOOK) as u32, look, scratch);
        } else {
            repeat(((end + BACK) as u64 / TURN + 1) as u32, turn, scratch);
        }
        let bytes = (&raw mut (*scratch).input.chunk).cast::<u8>();
        for i in 0..2 {
            let carried = bytes.add(end + 8 * i).cast::<u64>().read_unaligned();
            bytes.add(8 * i).cast::<u64>().write_unaligned(carried);
        }
    }
}

#[inline(always)]
fn found(input: &mut Input) -> i64 {
    input.found = 1;
    input.stop = 1;
    1
}

unsafe extern "C" fn look(i: u64, context: *mut Loop) -> i64 {
    // SAFETY: the context is `repeat`'s; the offset is bounded by the chunk.
    unsafe {
        let input = &mut (*(*context).scratch).input;
        if i >= CHUNK as u64 / LOOK {
            return 1;
        }
        let from = (&raw const input.chunk).cast::<u8>().add(BEFORE + (i * LOOK) as usize);
        let mut start = 0;
        for word in 0..8 {
            let at = |back: usize| from.add(8 * word).sub(back).cast::<u64>().read_unaligned();
            start |= starts(at(0), || at(1), || at(2));
        }
        if start != 0 { found(input) } else { 0 }
    }
}

unsafe extern "C" fn turn(i: u64, context: *mut Loop) -> i64 {
    // SAFETY: the context is `repeat`'s; the offset is bounded by the chunk.
    unsafe {
        let input = &mut (*(*context).scratch).input;
        if i > (CHUNK + BACK) as u64 / TURN {
            return 1;
        }
        let from = (&raw const input.chunk).cast::<u8>().add(BEFORE - BACK + (i * TURN) as usize);
        let mut said = 0;
        for word in 0..4 {
            said |= says(from.add(6 * word).cast::<u64>().read_unaligned());
        }
        if said == 0 {
            return 0;
        }
        // In a loop of its own: unrolled, the verifier follows it for every turn of every loop around it.
        input.turn = i as u32;
        repeat(TURN as u32 + 2, near, (*context).scratch);
        (*(*context).scratch).input.stop as i64 & 1
    }
}

unsafe extern "C" fn near(i: u64, context: *mut Loop) -> i64 {
    // SAFETY: the context is `repeat`'s; the offset is bounded by the chunk.
    unsafe {
        let input = &mut (*(*context).scratch).input;
        let turn = input.turn as u64;
        if turn > (CHUNK + BACK) as u64 / TURN || i > TURN + 2 {
            return 1;
        }
        let from = (&raw const input.chunk).cast::<u8>().add(BEFORE - BACK + (turn * TURN) as usize);
        if confirms(from.add(i as usize).cast::<u64>().read_unaligned()) { found(input) } else { 0 }
    }
}

/// The message ends with a closing bracket, perhaps a line end behind it.
#[inline(always)]
pub fn ends_whole(input: &Input) -> bool {
    // The last bytes of the last chunk have been carried to the front.
    let mut last = input.chunk[BEFORE - 1];
    if last == b'\n' {
        last = input.chunk[BEFORE - 2];
    }
    if last == b'\r' {
        last = input.chunk[BEFORE - 3];
    }
    last == b'}' || last == b']'
}
