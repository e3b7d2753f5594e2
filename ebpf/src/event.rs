//! Telling user space. A full ring buffer loses the news, never the verdict.

use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
    bpf_ktime_get_boot_ns, bpf_probe_read_kernel, bpf_ringbuf_output,
};
use lazaret_common::event::{ANCESTORS, ARGV, Ancestor, COMM, CWD_TRUNCATED, EXE_TRUNCATED, FORMAT, Head};
use lazaret_common::hook::LOST_EVENTS;

use crate::kernel::{Loop, at_most, current, offset, pointer, read, repeat};
use crate::maps::{EVENTS, count};
use crate::path;
use crate::scratch::Scratch;

/// Fills in who the current task is and sends the event. The caller has set kind, evidence,
/// action, shadow, config entry, address and argv.
#[inline(always)]
pub unsafe fn send(scratch: *mut Scratch) {
    // SAFETY: scratch is this CPU's slot; kernel memory is read softly.
    unsafe {
        let task = current() as u64;
        let mm = pointer(task, offset!(task_mm));
        let file = if mm == 0 { 0 } else { pointer(mm, offset!(mm_exe_file)) };
        identity(scratch, file);
        if !path::exe(scratch, file) {
            (*scratch).event.head.flags |= EXE_TRUNCATED;
        }
        if !path::cwd(scratch, pointer(task, offset!(task_fs))) {
            (*scratch).event.head.flags |= CWD_TRUNCATED;
        }
        (*scratch).event.head.ancestor_count = 0;
        (*scratch).cursor = task;
        repeat(ANCESTORS as u32, ancestor, scratch);
        output(scratch);
    }
}

#[inline(always)]
unsafe fn identity(scratch: *mut Scratch, file: u64) {
    // SAFETY: as in `send`.
    unsafe {
        let head = &mut (*scratch).event.head;
        let ids = bpf_get_current_pid_tgid();
        head.pid = ids as u32;
        head.tgid = (ids >> 32) as u32;
        let user = bpf_get_current_uid_gid();
        head.uid = user as u32;
        head.gid = (user >> 32) as u32;
        head.format = FORMAT;
        head.at = bpf_ktime_get_boot_ns();
        head.cgroup = bpf_get_current_cgroup_id();
        bpf_get_current_comm(head.comm.as_mut_ptr().cast(), COMM as u32);
        let (inode, dev) = file_id(file);
        head.exe_inode = inode;
        head.exe_dev = dev;
    }
}

/// Inode number and device of an open file.
#[inline(always)]
pub fn file_id(file: u64) -> (u64, u32) {
    if file == 0 {
        return (0, 0);
    }
    let inode = pointer(file, offset!(file_inode));
    let sb = pointer(inode, offset!(inode_sb));
    (pointer(inode, offset!(inode_ino)), read::<u32>(sb, offset!(sb_dev)).unwrap_or(0))
}

unsafe extern "C" fn ancestor(i: u64, context: *mut Loop) -> i64 {
    // SAFETY: the context is `repeat`'s; the index is masked.
    unsafe {
        let s = &mut *(*context).scratch;
        let parent = pointer(s.cursor, offset!(task_real_parent));
        let pid = read::<u32>(parent, offset!(task_tgid)).unwrap_or(0);
        if pid == 0 {
            return 1;
        }
        let slot: &mut Ancestor = &mut s.event.head.ancestors[i as usize & (ANCESTORS - 1)];
        slot.pid = pid;
        let comm = parent.wrapping_add(offset!(task_comm) as u64);
        bpf_probe_read_kernel(slot.comm.as_mut_ptr().cast(), COMM as u32, comm as *const _);
        s.event.head.ancestor_count = i as u32 + 1;
        s.cursor = parent;
        (pid == 1) as i64
    }
}

#[inline(always)]
unsafe fn output(scratch: *mut Scratch) {
    // SAFETY: the length is bounded by the event.
    unsafe {
        let s = &mut *scratch;
        let argv = at_most(s.event.head.argv_length as u64, ARGV as u64);
        let length = size_of::<Head>() as u64 + argv;
        let map = core::ptr::from_ref(&EVENTS).cast_mut().cast();
        if bpf_ringbuf_output(map, (&raw mut s.event).cast(), length, 0) != 0 {
            count(LOST_EVENTS);
        }
    }
}
