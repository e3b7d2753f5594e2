//! Which label an image gets for being the executable that it is.
//!
//! Trusted is only an image that nobody else has a hand in: it is not traced, nothing in its environment makes
//! the loader put other code into it, and its mounts are the host's or root's making. A user namespace gives
//! anybody a mount namespace, and with it another C library under the same program.

use aya_ebpf::bindings::task_struct;
use aya_ebpf::helpers::generated::{bpf_get_current_uid_gid, bpf_probe_read_user};
use aya_ebpf::macros::fentry;
use aya_ebpf::programs::FEntryContext;
use lazaret_common::environment::{HASHES, LONGEST, LONGEST_NAME, PREFIX};
use lazaret_common::hash;
use lazaret_common::hook::Hook;
use lazaret_common::label::{APPROVED, FOR_ROOT, OF_THE_IMAGE, TRUSTED};
use lazaret_common::settings::ExecutableKey;

use crate::kernel::{Loop, at_most, field, offset, pointer, read, repeat};
use crate::label;
use crate::maps::{EXECUTABLES, fired};
use crate::scratch::Scratch;

const CHUNK: u64 = 512;
/// What every variable that the loader heeds starts with.
const LOADER: u64 = hash::of(PREFIX);
/// `PTRACE_MODE_ATTACH` (include/linux/ptrace.h).
const ATTACH: u32 = 2;

/// The walk over an environment.
#[repr(C)]
pub struct Environment {
    at: u64,
    left: u64,
    /// Of the variable's name so far.
    hash: u64,
    /// Bytes of that name.
    length: u32,
    /// Not behind the `=` of a variable.
    naming: u8,
    /// It has one of the variables, or cannot be read to its end.
    loads_code: u8,
    pad: [u8; 2],
    chunk: [u8; CHUNK as usize],
}

/// The flags that the image of the program that `bprm` (a typed pointer) tells of gets in the memory `mm` of `task`.
#[inline(always)]
pub unsafe fn label_of(scratch: *mut Scratch, task: *mut task_struct, bprm: *const u8, mm: u64) -> u32 {
    let file: *const u8 = field(bprm, offset!(bprm_file));
    if file.is_null() {
        return 0;
    }
    let node: *const u8 = field(file, offset!(file_inode));
    if node.is_null() {
        return 0;
    }
    let inode = field(node, offset!(inode_ino));
    let owner = field(node, offset!(inode_uid));
    let sb: *const u8 = field(node, offset!(inode_sb));
    let dev = if sb.is_null() { 0 } else { field(sb, offset!(sb_dev)) };
    // SAFETY: read at once.
    let Some(found) = (unsafe { EXECUTABLES.get(&ExecutableKey { inode, dev, uid: owner }) }) else { return 0 };
    let gets = *found & OF_THE_IMAGE;
    if gets & TRUSTED == 0 {
        return gets;
    }
    if user_namespace_level(task) != 0 {
        return gets & !TRUSTED;
    }
    if *found & FOR_ROOT != 0 {
        // Root's programs are as root starts them.
        return if is_root() { gets } else { gets & !TRUSTED };
    }
    let traced = read::<u32>(task as u64, offset!(task_ptrace)).unwrap_or(1) != 0;
    // SAFETY: scratch is this CPU's slot.
    if traced || unsafe { loads_code(scratch, mm) } { gets & !TRUSTED } else { gets }
}

/// The real uid, as the first user namespace counts.
#[inline(always)]
fn is_root() -> bool {
    // SAFETY: a plain helper.
    unsafe { bpf_get_current_uid_gid() as u32 == 0 }
}

/// 0 is the namespace that the host booted with.
#[inline(always)]
fn user_namespace_level(task: *mut task_struct) -> u32 {
    let namespace = pointer(pointer(task as u64, offset!(task_cred)), offset!(cred_user_ns));
    read::<u32>(namespace, offset!(user_ns_level)).unwrap_or(1)
}

#[inline(always)]
unsafe fn loads_code(scratch: *mut Scratch, mm: u64) -> bool {
    let start = pointer(mm, offset!(mm_env_start));
    let left = pointer(mm, offset!(mm_env_end)).wrapping_sub(start);
    if start == 0 || left > LONGEST {
        return true;
    }
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let walk = &mut (*scratch).environment;
        walk.at = start;
        walk.left = left;
        walk.hash = hash::START;
        walk.length = 0;
        walk.naming = 1;
        walk.loads_code = 0;
        repeat((LONGEST / CHUNK) as u32, chunk, scratch);
        (*scratch).environment.loads_code != 0
    }
}

unsafe extern "C" fn chunk(_: u64, context: *mut Loop) -> i64 {
    // SAFETY: the context is `repeat`'s; the length is bounded by the chunk.
    unsafe {
        let scratch = (*context).scratch;
        let walk = &mut (*scratch).environment;
        if walk.left == 0 {
            return 1;
        }
        let length = at_most(walk.left, CHUNK);
        if bpf_probe_read_user(walk.chunk.as_mut_ptr().cast(), length as u32, walk.at as *const _) != 0 {
            walk.loads_code = 1;
            return 1;
        }
        walk.at += length;
        walk.left -= length;
        repeat(length as u32, byte, scratch);
        ((*scratch).environment.loads_code != 0) as i64
    }
}

unsafe extern "C" fn byte(i: u64, context: *mut Loop) -> i64 {
    // SAFETY: the context is `repeat`'s; the index is masked.
    unsafe {
        let walk = &mut (*(*context).scratch).environment;
        let byte = walk.chunk[(i & (CHUNK - 1)) as usize];
        if byte == 0 {
            walk.hash = hash::START;
            walk.length = 0;
            walk.naming = 1;
            return 0;
        }
        if walk.naming == 0 {
            return 0;
        }
        if byte == b'=' || walk.length > LONGEST_NAME {
            walk.naming = 0;
            let name = walk.hash;
            if name == HASHES[0] || name == HASHES[1] || name == HASHES[2] {
                walk.loads_code = 1;
            }
            return (walk.loads_code != 0) as i64;
        }
        walk.hash = hash::step(walk.hash, byte);
        walk.length += 1;
        if walk.length == PREFIX.len() as u32 && walk.hash == LOADER {
            walk.loads_code = 1;
        }
        (walk.loads_code != 0) as i64
    }
}

/// Linux 5.5. Whoever may write into a trusted or an approved process makes it an ordinary one, unless that
/// is root or the container's own.
#[fentry(function = "security_ptrace_access_check")]
pub fn ptrace(ctx: FEntryContext) -> i32 {
    fired(Hook::Ptrace);
    if ctx.arg::<u32>(1) & ATTACH == 0 {
        return 0;
    }
    let theirs = label::of(ctx.arg(0));
    if theirs.is_null() || is_root() {
        return 0;
    }
    // SAFETY: not null, so it points to that process's storage.
    unsafe {
        let shared = if label::flags() & APPROVED != 0 { APPROVED } else { 0 };
        (*theirs).flags &= !((TRUSTED | APPROVED) & !shared);
    }
    0
}
