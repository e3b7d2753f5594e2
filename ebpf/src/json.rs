//! Feeds the chunk to the MCP recogniser of `lazaret-common`.
//!
//! What is long or frequent and says nothing is gone over at once: strings that nothing is compared with by the word,
//! and what stands between strings by a table.

use lazaret_common::mcp::Parser;
use lazaret_common::sift::{ends_run, first};

use crate::iov::{BEFORE, CHUNK, Input};
use crate::kernel::Loop;

/// Words of an idle run that one turn goes over.
const WORDS: usize = 4;
/// Bytes between strings, as above.
const SKIMMED: usize = 8;

/// The body of the innermost loop: a run, and the byte that ends it.
pub unsafe extern "C" fn turn(_: u64, context: *mut Loop) -> i64 {
    // SAFETY: the context is `repeat`'s; offsets are masked to the chunk.
    unsafe {
        let s = &mut *(*context).scratch;
        let end = s.input.filled;
        if s.input.at >= end {
            return 1;
        }
        if s.parser.is_idle() {
            if !run(&mut s.input) {
                return 0;
            }
            if s.input.at >= end {
                return 1;
            }
            if *at(&s.input) == b'"' && s.parser.leaves() {
                s.input.at += 1;
            }
        }
        skim(&mut s.input, &mut s.parser);
        if s.input.at >= end {
            return 1;
        }
        let byte = *at(&s.input);
        s.input.at += 1;
        if byte == b'"' && s.parser.enters() {
            return 0;
        }
        if s.parser.take(byte) {
            s.input.stop = 1;
            return 1;
        }
    }
    0
}

/// Where the parser is in the chunk.
#[inline(always)]
unsafe fn at(input: &Input) -> *const u8 {
    // Opaque, or the compiler leaves out the mask, without which the verifier sees no bound.
    let at = core::hint::black_box(input.at as u64) & (CHUNK as u64 - 1);
    // SAFETY: bounded by the chunk.
    unsafe { (&raw const input.chunk).cast::<u8>().add(BEFORE + at as usize) }
}

/// Goes to the end of an idle run; `false`: it has not come there yet.
#[inline(always)]
unsafe fn run(input: &mut Input) -> bool {
    let from = core::hint::black_box(input.at as u64) & (CHUNK as u64 - 1);
    // SAFETY: bounded by the chunk, behind which there is room.
    unsafe {
        let words = (&raw const input.chunk).cast::<u64>().add(BEFORE / 8 + from as usize / 8);
        // What lies before the run does not end it.
        let mut ends = ends_run(*words >> (8 * (from & 7)) << (8 * (from & 7)));
        let mut word = 0;
        while ends == 0 && word + 1 < WORDS {
            word += 1;
            ends = ends_run(*words.add(word));
        }
        input.at = (from & !7) as u32 + 8 * word as u32 + if ends == 0 { 8 } else { first(ends) as u32 };
        ends != 0
    }
}

/// Goes over what is no string and no bracket.
#[inline(always)]
unsafe fn skim(input: &mut Input, parser: &mut Parser) {
    let Some(mut skim) = parser.skims() else { return };
    // SAFETY: there is room behind the chunk, and a NUL stops.
    unsafe {
        let from = at(input);
        let mut count = 0;
        while count < SKIMMED && skim.take(*from.add(count)) {
            count += 1;
        }
        input.at += count as u32;
    }
    parser.skimmed(skim);
}
