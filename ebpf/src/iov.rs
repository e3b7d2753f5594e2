//! What goes through a channel: the user memory behind a `struct iov_iter`, segment by segment, in chunks.
//!
//! Most of it is no handshake. A first pass looks for the start of a message, about one instruction a byte; a second
//! one for what only a handshake says, about three; only what has both is parsed, which costs ten times that.

use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_user};
use lazaret_common::sift::is_binary;

use crate::json;
use crate::kernel::{Loop, at_most, field, offset, pointer, repeat};
use crate::scratch::{self, Scratch};
use crate::sift;

pub const CHUNK: usize = 2048;
/// Bytes of it that are filled, so that the blocks of [`sift`] fit although they start before it.
const FILLED: u64 = (CHUNK - sift::BLOCK as usize) as u64;
/// Bytes of the chunk before, so that what lies across the border is seen.
pub const BEFORE: usize = 16;
pub const AFTER: usize = 96;
/// Bytes of one read or write that are looked at.
const LONGEST: u64 = 4 << 20;
/// Segments of a copied table.
pub const SEGMENTS: u32 = 8;
/// `UIO_MAXIOV`: the kernel takes no more.
const MOST_SEGMENTS: u32 = 1024;
/// Every pass has all chunks and segments before it, and the second one may come back for each block.
const STEPS: u32 = 1 << 18;
const _: () = assert!(
    STEPS as u64
        > 3 * (LONGEST / FILLED + 2 * MOST_SEGMENTS as u64) + (LONGEST / FILLED + MOST_SEGMENTS as u64) * TURNS as u64
);
/// Blocks of a chunk.
const TURNS: u32 = (CHUNK as u64 / sift::BLOCK) as u32 + 1;
/// Shorter writes are cheaper to look at than to be told from text.
const WORTHWHILE: u64 = 256;

/// What a pass does.
pub const LOOKS: u32 = 0;
pub const SIFTS: u32 = 1;
const PARSES: u32 = 2;
/// No pass is left.
const DONE: u32 = 3;
const PARSED: u32 = 4;

#[derive(Clone, Copy)]
#[repr(C)]
pub struct Range {
    /// The segments, 0: there is only one; and bytes of the first that are not part of it.
    iov: u64,
    skip: u64,
    /// Bytes that are left to look at, the segment's included.
    pub left: u64,
    /// Of the segment that is looked at.
    base: u64,
    length: u64,
    /// Segments, at most.
    most: u32,
    /// The memory is the kernel's.
    kernel: u32,
}

#[repr(C)]
pub struct Input {
    /// What a pass has still to look at.
    range: Range,
    /// All of it.
    pub all: Range,
    /// Bytes in the chunk.
    pub filled: u32,
    /// The pass is over.
    pub stop: u32,
    /// Which pass it is.
    pass: u32,
    /// The pass found something.
    pub found: u32,
    /// It is parsed although nothing was found, unless it is whole.
    goes_on: u32,
    reserved: u32,
    /// Where in the chunk it goes on.
    pub at: u32,
    /// The block before says something.
    pub near: u32,
    pub chunk: [u8; BEFORE + CHUNK + AFTER],
}

/// Notes what a write is about to write. `false`: not user memory. The union of buffer and segments
/// is read as numbers: 6.1 takes every member of it for a typed pointer.
#[inline(always)]
pub unsafe fn written(scratch: *mut Scratch, iter: *const u8) -> bool {
    // SAFETY: scratch is this CPU's slot; the iterator is a typed pointer.
    unsafe {
        let range = &mut (*scratch).input.all;
        let kind = field::<u8>(iter, offset!(iter_type)) as u32;
        let skip: u64 = field(iter, offset!(iter_offset));
        begin(range, field(iter, offset!(iter_count)));
        if kind == offset!(enum_iter_ubuf) {
            buffer(range, pointer(iter as u64, offset!(iter_ubuf)) + skip);
            return true;
        }
        range.iov = pointer(iter as u64, offset!(iter_iov));
        range.skip = skip;
        kind == offset!(enum_iter_iovec)
    }
}

/// Notes the `count` bytes that a read has just filled in. The iterator has advanced past them:
/// they end where it stands.
#[inline(always)]
pub unsafe fn filled(scratch: *mut Scratch, iter: *const u8, count: u64) -> bool {
    // SAFETY: as above.
    unsafe {
        let range = &mut (*scratch).input.all;
        let kind = field::<u8>(iter, offset!(iter_type)) as u32;
        let end: u64 = field(iter, offset!(iter_offset));
        begin(range, count);
        if kind == offset!(enum_iter_ubuf) {
            buffer(range, (pointer(iter as u64, offset!(iter_ubuf)) + end).wrapping_sub(count));
            return true;
        }
        if kind != offset!(enum_iter_iovec) {
            return false;
        }
        range.iov = pointer(iter as u64, offset!(iter_iov));
        range.skip = end;
        range.length = count;
        repeat(MOST_SEGMENTS, step_back, scratch);
        true
    }
}

/// Notes `length` bytes at an address in user memory.
#[inline(always)]
pub unsafe fn at(scratch: *mut Scratch, base: u64, length: u64) {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let range = &mut (*scratch).input.all;
        begin(range, length);
        buffer(range, base);
    }
}

/// Notes `length` bytes at an address in the kernel's memory.
#[inline(always)]
pub unsafe fn at_kernel(scratch: *mut Scratch, base: u64, length: u64) {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        at(scratch, base, length);
        (*scratch).input.all.kernel = 1;
    }
}

/// Notes the first `length` bytes of segments whose table has been copied to kernel memory at `table`.
#[inline(always)]
pub unsafe fn segments_at(scratch: *mut Scratch, table: u64, length: u64) {
    // SAFETY: as above.
    unsafe {
        let range = &mut (*scratch).input.all;
        begin(range, length);
        range.iov = table;
        range.most = SEGMENTS;
    }
}

#[inline(always)]
fn begin(range: &mut Range, length: u64) {
    range.left = at_most(length, LONGEST);
    range.skip = 0;
    range.most = MOST_SEGMENTS;
    range.kernel = 0;
}

#[inline(always)]
fn buffer(range: &mut Range, base: u64) {
    range.iov = 0;
    range.base = base;
    range.length = range.left;
}

/// Goes one segment back while the data starts before the one at `iov`.
unsafe extern "C" fn step_back(_: u64, context: *mut Loop) -> i64 {
    // SAFETY: the context is `repeat`'s.
    unsafe {
        let range = &mut (*(*context).scratch).input.all;
        if range.skip >= range.length {
            range.skip -= range.length;
            return 1;
        }
        range.length -= range.skip;
        range.iov -= 16;
        range.skip = pointer(range.iov, offset!(iovec_length));
    }
    0
}

/// Copies at most `most` of the first bytes into the chunk's beginning. `false`: they cannot be read.
#[inline(always)]
unsafe fn first(input: &mut Input, most: u64) -> bool {
    let range = &input.all;
    let (base, length) = if range.iov == 0 {
        (range.base, range.length)
    } else {
        let length = pointer(range.iov, offset!(iovec_length)).saturating_sub(range.skip);
        (pointer(range.iov, offset!(iovec_base)) + range.skip, length)
    };
    let kernel = range.kernel;
    // SAFETY: `most` fits into the chunk.
    unsafe { copy((&raw mut input.chunk).cast(), at_most(length, most), base, kernel) }
}

#[inline(always)]
unsafe fn copy(to: *mut u8, length: u64, from: u64, kernel: u32) -> bool {
    // SAFETY: the caller has bounded the length by the room.
    unsafe {
        let result = if kernel != 0 {
            bpf_probe_read_kernel(to.cast(), length as u32, from as *const _)
        } else {
            bpf_probe_read_user(to.cast(), length as u32, from as *const _)
        };
        result == 0
    }
}

/// Whether the first bytes can start a message: white space, a byte order mark, JSON, a header.
#[inline(always)]
pub unsafe fn may_be_json(scratch: *mut Scratch) -> bool {
    const BLANK: u64 = 0x2020_2020_2020_2020;
    const HEADER: u64 = u64::from_le_bytes(*b"content-");
    // SAFETY: scratch is this CPU's slot; memory is read softly.
    unsafe {
        let input = &mut (*scratch).input;
        (&raw mut input.chunk).cast::<u64>().write_unaligned(BLANK);
        if !first(input, 8) {
            return false;
        }
        if (&raw const input.chunk).cast::<u64>().read_unaligned() | BLANK == HEADER {
            return true;
        }
        for i in 0..8 {
            match input.chunk[i] {
                b'{' | b'[' => return true,
                b' ' | b'\t' | b'\r' | b'\n' | 0xef | 0xbb | 0xbf | 0x1e | 0 => {}
                _ => return i != 0 && (input.chunk[i] | 0x20) == b'c',
            }
        }
        true
    }
}

/// The first bytes are neither text nor JSON.
#[inline(always)]
pub unsafe fn starts_binary(scratch: *mut Scratch) -> bool {
    // SAFETY: scratch is this CPU's slot; memory is read softly.
    unsafe {
        let input = &mut (*scratch).input;
        if input.all.left < WORTHWHILE {
            return false;
        }
        let words = (&raw mut input.chunk).cast::<[u64; 4]>();
        words.write_unaligned([0x2020_2020_2020_2020; 4]);
        first(input, 32) && is_binary(words.read_unaligned())
    }
}

/// Runs the passes from `first` on, as far as there is reason to. `open`: a message goes on in it; `at_once`: it may
/// start with one. `true`: it was parsed, and the parser says what it is.
#[inline(always)]
pub unsafe fn examine(scratch: *mut Scratch, first: u32, open: bool, at_once: bool) -> bool {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let input = &mut (*scratch).input;
        // What starts behind other text is no message unless it is whole; what the limit cuts off is none at all.
        input.goes_on = (open || at_once && input.all.left < LONGEST) as u32;
        input.pass = if open { PARSES } else { first };
        run_passes((*scratch).slot as u32);
        (*scratch).input.pass == PARSED
    }
}

/// Global, as the kernel calls it: verified once and by itself, not for every way that leads here.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn run_passes(slot: u32) -> u32 {
    let Some(scratch) = scratch::slot(slot) else { return 0 };
    // SAFETY: scratch is this CPU's slot.
    unsafe { begin_pass(&mut (*scratch).input) };
    // One flat loop for all of it: the verifier goes through a body several times for each loop around it.
    repeat(STEPS, step, scratch);
    0
}

#[inline(always)]
fn begin_pass(input: &mut Input) {
    input.range = input.all;
    if input.range.iov == 0 {
        input.range.left = 0;
    } else {
        input.range.length = 0;
    }
    input.stop = 0;
    input.found = 0;
    input.near = 0;
    input.filled = 0;
    input.at = 0;
    // SAFETY: the chunk's first two words.
    unsafe { (&raw mut input.chunk).cast::<[u64; BEFORE / 8]>().write([0; BEFORE / 8]) };
}

#[inline(always)]
fn end_pass(input: &mut Input) {
    input.pass = match input.pass {
        LOOKS if input.found != 0 => SIFTS,
        SIFTS if input.found != 0 || input.goes_on != 0 && !sift::ends_whole(last(input)) => PARSES,
        PARSES => PARSED,
        _ => DONE,
    };
    // The last chunk stays where it is.
    if input.pass < DONE {
        begin_pass(input);
    }
}

/// The last bytes of the last chunk, which have been carried to the front: the very last one first.
#[inline(always)]
fn last(input: &Input) -> [u8; 3] {
    [input.chunk[BEFORE - 1], input.chunk[BEFORE - 2], input.chunk[BEFORE - 3]]
}

/// One chunk, or the way to the next one.
unsafe extern "C" fn step(_: u64, context: *mut Loop) -> i64 {
    // SAFETY: the context is `repeat`'s.
    unsafe {
        let scratch = (*context).scratch;
        let input = &mut (*scratch).input;
        if input.pass >= DONE {
            return 1;
        }
        if input.near != 0 {
            input.near = 0;
            repeat(sift::BLOCK as u32 + 1, sift::near, scratch);
            if (*scratch).input.stop != 0 {
                return 0;
            }
        } else {
            match fill(input) {
                Filled::Chunk => {}
                Filled::Nothing => return 0,
                Filled::Ended => {
                    end_pass(input);
                    return 0;
                }
            }
        }
        match (*scratch).input.pass {
            PARSES => repeat(CHUNK as u32, json::turn, scratch),
            LOOKS => repeat(TURNS, sift::look, scratch),
            _ => repeat(TURNS, sift::turn, scratch),
        }
        let input = &mut (*scratch).input;
        if input.near == 0 && input.pass != PARSES {
            sift::carry(input);
        }
    }
    0
}

enum Filled {
    Chunk,
    /// The segment is empty.
    Nothing,
    /// The pass is over.
    Ended,
}

/// Takes the next chunk.
#[inline(always)]
unsafe fn fill(input: &mut Input) -> Filled {
    if input.stop != 0 {
        return Filled::Ended;
    }
    let range = &mut input.range;
    if range.length == 0 {
        if range.left == 0 || range.most == 0 {
            return Filled::Ended;
        }
        range.most -= 1;
        range.base = pointer(range.iov, offset!(iovec_base)) + range.skip;
        let length = pointer(range.iov, offset!(iovec_length)).saturating_sub(range.skip);
        range.length = if length > range.left { range.left } else { length };
        range.left -= range.length;
        range.skip = 0;
        range.iov += 16;
    }
    let length = at_most(range.length, FILLED);
    if length == 0 {
        return Filled::Nothing;
    }
    // SAFETY: the length is bounded by the chunk.
    unsafe {
        let to = (&raw mut input.chunk).cast::<u8>().add(BEFORE);
        if !copy(to, length, input.range.base, input.range.kernel) {
            return Filled::Ended;
        }
        input.at = 0;
        input.filled = length as u32;
        input.range.base += length;
        input.range.length -= length;
        sift::clear_behind(input);
    }
    Filled::Chunk
}

/// Tells what was examined from other messages, by its length and its last chunk.
#[inline(always)]
pub unsafe fn digest(scratch: *mut Scratch) {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        (*scratch).mark.digest = SEED ^ (*scratch).input.all.left;
        repeat(at_most((*scratch).input.filled as u64, CHUNK as u64) as u32 / 8, mix, scratch);
    }
}

const SEED: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

unsafe extern "C" fn mix(i: u64, context: *mut Loop) -> i64 {
    // SAFETY: the context is `repeat`'s; the index is masked.
    unsafe {
        let s = &mut *(*context).scratch;
        let at = BEFORE + (i as usize & (CHUNK / 8 - 1)) * 8;
        let word = (&raw const s.input.chunk).cast::<u8>().add(at).cast::<u64>().read_unaligned();
        s.mark.digest = (s.mark.digest ^ word).wrapping_mul(PRIME).rotate_left(29);
    }
    0
}
