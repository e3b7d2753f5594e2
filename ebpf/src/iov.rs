//! The user memory behind a `struct iov_iter`, segment by segment, in chunks.
//!
//! Most messages are no handshake. A first pass sifts them, some seven instructions a byte; only
//! what it finds suspicious is parsed, which costs ten times that.

use aya_ebpf::helpers::generated::bpf_probe_read_user;

use crate::json;
use crate::kernel::{Loop, at_most, field, offset, pointer, repeat};
use crate::scratch::Scratch;
use crate::sift;

pub const CHUNK: usize = 512;
/// Bytes of the chunk before, so that a word across the border is seen.
pub const BEFORE: usize = 16;
const AFTER: usize = 64;
/// Bytes of one read or write that are looked at.
const LONGEST: u64 = 32 << 10;
const SEGMENTS: u32 = 8;

#[derive(Clone, Copy)]
#[repr(C)]
pub struct Range {
    /// The segments, 0: there is only one; and bytes of the first that are not part of it.
    iov: u64,
    skip: u64,
    /// Bytes that are left to look at, the segment's included.
    left: u64,
    /// Of the segment that is looked at.
    base: u64,
    length: u64,
}

#[repr(C)]
pub struct Input {
    range: Range,
    /// All of it, for the second pass.
    all: Range,
    /// Bytes in the chunk.
    pub filled: u32,
    /// Stop: convicted, or no JSON.
    pub stop: u32,
    /// First pass.
    sifting: u32,
    /// The first pass found something.
    pub suspicious: u32,
    /// The parser had a message open when this piece came.
    pub open: u32,
    reserved: u32,
    pub chunk: [u8; BEFORE + CHUNK + AFTER],
}

/// Notes what a write is about to write. `false`: not user memory. The union of buffer and segments
/// is read as numbers: 6.1 takes every member of it for a typed pointer.
#[inline(always)]
pub unsafe fn written(scratch: *mut Scratch, iter: *const u8) -> bool {
    // SAFETY: scratch is this CPU's slot; the iterator is a typed pointer.
    unsafe {
        let range = &mut (*scratch).input.range;
        let kind = field::<u8>(iter, offset!(iter_type)) as u32;
        let skip: u64 = field(iter, offset!(iter_offset));
        range.left = at_most(field(iter, offset!(iter_count)), LONGEST);
        if kind == offset!(enum_iter_ubuf) {
            buffer(range, pointer(iter as u64, offset!(iter_ubuf)) + skip);
            return true;
        }
        if kind != offset!(enum_iter_iovec) {
            return false;
        }
        range.iov = pointer(iter as u64, offset!(iter_iov));
        range.skip = skip;
        true
    }
}

/// Notes the `count` bytes that a read has just filled in. The iterator has advanced past them:
/// they end where it stands.
#[inline(always)]
pub unsafe fn filled(scratch: *mut Scratch, iter: *const u8, count: u64) -> bool {
    // SAFETY: as above.
    unsafe {
        let range = &mut (*scratch).input.range;
        let kind = field::<u8>(iter, offset!(iter_type)) as u32;
        let end: u64 = field(iter, offset!(iter_offset));
        range.left = at_most(count, LONGEST);
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
        repeat(SEGMENTS, step_back, scratch);
        true
    }
}

#[inline(always)]
fn buffer(range: &mut Range, base: u64) {
    range.iov = 0;
    range.skip = 0;
    range.base = base;
    range.length = range.left;
}

/// Goes one segment back while the data starts before the one at `iov`.
unsafe extern "C" fn step_back(_: u64, context: *mut Loop) -> i64 {
    // SAFETY: the context is `repeat`'s.
    unsafe {
        let range = &mut (*(*context).scratch).input.range;
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

/// Whether the first bytes can start a message: white space, a byte order mark, JSON, a header.
#[inline(always)]
pub unsafe fn may_be_json(scratch: *mut Scratch) -> bool {
    // SAFETY: scratch is this CPU's slot; user memory is read softly.
    unsafe {
        let input = &mut (*scratch).input;
        let range = &input.range;
        let base = if range.iov == 0 { range.base } else { pointer(range.iov, offset!(iovec_base)) + range.skip };
        let length = if range.iov == 0 {
            range.length
        } else {
            pointer(range.iov, offset!(iovec_length)).saturating_sub(range.skip)
        };
        let length = at_most(length, 8);
        (&raw mut input.chunk).cast::<u64>().write_unaligned(0x2020_2020_2020_2020);
        if bpf_probe_read_user(input.chunk.as_mut_ptr().cast(), length as u32, base as *const _) != 0 {
            return false;
        }
        for i in 0..8 {
            match input.chunk[i] {
                b'{' | b'[' | b'C' | b'c' => return true,
                b' ' | b'\t' | b'\r' | b'\n' | 0xef | 0xbb | 0xbf | 0x1e => {}
                _ => return false,
            }
        }
        true
    }
}

/// The first pass. `false`: a whole message, or several, without anything suspicious.
#[inline(always)]
pub unsafe fn is_suspicious(scratch: *mut Scratch) -> bool {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let input = &mut (*scratch).input;
        input.all = input.range;
        input.sifting = 1;
        input.suspicious = 0;
        let before = (&raw mut input.chunk).cast::<u64>();
        before.write_unaligned(0);
        before.add(1).write_unaligned(0);
        pass(scratch);
        let input = &mut (*scratch).input;
        // What is cut off by the limit is no handshake; what ends in the middle may go on as one.
        input.suspicious != 0 || (input.all.left < LONGEST && !sift::ends_whole(input))
    }
}

/// The second pass: parses. `true`: it is MCP.
#[inline(always)]
pub unsafe fn is_mcp(scratch: *mut Scratch) -> bool {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let input = &mut (*scratch).input;
        input.range = input.all;
        input.sifting = 0;
        pass(scratch);
        (*scratch).parser.found()
    }
}

#[inline(always)]
unsafe fn pass(scratch: *mut Scratch) {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        (*scratch).input.stop = 0;
        repeat(SEGMENTS, segment, scratch);
    }
}

unsafe extern "C" fn segment(_: u64, context: *mut Loop) -> i64 {
    // SAFETY: the context is `repeat`'s.
    unsafe {
        let scratch = (*context).scratch;
        let range = &mut (*scratch).input.range;
        if range.left == 0 || (*scratch).input.stop != 0 {
            return 1;
        }
        if range.iov == 0 {
            range.left = 0;
        } else {
            range.base = pointer(range.iov, offset!(iovec_base)) + range.skip;
            let length = pointer(range.iov, offset!(iovec_length)).saturating_sub(range.skip);
            range.length = if length > range.left { range.left } else { length };
            range.left -= range.length;
            range.skip = 0;
            range.iov += 16;
        }
        let chunks = (range.length + CHUNK as u64 - 1) / CHUNK as u64;
        repeat(chunks as u32, chunk, scratch);
    }
    0
}

unsafe extern "C" fn chunk(_: u64, context: *mut Loop) -> i64 {
    // SAFETY: the context is `repeat`'s; the length is bounded by the chunk.
    unsafe {
        let scratch = (*context).scratch;
        let input = &mut (*scratch).input;
        if input.range.length == 0 {
            return 1;
        }
        let length = at_most(input.range.length, CHUNK as u64);
        let to = (&raw mut input.chunk).cast::<u8>().add(BEFORE);
        if bpf_probe_read_user(to.cast(), length as u32, input.range.base as *const _) != 0 {
            input.stop = 1;
            return 1;
        }
        input.range.base += length;
        input.range.length -= length;
        input.filled = length as u32;
        if input.sifting != 0 {
            sift::chunk(scratch);
        } else {
            repeat(length as u32, json::byte, scratch);
        }
        if (*scratch).input.stop != 0 {
            return 1;
        }
    }
    0
}
