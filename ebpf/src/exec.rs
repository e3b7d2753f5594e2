//! exec: judged after the point of no return, before the new image runs its first instruction.
//!
//! The argv is read from the new image's own memory, where no other thread can have changed it.

use aya_ebpf::bindings::task_struct;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use lazaret_common::catalogue::{CLIENT as IS_CLIENT, SERVER as IS_SERVER};
use lazaret_common::event::{CLIENT, HAS_ENTRY, OBSERVED, SPAWN};
use lazaret_common::hook::Hook;
use lazaret_common::label::{APPROVED, CLEARED, CLIENT as BELOW_CLIENT, HELD, OF_THE_IMAGE, TRUSTED};
use lazaret_common::settings::{CATALOGUE, CONFIG, CONTAINER_ID, EntryKey, ExecutableKey, Settings};

use crate::event::{self, file_id};
use crate::kernel::{current, offset, pointer};
use crate::maps::{ENTRIES, ENTRY_LENGTHS, EXECUTABLES, GRANTS, LABELS, fired};
use crate::scratch::{self, Scratch};
use crate::{argv, catalogue, label, scope, verdict};

/// Linux 5.5 (`bpf_send_signal` 5.3, task storage in tracing programs 5.11, `bpf_loop` 5.17).
#[btf_tracepoint(function = "sched_process_exec")]
pub fn exec(ctx: BtfTracePointContext) -> i32 {
    fired(Hook::Exec);
    let Some(settings) = scope::settings() else { return 0 };
    let bprm: u64 = ctx.arg(2);
    // SAFETY: kernel memory is read softly, scratch is this CPU's slot.
    unsafe { judge(settings, bprm) };
    0
}

#[inline(always)]
unsafe fn judge(settings: &Settings, bprm: u64) {
    let task = current();
    let flags = relabel(task, bprm, settings);
    if flags & CLEARED != 0 {
        return;
    }
    let Some(scratch) = scratch::slot(scratch::EXEC) else { return };
    let mm = pointer(task as u64, offset!(task_mm));
    if !argv::take(scratch, mm) {
        return;
    }
    let script = pointer(bprm, offset!(bprm_interp)) != pointer(bprm, offset!(bprm_filename));
    argv::words(scratch, if script { 3 } else { 1 });
    let mut evidence = 0;
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        (*scratch).event.head.config_entry = 0;
        (*scratch).event.head.address_length = 0;
        (*scratch).event.head.address_family = 0;
        if entry(scratch, 0) || script && (entry(scratch, 1) || entry(scratch, 2)) {
            evidence |= 1 << CONFIG;
        }
        match catalogue::judge(scratch) {
            IS_SERVER => evidence |= 1 << CATALOGUE,
            IS_CLIENT if evidence == 0 => client(scratch, task, flags),
            _ => {}
        }
        if evidence != 0 {
            verdict::convict(scratch, settings, SPAWN, evidence);
        }
    }
}

/// What the new image keeps and gets; returns the label's flags.
#[inline(always)]
fn relabel(task: *mut task_struct, bprm: u64, settings: &Settings) -> u32 {
    let (inode, dev) = file_id(pointer(bprm, offset!(bprm_file)));
    let key = ExecutableKey { inode, dev, reserved: 0 };
    // SAFETY: read at once.
    let mut gets = unsafe { EXECUTABLES.get(&key) }.map_or(0, |flags| *flags & OF_THE_IMAGE);
    if settings.grants != 0 && gets & TRUSTED == 0 && granted(task) {
        gets |= APPROVED;
    }
    let own = LABELS.get(task);
    if own.is_null() && gets == 0 {
        return 0;
    }
    let own = if own.is_null() { label::make(task) } else { own };
    if own.is_null() {
        return gets;
    }
    // SAFETY: not null.
    unsafe {
        let mut flags = (*own).flags & !(OF_THE_IMAGE | HELD) | gets;
        if gets & APPROVED != 0 {
            flags &= !lazaret_common::label::FLAGGED;
            (*own).shadow = 0;
            (*own).told = 0;
        }
        (*own).flags = flags;
        flags
    }
}

/// Takes the launch grant of the container whose cgroup the task is in.
#[inline(always)]
fn granted(task: *mut task_struct) -> bool {
    let cgroups = pointer(task as u64, offset!(task_cgroups));
    if grant(pointer(cgroups, offset!(css_set_dfl_cgroup))) {
        return true;
    }
    // v1 hierarchies, where containers may not show up in the v2 one.
    subsystem(cgroups, offset!(enum_cgroup_memory)) || subsystem(cgroups, offset!(enum_cgroup_pids))
}

#[inline(always)]
fn subsystem(cgroups: u64, index: u32) -> bool {
    if index > 64 {
        return false;
    }
    let css = pointer(cgroups, offset!(css_set_subsys) + 8 * index);
    css != 0 && grant(pointer(css, offset!(css_cgroup)))
}

/// `ID` or `docker-ID.scope`.
#[inline(always)]
fn grant(cgroup: u64) -> bool {
    let Some(scratch) = scratch::slot(scratch::EXEC) else { return false };
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

/// The argv from the basename of word `index` on is a config entry.
#[inline(always)]
unsafe fn entry(scratch: *mut Scratch, index: u32) -> bool {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let words = &(*scratch).words;
        if index >= words.count || words.total > words.length {
            return false;
        }
        let base = words.base[(index & 3) as usize];
        let length = words.length.wrapping_sub(base);
        if ENTRY_LENGTHS.get_ptr(&length).is_none() {
            return false;
        }
        let hash = argv::hash_from(scratch, base);
        let Some(id) = ENTRIES.get_ptr(&EntryKey { hash, length, reserved: 0 }) else { return false };
        (*scratch).event.head.config_entry = *id;
        (*scratch).event.head.flags |= HAS_ENTRY;
        true
    }
}

/// A client is no shadow: user space hears of it once, to read its configs.
#[inline(always)]
unsafe fn client(scratch: *mut Scratch, task: *mut task_struct, flags: u32) {
    if flags & BELOW_CLIENT != 0 {
        return;
    }
    let own = label::make(task);
    if !own.is_null() {
        // SAFETY: not null.
        unsafe { (*own).flags |= BELOW_CLIENT };
    }
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let head = &mut (*scratch).event.head;
        head.kind = CLIENT;
        head.evidence = 0;
        head.action = OBSERVED;
        head.shadow = 0;
        event::send(scratch);
    }
}
