//! The daemon's own door on a loopback port: who knocks there goes around nothing.
//!
//! Invariant: what is sent is let through because the connection was begun while the daemon that listens now listened,
//! to the very address and in the very network where it does; nothing else could have answered there. The map is empty
//! before the daemon's sockets are closed, however it ends.

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use lazaret_common::hook::Hook;
use lazaret_common::label::{CLIENT, DOOR as IS_DOOR, FLAGGED};
use lazaret_common::settings::Door;

use crate::connect::Inet;
use crate::connect_send::Dialogue;
use crate::kernel::{current, offset, pointer, read};
use crate::label;
use crate::maps::{DOOR, KNOCKED, fired};

/// The door, if it is open and `to` is its address.
#[inline(always)]
fn at(to: &Inet) -> Option<&'static Door> {
    let door = DOOR.get(0)?;
    // SAFETY: sixteen bytes of plain numbers.
    let [a, b, c, d] = unsafe { (&raw const door.address).cast::<[u32; 4]>().read_unaligned() };
    let [e, f, g, h] = to.words;
    let same = a == e && b == f && c == g && d == h && door.port == to.port;
    (door.since != 0 && same).then_some(door)
}

/// Whether a connect leads to the door; it is remembered then. `socket` is a `struct socket`, as a number.
#[inline(always)]
pub fn is_knocked_at(socket: u64, to: &Inet) -> bool {
    let Some(door) = at(to) else { return false };
    if label::flags() & (FLAGGED | CLIENT) != CLIENT {
        return false;
    }
    let sock = pointer(socket, offset!(socket_sk));
    let network = pointer(sock, offset!(sk_common) + offset!(netns_of_sock));
    if network == 0 || read::<u32>(network, offset!(netns_common) + offset!(netns_number)) != Some(door.netns) {
        return false;
    }
    let since = door.since;
    // A full map forgets the oldest: that one has to connect again.
    KNOCKED.insert(&Dialogue::of(socket, sock), &since, 0).is_ok()
}

/// Whether the connection leads through the door that is open now.
#[inline(always)]
pub fn is_behind(socket: u64, sock: u64, to: &Inet) -> bool {
    let Some(door) = at(to) else { return false };
    let Some(since) = KNOCKED.get_ptr(&Dialogue::of(socket, sock)) else { return false };
    // SAFETY: read at once.
    unsafe { *since == door.since }
}

/// Linux 5.5. A process ends, and its sockets are not closed yet (`do_exit` in kernel/exit.c): they are its threads' in
/// common, so that the first thread's end is early enough.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn door_end(_: BtfTracePointContext) -> i32 {
    fired(Hook::DoorEnd);
    if label::leader(current()) == current()
        && label::flags() & IS_DOOR != 0
        && let Some(door) = DOOR.get_ptr_mut(0)
    {
        // SAFETY: an array slot.
        unsafe { (*door).since = 0 };
    }
    0
}
