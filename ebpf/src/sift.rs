//! The first look at a message: does it say anything that only a handshake says?
//!
//! Eight bytes are compared at a time ([`lazaret_common::mcp::says`]); words overlap, so that nothing
//! that is looked for is cut.

use lazaret_common::mcp::says;

use crate::iov::{BEFORE, CHUNK, Input};
use crate::kernel::{Loop, repeat};
use crate::scratch::Scratch;

/// Bytes that one turn looks at: four words of eight bytes that overlap by two.
const TURN: u64 = 24;

#[inline(always)]
pub unsafe fn chunk(scratch: *mut Scratch) {
    // SAFETY: scratch is this CPU's slot; offsets are bounded.
    unsafe {
        let input = &mut (*scratch).input;
        let filled = input.filled as usize & (2 * CHUNK - 1);
        let end = if filled > CHUNK { CHUNK } else { filled };
        let bytes = (&raw mut input.chunk).cast::<u8>();
        // What an earlier message left behind must not count.
        for i in 0..4 {
            bytes.add(BEFORE + end + 8 * i).cast::<u64>().write_unaligned(0);
        }
        repeat(((end as u64 + TURN + 1) / TURN) as u32, turn, scratch);
        let bytes = (&raw mut (*scratch).input.chunk).cast::<u8>();
        for i in 0..2 {
            let carried = bytes.add(end + 8 * i).cast::<u64>().read_unaligned();
            bytes.add(8 * i).cast::<u64>().write_unaligned(carried);
        }
    }
}

unsafe extern "C" fn turn(i: u64, context: *mut Loop) -> i64 {
    // SAFETY: the context is `repeat`'s; the offset is bounded by the chunk.
    unsafe {
        let input = &mut (*(*context).scratch).input;
        if i > CHUNK as u64 / TURN + 1 {
            return 1;
        }
        let from = (&raw const input.chunk).cast::<u8>().add(BEFORE - 2 + (i * TURN) as usize);
        let mut found = 0;
        for word in 0..4 {
            found |= says(from.add(6 * word).cast::<u64>().read_unaligned());
        }
        if found != 0 {
            input.suspicious = 1;
            input.stop = 1;
            return 1;
        }
    }
    0
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
