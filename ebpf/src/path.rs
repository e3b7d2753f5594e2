//! Paths of files, walked from the leaf to the root of the mount tree.
//!
//! Only for events: by the time that user space looks, a killed process is gone.

use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_kernel_str};
use lazaret_common::event::{PATH, PATH_SLACK, Path};

use crate::kernel::{Loop, offset, pointer, repeat};
use crate::scratch::Scratch;

/// Deepest path that is kept.
const COMPONENTS: u32 = 64;

#[repr(C)]
pub struct PathWalk {
    dentry: u64,
    mount: u64,
    output: Path,
    /// The root was reached.
    complete: u32,
}

/// Walks the `struct path` at `path` into the walk's output; `true` if it is whole.
#[inline(always)]
unsafe fn walk(scratch: *mut Scratch, path: u64) -> bool {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let walk = &mut (*scratch).path;
        walk.output.length = 0;
        walk.complete = 0;
        walk.dentry = pointer(path, offset!(path_dentry));
        walk.mount = pointer(path, offset!(path_mnt));
        if walk.dentry == 0 || walk.mount == 0 {
            return false;
        }
        repeat(COMPONENTS, component, scratch);
        (*scratch).path.complete != 0
    }
}

unsafe extern "C" fn component(_: u64, context: *mut Loop) -> i64 {
    // SAFETY: the context is `repeat`'s; kernel memory is read softly.
    unsafe {
        let walk = &mut (*(*context).scratch).path;
        if walk.dentry == pointer(walk.mount, offset!(vfsmount_root)) {
            let mount = walk.mount - offset!(mount_vfsmount) as u64;
            let parent = pointer(mount, offset!(mount_parent));
            if parent == 0 || parent == mount {
                walk.complete = 1;
                return 1;
            }
            walk.dentry = pointer(mount, offset!(mount_mountpoint));
            walk.mount = parent + offset!(mount_vfsmount) as u64;
            return 0;
        }
        let parent = pointer(walk.dentry, offset!(dentry_parent));
        if parent == 0 {
            return 1;
        }
        let name = pointer(walk.dentry, offset!(dentry_name) + offset!(qstr_name));
        let length = walk.output.length as usize;
        if length >= PATH {
            return 1;
        }
        let to = (&raw mut walk.output.bytes).cast::<u8>().add(length & (PATH - 1));
        let copied = bpf_probe_read_kernel_str(to.cast(), PATH_SLACK as u32, name as *const _);
        if copied <= 0 {
            return 1;
        }
        walk.output.length = (length as i64 + copied) as u32;
        // A root that is mounted nowhere: a memfd, a pipe.
        if parent == walk.dentry {
            walk.complete = 1;
            return 1;
        }
        walk.dentry = parent;
    }
    0
}

/// Copies the walk's output. By the kernel: the compiler's own copy is a loop over bytes, which the verifier follows
/// byte by byte.
#[inline(always)]
unsafe fn keep(scratch: *mut Scratch, to: *mut Path) {
    // SAFETY: both lie in this CPU's slot.
    unsafe {
        let from = (&raw const (*scratch).path.output).cast();
        bpf_probe_read_kernel(to.cast(), size_of::<Path>() as u32, from);
    }
}

/// The executable's path into the event.
#[inline(always)]
pub unsafe fn exe(scratch: *mut Scratch, file: u64) -> bool {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let whole = file != 0 && walk(scratch, file + offset!(file_path) as u64);
        keep(scratch, &raw mut (*scratch).event.head.exe);
        whole
    }
}

/// The working directory's path into the event.
#[inline(always)]
pub unsafe fn cwd(scratch: *mut Scratch, fs: u64) -> bool {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let whole = fs != 0 && walk(scratch, fs + offset!(fs_pwd) as u64);
        keep(scratch, &raw mut (*scratch).event.head.cwd);
        whole
    }
}
