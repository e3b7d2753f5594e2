//! The argv of a new image, from the kernel's own copy: no other thread can have changed it.

use aya_ebpf::helpers::generated::bpf_probe_read_user;
use lazaret_common::event::{ARGV, ARGV_TRUNCATED};
use lazaret_common::hash;
use lazaret_common::settings::LONGEST_ENTRY;

use crate::kernel::{Loop, at_most, offset, pointer, repeat};
use crate::scratch::Scratch;

/// Longest program or script name that is looked at.
const LONGEST_WORD: u32 = 1024;
/// Words that are told apart: an interpreter has up to five levels, and an option at each.
pub const WORDS: u32 = 7;
const CHUNK: u32 = 512;

/// Where the first words are: offsets into the argv.
#[repr(C)]
pub struct Words {
    /// Behind the last slash of the word.
    pub base: [u32; 8],
    /// Behind the word's NUL.
    pub end: [u32; 8],
    /// Words that were seen whole.
    pub count: u32,
    pub wanted: u32,
    last: u32,
    /// `mcp` stands somewhere in the words.
    pub says_mcp: u32,
    pub hash: u64,
    from: u32,
    /// Bytes of the argv that were read.
    pub length: u32,
    /// Bytes that it has.
    pub total: u32,
    /// The word that is the script which was started, 0: it is no script.
    pub script: u32,
    /// Whose process it is.
    pub uid: u32,
    /// A config entry was found.
    pub matched: u32,
    /// Where the argv is in the process's memory; 0 if it cannot be read further.
    pub start: u64,
    rest: u64,
    left: u32,
    /// Part of the argv that does not fit the event.
    chunk: [u8; CHUNK as usize],
}

/// Reads up to 4096 bytes into the event.
#[inline(always)]
pub fn take(scratch: *mut Scratch, mm: u64) -> bool {
    let start = pointer(mm, offset!(mm_arg_start));
    let end = pointer(mm, offset!(mm_arg_end));
    if start == 0 || end <= start {
        return false;
    }
    let total = end - start;
    // SAFETY: scratch is this CPU's slot; the length is bounded by the buffer.
    unsafe {
        let s = &mut *scratch;
        let length = at_most(total, ARGV as u64);
        s.event.head.flags = if total > ARGV as u64 { ARGV_TRUNCATED } else { 0 };
        if bpf_probe_read_user(s.event.argv.as_mut_ptr().cast(), length as u32, start as *const _) != 0 {
            return false;
        }
        s.event.head.argv_length = length as u32;
        s.words.length = length as u32;
        s.words.total = if total > u32::MAX as u64 { u32::MAX } else { total as u32 };
        s.words.start = start;
    }
    true
}

/// Finds the first `wanted` (1..=[`WORDS`]) words.
#[inline(always)]
pub fn words(scratch: *mut Scratch, wanted: u32) {
    // SAFETY: scratch is this CPU's slot.
    let length = unsafe {
        let words = &mut (*scratch).words;
        words.base = [0; 8];
        words.end = [0; 8];
        words.count = 0;
        words.wanted = wanted;
        words.last = 0;
        words.says_mcp = 0;
        words.length
    };
    repeat(if length > LONGEST_WORD { LONGEST_WORD } else { length }, word_byte, scratch);
}

unsafe extern "C" fn word_byte(i: u64, context: *mut Loop) -> i64 {
    // SAFETY: the context is `repeat`'s; indices are masked to the arrays.
    unsafe {
        let s = &mut *(*context).scratch;
        let byte = s.event.argv[(i & (ARGV as u64 - 1)) as usize];
        let word = (s.words.count & 7) as usize;
        let next = i as u32 + 1;
        if byte == 0 {
            s.words.end[word] = next;
            s.words.count += 1;
            s.words.base[(word + 1) & 7] = next;
            return (s.words.count >= s.words.wanted) as i64;
        }
        if byte == b'/' {
            s.words.base[word] = next;
        }
        s.words.last = (s.words.last << 8 | (byte | 0x20) as u32) & 0x00ff_ffff;
        if s.words.last == 0x006d_6370 {
            s.words.says_mcp = 1;
        }
    }
    0
}

/// Goes on with the hash over the argv from `from` to its end. `false`: its end cannot be read.
#[inline(always)]
pub fn hash_from(scratch: *mut Scratch, from: u32) -> bool {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let words = &mut (*scratch).words;
        words.from = from;
        let length = words.length;
        if from > length || length > ARGV as u32 {
            return false;
        }
        repeat(length - from, hash_byte, scratch);
        let words = &mut (*scratch).words;
        let left = words.total.wrapping_sub(words.length);
        if left == 0 {
            return true;
        }
        if words.start == 0 || left > LONGEST_ENTRY {
            return false;
        }
        words.rest = words.start + words.length as u64;
        words.left = left;
        repeat(LONGEST_ENTRY / CHUNK + 1, hash_chunk, scratch);
        (*scratch).words.left == 0
    }
}

unsafe extern "C" fn hash_byte(i: u64, context: *mut Loop) -> i64 {
    // SAFETY: as in `word_byte`.
    unsafe {
        let s = &mut *(*context).scratch;
        let at = (s.words.from as u64 + i) & (ARGV as u64 - 1);
        s.words.hash = hash::step(s.words.hash, s.event.argv[at as usize]);
    }
    0
}

unsafe extern "C" fn hash_chunk(_: u64, context: *mut Loop) -> i64 {
    // SAFETY: as in `word_byte`; the length is bounded by the chunk.
    unsafe {
        let scratch = (*context).scratch;
        let words = &mut (*scratch).words;
        let length = at_most(words.left as u64, CHUNK as u64) as u32;
        if length == 0 {
            return 1;
        }
        if bpf_probe_read_user(words.chunk.as_mut_ptr().cast(), length, words.rest as *const _) != 0 {
            return 1;
        }
        words.rest += length as u64;
        words.left -= length;
        repeat(length, hash_chunk_byte, scratch);
    }
    0
}

unsafe extern "C" fn hash_chunk_byte(i: u64, context: *mut Loop) -> i64 {
    // SAFETY: as in `word_byte`.
    unsafe {
        let words = &mut (*(*context).scratch).words;
        words.hash = hash::step(words.hash, words.chunk[(i & (CHUNK as u64 - 1)) as usize]);
    }
    0
}
