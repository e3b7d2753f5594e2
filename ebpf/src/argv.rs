//! The argv of a new image, from the kernel's own copy: no other thread can have changed it.

use aya_ebpf::helpers::generated::bpf_probe_read_user;
use lazaret_common::event::{ARGV, ARGV_TRUNCATED};
use lazaret_common::hash;

use crate::kernel::{Loop, at_most, offset, pointer, repeat};
use crate::scratch::Scratch;

/// Longest program or script name that is looked at.
const LONGEST_WORD: u32 = 1024;

/// Where the first words are: offsets into the argv.
#[repr(C)]
pub struct Words {
    /// Behind the last slash of the word.
    pub base: [u32; 4],
    /// Behind the word's NUL.
    pub end: [u32; 4],
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
    }
    true
}

/// Finds the first `wanted` (1..=3) words.
#[inline(always)]
pub fn words(scratch: *mut Scratch, wanted: u32) {
    // SAFETY: scratch is this CPU's slot.
    let length = unsafe {
        let words = &mut (*scratch).words;
        words.base = [0; 4];
        words.end = [0; 4];
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
        let word = (s.words.count & 3) as usize;
        let next = i as u32 + 1;
        if byte == 0 {
            s.words.end[word] = next;
            s.words.count += 1;
            s.words.base[(word + 1) & 3] = next;
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

/// Hash of the argv from `from` to its end.
#[inline(always)]
pub fn hash_from(scratch: *mut Scratch, from: u32) -> u64 {
    // SAFETY: scratch is this CPU's slot.
    let length = unsafe {
        let words = &mut (*scratch).words;
        words.hash = hash::START;
        words.from = from;
        words.length
    };
    if from >= length || length > ARGV as u32 {
        return 0;
    }
    repeat(length - from, hash_byte, scratch);
    // SAFETY: as above.
    unsafe { (*scratch).words.hash }
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
