//! What happens to a task that evidence convicts: decided and done here.

use aya_ebpf::helpers::generated::{bpf_get_smp_processor_id, bpf_ktime_get_boot_ns, bpf_send_signal};
use lazaret_common::event::{HANDSHAKE as HANDSHAKE_EVENT, HELD as ACTION_HELD, KILLED, OBSERVED};
use lazaret_common::label::{FLAGGED, HELD, Label};
use lazaret_common::settings::{
    CATALOGUE, CONFIG, CONNECT, HANDSHAKE, MODE_ENFORCE, MODE_HOLD, MODE_OBSERVE, Settings,
};

use crate::event;
use crate::label;
use crate::scratch::Scratch;

const SIGKILL: u32 = 9;
const SIGSTOP: u32 = 19;

/// The strongest mode among the kinds of evidence.
#[inline(always)]
pub fn mode(settings: &Settings, evidence: u8) -> u8 {
    let mut mode = 0;
    let mut take = |bit: u32| {
        let of = settings.modes[bit as usize];
        if evidence & (1 << bit) != 0 && of > mode {
            mode = of;
        }
    };
    take(CONFIG);
    take(CATALOGUE);
    take(HANDSHAKE);
    take(CONNECT);
    mode
}

/// Flags the current task. `true`: user space has heard of this evidence against it.
#[inline(always)]
unsafe fn flag(scratch: *mut Scratch, also: u32, evidence: u8) -> bool {
    // SAFETY: labels are checked for null.
    unsafe {
        let own = label::make_current();
        let mut shadow = if own.is_null() { 0 } else { (*own).shadow };
        if shadow == 0 {
            // Nanoseconds since boot, the processor in the low bits: two are never the same.
            shadow = bpf_ktime_get_boot_ns() << 8 | (bpf_get_smp_processor_id() as u64 & 0xff);
        }
        let evidence = evidence as u32;
        let told = !own.is_null() && (*own).told & evidence == evidence;
        mark(own, shadow, also, evidence);
        (*scratch).event.head.shadow = shadow;
        told
    }
}

#[inline(always)]
unsafe fn mark(label: *mut Label, shadow: u64, also: u32, evidence: u32) {
    if !label.is_null() {
        // SAFETY: task storage of a live task.
        unsafe {
            (*label).flags |= FLAGGED | also;
            (*label).shadow = shadow;
            (*label).told |= evidence;
        }
    }
}

/// Convicts the current task: flags it, stops or ends it as the mode says, and tells user space.
/// A signal that is sent here is delivered before the task runs another instruction in user mode.
#[inline(always)]
pub unsafe fn convict(scratch: *mut Scratch, settings: &Settings, kind: u8, evidence: u8) {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let mode = mode(settings, evidence);
        let told = flag(scratch, if mode == MODE_HOLD { HELD } else { 0 }, evidence);
        // A server of the 2026 protocol says what it is with every message: once is enough.
        if mode == MODE_OBSERVE && kind == HANDSHAKE_EVENT && told {
            return;
        }
        let action = if mode == MODE_ENFORCE && bpf_send_signal(SIGKILL) == 0 {
            KILLED
        } else if mode == MODE_HOLD && bpf_send_signal(SIGSTOP) == 0 {
            ACTION_HELD
        } else {
            OBSERVED
        };
        let head = &mut (*scratch).event.head;
        head.kind = kind;
        head.evidence = evidence;
        head.action = action;
        event::send(scratch);
    }
}
