//! Launch grants: the next program that starts in the cgroup of a container that the daemon is starting, once.

use aya_ebpf::bindings::task_struct;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use lazaret_common::settings::CONTAINER_ID;

use crate::kernel::{offset, pointer};
use crate::maps::GRANTS;
use crate::scratch::Scratch;

/// Takes the launch grant of the container whose cgroup the task is in.
#[inline(always)]
pub unsafe fn take(scratch: *mut Scratch, task: *mut task_struct) -> bool {
    let cgroups = pointer(task as u64, offset!(task_cgroups));
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        grant(scratch, pointer(cgroups, offset!(css_set_dfl_cgroup)))
            // v1 hierarchies, where containers may not show up in the v2 one.
            || subsystem(scratch, cgroups, offset!(enum_cgroup_memory))
            || subsystem(scratch, cgroups, offset!(enum_cgroup_pids))
    }
}

#[inline(always)]
unsafe fn subsystem(scratch: *mut Scratch, cgroups: u64, index: u32) -> bool {
    if index > 64 {
        return false;
    }
    let css = pointer(cgroups, offset!(css_set_subsys) + 8 * index);
    // SAFETY: as in `take`.
    css != 0 && unsafe { grant(scratch, pointer(css, offset!(css_cgroup))) }
}

/// `ID` or `docker-ID.scope`.
#[inline(always)]
unsafe fn grant(scratch: *mut Scratch, cgroup: u64) -> bool {
    let name = pointer(pointer(cgroup, offset!(cgroup_kn)), offset!(kernfs_name));
    // SAFETY: scratch is this CPU's slot, the name is read softly.
    unsafe {
        let s = &mut *scratch;
        let to = &raw mut s.name;
        if bpf_probe_read_kernel_str(to.cast(), 128, name as *const _) < CONTAINER_ID as i64 + 1 {
            return false;
        }
        let from = if s.name[CONTAINER_ID] == 0 { 0 } else { 7 };
        let key = to.cast::<u8>().add(from).cast::<[u8; CONTAINER_ID]>();
        GRANTS.get_ptr(&*key).is_some() && GRANTS.remove(&*key).is_ok()
    }
}
