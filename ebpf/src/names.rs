//! Under which names a program was started.
//!
//! The first word of an argv is what the caller chose to write there. The path that was executed and the
//! file's own name are the kernel's word; where they differ from it, they are tried as well. One file that
//! stands for many programs is told apart by the first word alone, so that its own name says nothing.

use aya_ebpf::helpers::generated::{bpf_get_current_uid_gid, bpf_probe_read_kernel_str};
use lazaret_common::catalogue::{SERVER, START};
use lazaret_common::event::ARGV;
use lazaret_common::hash;

use crate::argv::{self, WORDS};
use crate::kernel::{Loop, field, offset, pointer, repeat};
use crate::scratch::Scratch;
use crate::{catalogue, entries};

/// Longest name that is compared, its NUL included.
pub const NAME: usize = 64;
/// Longest path whose last component is looked for.
const PATH: usize = 128;
/// `BINPRM_FLAGS_PRESERVE_ARGV0` (include/linux/binfmts.h).
const PRESERVES_ARGV0: u32 = 1 << 3;

#[repr(C)]
pub struct Names {
    /// `linux_binprm.filename`: the path as the caller gave it.
    path: u64,
    /// Name of the file that was found there; 0 where that is not known.
    pub file: u64,
    /// Bytes of `name`, its NUL included.
    pub length: u32,
    /// What [`Names::name`] convicts of.
    verdict: u8,
    /// The first word is a launcher of the catalogue.
    known: u8,
    pad: [u8; 2],
    /// The first word's last component, padded with zeros.
    own: [u64; NAME / 8],
    /// Another name, padded with zeros.
    name: [u64; NAME / 8],
    at: u32,
    base: u32,
}

/// Finds the words of the argv, and the one that names the script if it is one.
#[inline(always)]
pub unsafe fn find(scratch: *mut Scratch, bprm: *const u8) {
    let path: u64 = field(bprm, offset!(bprm_filename));
    let script = field::<u64>(bprm, offset!(bprm_interp)) != path;
    argv::words(scratch, if script { WORDS } else { 1 });
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let s = &mut *scratch;
        s.words.script = 0;
        s.words.uid = bpf_get_current_uid_gid() as u32;
        s.names.path = path;
        s.names.file = field(bprm, offset!(bprm_file));
        if !script {
            return;
        }
        // The kernel puts the path of a script behind the words of its interpreter, and says so nowhere.
        s.names.file = 0;
        let copied = bpf_probe_read_kernel_str(s.name.as_mut_ptr().cast(), PATH as u32, path as *const _);
        if copied <= 1 {
            return;
        }
        s.names.length = copied as u32;
        repeat(WORDS, is_script, scratch);
        let flags = field::<u32>(bprm, offset!(bprm_interp_flags));
        let words = &mut (*scratch).words;
        if words.script != 0 && words.script < WORDS && flags & PRESERVES_ARGV0 != 0 {
            words.script += 1;
        }
    }
}

unsafe extern "C" fn is_script(i: u64, context: *mut Loop) -> i64 {
    // SAFETY: the context is `repeat`'s; indices are masked.
    unsafe {
        let scratch = (*context).scratch;
        let s = &mut *scratch;
        let word = i as usize + 1;
        if word >= s.words.count as usize {
            return 1;
        }
        let from = s.words.end[i as usize & 7];
        let length = s.words.end[word & 7].wrapping_sub(from);
        // A path that was cut is compared as far as it goes.
        let cut = s.names.length == PATH as u32 && length > PATH as u32;
        if length != s.names.length && !cut {
            return 0;
        }
        s.names.at = from;
        s.names.base = 0;
        repeat(if cut { PATH as u32 - 1 } else { length & (PATH as u32 - 1) }, same_byte, scratch);
        let s = &mut *scratch;
        if s.names.base != 0 {
            return 0;
        }
        s.words.script = word as u32;
        1
    }
}

/// `base` says that the path and the word differ.
unsafe extern "C" fn same_byte(i: u64, context: *mut Loop) -> i64 {
    // SAFETY: the context is `repeat`'s; indices are masked.
    unsafe {
        let s = &mut *(*context).scratch;
        let at = (s.names.at as u64 + i) & (ARGV as u64 - 1);
        if s.event.argv[at as usize] == s.name[(i & (PATH as u64 - 1)) as usize] {
            return 0;
        }
        s.names.base = 1;
        1
    }
}

/// What the program's other names convict of: [`SERVER`] for the catalogue, 1 for a config entry, 0 for nothing.
#[inline(always)]
pub unsafe fn judge_others(scratch: *mut Scratch) -> u8 {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let s = &mut *scratch;
        if s.names.file == 0 {
            return 0;
        }
        s.names.verdict = 0;
        s.names.known = (s.walk.state != START) as u8;
        s.names.own = [0; NAME / 8];
        let from = (s.words.base[0] & (ARGV as u32 - 1)) as usize;
        let argv = (&raw const s.event.argv).cast::<u8>().add(from);
        bpf_probe_read_kernel_str(s.names.own.as_mut_ptr().cast(), NAME as u32, argv.cast());
        let dentry = pointer(s.names.file, offset!(file_path) + offset!(path_dentry));
        let name = pointer(dentry, offset!(dentry_name) + offset!(qstr_name));
        if !take(s, name) || is_own(s) {
            return 0;
        }
        repeat(2, judge_other, scratch);
        (*scratch).names.verdict
    }
}

/// First by the file's own name, then by the path that was executed.
unsafe extern "C" fn judge_other(i: u64, context: *mut Loop) -> i64 {
    // SAFETY: the context is `repeat`'s.
    unsafe {
        let scratch = (*context).scratch;
        let s = &mut *scratch;
        if i == 0 {
            // A link to a launcher under a launcher's name: `python3`.
            if s.names.known != 0 || stands_for_many(s) {
                return 0;
            }
        } else {
            let path = s.names.path;
            if bpf_probe_read_kernel_str(s.name.as_mut_ptr().cast(), PATH as u32, path as *const _) <= 1 {
                return 1;
            }
            s.names.base = 0;
            repeat(PATH as u32, path_byte, scratch);
            let s = &mut *scratch;
            let base = (s.names.base & (PATH as u32 - 1)) as u64;
            if !take(s, path + base) || is_own(s) {
                return 1;
            }
        }
        if entries::matches_alias(scratch) {
            (*scratch).names.verdict = 1;
            return 1;
        }
        let found = catalogue::judge_alias(scratch);
        if found == SERVER {
            (*scratch).names.verdict = found;
            return 1;
        }
    }
    0
}

unsafe extern "C" fn path_byte(i: u64, context: *mut Loop) -> i64 {
    // SAFETY: the context is `repeat`'s; the index is masked.
    unsafe {
        let s = &mut *(*context).scratch;
        let byte = s.name[(i & (PATH as u64 - 1)) as usize];
        if byte == b'/' {
            s.names.base = i as u32 + 1;
        }
        (byte == 0) as i64
    }
}

/// Takes the name at the kernel's address `from`.
#[inline(always)]
unsafe fn take(s: &mut Scratch, from: u64) -> bool {
    s.names.name = [0; NAME / 8];
    // SAFETY: read softly; the length is the buffer's.
    unsafe {
        let copied = bpf_probe_read_kernel_str(s.names.name.as_mut_ptr().cast(), NAME as u32, from as *const _);
        s.names.length = copied as u32;
        copied > 1 && copied < NAME as i64
    }
}

#[inline(always)]
fn is_own(s: &Scratch) -> bool {
    let mut differ = 0;
    for i in 0..NAME / 8 {
        differ |= s.names.own[i] ^ s.names.name[i];
    }
    differ == 0
}

#[inline(always)]
fn stands_for_many(s: &Scratch) -> bool {
    let name = s.names.name[0];
    name == word(b"busybox\0")
        || name == word(b"toybox\0\0")
        || name == word(b"coreutil")
        || name == word(b"bun\0\0\0\0\0")
        || name == word(b"mise\0\0\0\0")
        || name == word(b"asdf\0\0\0\0")
        || name == word(b"volta-sh")
}

const fn word(name: &[u8; 8]) -> u64 {
    u64::from_le_bytes(*name)
}

/// Whether `mcp` stands in the name.
#[inline(always)]
pub unsafe fn says_mcp(scratch: *mut Scratch) -> bool {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        (*scratch).names.at = 0;
        repeat((*scratch).names.length & (NAME as u32 - 1), mcp_byte, scratch);
        (*scratch).names.at == MCP
    }
}

const MCP: u32 = 0x006d_6370;

unsafe extern "C" fn mcp_byte(i: u64, context: *mut Loop) -> i64 {
    // SAFETY: the context is `repeat`'s; the index is masked.
    unsafe {
        let s = &mut *(*context).scratch;
        let byte = *bytes(s).add((i & (NAME as u64 - 1)) as usize) | 0x20;
        s.names.at = (s.names.at << 8 | byte as u32) & 0x00ff_ffff;
        (s.names.at == MCP) as i64
    }
}

/// The name's bytes as they lie in memory.
#[inline(always)]
pub fn bytes(s: &Scratch) -> *const u8 {
    (&raw const s.names.name).cast()
}

/// Goes on with the words' hash over the name and its NUL.
#[inline(always)]
pub unsafe fn hash(scratch: *mut Scratch) {
    // SAFETY: scratch is this CPU's slot.
    unsafe { repeat((*scratch).names.length & (NAME as u32 - 1), hash_byte, scratch) };
}

unsafe extern "C" fn hash_byte(i: u64, context: *mut Loop) -> i64 {
    // SAFETY: the context is `repeat`'s; the index is masked.
    unsafe {
        let s = &mut *(*context).scratch;
        let byte = *bytes(s).add((i & (NAME as u64 - 1)) as usize);
        s.words.hash = hash::step(s.words.hash, byte);
    }
    0
}
