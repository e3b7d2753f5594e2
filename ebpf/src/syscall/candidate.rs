//! Candidates: reported when their image is exec'd, before its first instruction.
//!
//! While the programs on system calls are not attached, a candidate waits here until they are, a few
//! milliseconds at most: else a small server could read its first message before anybody looks.

use aya_ebpf::helpers::generated::{bpf_ktime_get_boot_ns, bpf_ringbuf_output};
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use lazaret_common::hook::{Hook, LOST_EVENTS};
use lazaret_common::label::{CLEARED, CLIENT, FLAGGED, INERT, REWRITES};
use lazaret_common::watch::{Candidate, Gate, Watch};

use super::file::{Open, group};
use crate::kernel::{Loop, repeat};
use crate::maps::{CANDIDATES, GATE, WATCH, count, fired};
use crate::scratch::{self, Scratch};
use crate::{label, scope};

/// More turns than any gate is long.
const TURNS: u32 = 1 << 20;
/// A gate that did not open says that user space is busy: nobody waits in vain for this long.
const PAUSE_NS: u64 = 1_000_000_000;

/// Linux 5.5. Its link belongs to the daemon: without one nobody waits.
#[btf_tracepoint(function = "sched_process_exec")]
pub fn candidate(_: BtfTracePointContext) -> i32 {
    fired(Hook::Candidate);
    if scope::settings().is_none() {
        return 0;
    }
    let Some(watch) = WATCH.get(0) else { return 0 };
    let flags = label::flags();
    let kinds = if flags & CLIENT != 0 { watch.kinds | watch.kinds_below } else { watch.kinds };
    if flags & CLEARED != 0 || kinds == 0 {
        return 0;
    }
    // What a text tool writes must be seen: else its reader would be taken for a server that got the message from
    // its client.
    let mut input = Open::of(if flags & INERT != 0 { 1 } else { 0 });
    if flags & REWRITES != 0 && input.kind & kinds == 0 {
        input = Open::of(1);
    }
    if input.kind & kinds == 0 {
        return 0;
    }
    // SAFETY: no pointers.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let news = Candidate { at: now, inode: input.inode(), pid: group(), kind: input.kind };
    let map = core::ptr::from_ref(&CANDIDATES).cast_mut().cast();
    // SAFETY: a whole value of this size.
    if unsafe { bpf_ringbuf_output(map, (&raw const news).cast_mut().cast(), size_of::<Candidate>() as u64, 0) } != 0 {
        count(LOST_EVENTS);
        return 0;
    }
    if flags & FLAGGED == 0 {
        wait(watch, now);
    }
    0
}

#[inline(always)]
fn wait(watch: &Watch, now: u64) {
    let (Some(gate), Some(scratch)) = (GATE.get_ptr_mut(0), scratch::slot(scratch::EXEC)) else { return };
    // SAFETY: an array slot; counts may miss one another, which costs nothing but the count.
    unsafe {
        if is_attached(watch) || watch.gate_ns == 0 || now.wrapping_sub((*gate).late_at) < PAUSE_NS {
            return;
        }
        (*scratch).cursor = now + watch.gate_ns;
        repeat(TURNS, turn, scratch);
        (*gate).waited += 1;
        if !is_attached(watch) {
            late(gate);
        }
    }
}

#[inline(always)]
unsafe fn late(gate: *mut Gate) {
    // SAFETY: as in `wait`.
    unsafe {
        (*gate).late += 1;
        (*gate).late_at = bpf_ktime_get_boot_ns();
    }
}

#[inline(always)]
fn is_attached(watch: &Watch) -> bool {
    // SAFETY: user space writes it meanwhile.
    unsafe { core::ptr::read_volatile(&watch.attached) != 0 }
}

/// Ends when the programs are attached or the time is up.
unsafe extern "C" fn turn(_: u64, context: *mut Loop) -> i64 {
    // SAFETY: the context is `repeat`'s.
    unsafe {
        let scratch: *mut Scratch = (*context).scratch;
        let Some(watch) = WATCH.get(0) else { return 1 };
        (is_attached(watch) || bpf_ktime_get_boot_ns() >= (*scratch).cursor) as i64
    }
}
