//! Connect evidence: a flagged task reaches for the network, or a task that is flagged or below an
//! MCP client reaches for a container engine or for a remote MCP server that a client config names.
//!
//! A flagged task is denied (or ended, where the backend cannot deny). Below clients it is reported,
//! and denied where the configuration says so. What a verdict rests on is kept on the stack: two
//! tasks can be in here on one processor, and then share the scratch space of the event.

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::generated::{
    bpf_get_current_pid_tgid, bpf_ktime_get_boot_ns, bpf_probe_read_kernel, bpf_send_signal,
};
use aya_ebpf::macros::{cgroup_sock_addr, fentry, lsm};
use aya_ebpf::programs::{FEntryContext, LsmContext, SockAddrContext};
use lazaret_common::event::{CONNECT as KIND, DENIED, KILLED, OBSERVED};
use lazaret_common::hook::Hook;
use lazaret_common::label::{CLEARED, CLIENT, FLAGGED};
use lazaret_common::settings::{CONNECT, Endpoint, MODE_ENFORCE, MODE_OBSERVE, Settings, UNIX_PATH};

use crate::kernel::{Loop, argument, at_most, current, offset, pointer, read, repeat};
use crate::maps::{ENDPOINTS, PROTECTED, TOLD, fired};
use crate::scratch::{self, Scratch};
use crate::{argv, door, event, label, scope};

const AF_UNIX: u16 = 1;
pub const AF_INET: u16 = 2;
pub const AF_INET6: u16 = 10;
const SIGKILL: u32 = 9;
/// The same connect of the same process is not news again for so many nanoseconds.
const AGAIN: u64 = 10_000_000_000;

/// Linux 5.7, `bpf` in the LSM list; or as fmod_ret on `security_socket_connect`. Inet only: what a
/// UNIX path leads to is not known yet.
#[lsm(hook = "socket_connect")]
pub fn connect(ctx: LsmContext) -> i32 {
    fired(Hook::Connect);
    let ret: i32 = ctx.arg(3);
    if ret != 0 {
        return ret;
    }
    let Some(settings) = scope::settings() else { return 0 };
    if inet(settings, argument(&ctx, 0), ctx.arg(1), DENIED) {
        return -1;
    }
    0
}

/// As [`connect`]. The peer is found: whatever path, link or mount led to it, it bears the name that
/// it was bound to.
#[lsm(hook = "unix_stream_connect")]
pub fn unix_connect(ctx: LsmContext) -> i32 {
    fired(Hook::UnixConnect);
    let ret: i32 = ctx.arg(3);
    if ret != 0 {
        return ret;
    }
    let Some(settings) = scope::settings() else { return 0 };
    if unix(settings, ctx.arg(1), DENIED) {
        return -1;
    }
    0
}

/// Linux 5.5. Ends the task, where nothing can deny.
#[fentry(function = "security_socket_connect")]
pub fn connect_fentry(ctx: FEntryContext) -> i32 {
    fired(Hook::ConnectFentry);
    let Some(settings) = scope::settings() else { return 0 };
    inet(settings, argument(&ctx, 0), ctx.arg(1), KILLED);
    0
}

/// As [`connect_fentry`].
#[fentry(function = "security_unix_stream_connect")]
pub fn unix_connect_fentry(ctx: FEntryContext) -> i32 {
    fired(Hook::UnixConnectFentry);
    let Some(settings) = scope::settings() else { return 0 };
    unix(settings, ctx.arg(1), KILLED);
    0
}

/// Linux 4.17; attached to the root cgroup. Denies, but sees inet sockets only.
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    fired(Hook::Connect4);
    // SAFETY: the verifier checks the fields that a program may read.
    let address = unsafe { (*ctx.sock_addr).user_ip4 };
    by_cgroup(ctx.sock_addr, AF_INET, [0, 0, MAPPED, address])
}

/// As [`connect4`].
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    fired(Hook::Connect6);
    // SAFETY: as above.
    let words = unsafe { (*ctx.sock_addr).user_ip6 };
    by_cgroup(ctx.sock_addr, AF_INET6, words)
}

/// 1: the connect may happen.
#[inline(always)]
fn by_cgroup(address: *const bpf_sock_addr, family: u16, words: [u32; 4]) -> i32 {
    let Some(settings) = scope::settings() else { return 1 };
    // SAFETY: as above.
    let port = unsafe { (*address).user_port } as u16;
    let to = Inet { family, words, port: u16::from_be(port) };
    if reach(settings, scratch::CONNECT, &to, DENIED) { 0 } else { 1 }
}

/// The third word of an IPv4 address that is written as an IPv6 one, in memory order.
pub const MAPPED: u32 = 0xffff_0000;
/// 127.0.0.1 and the last word of ::1, in memory order.
const LOOPBACK: u32 = 0x0100_007f;
const ONE: u32 = 0x0100_0000;

/// Where a socket leads. Words are in memory order, IPv4 is in the last one behind [`MAPPED`].
#[derive(Clone, Copy)]
pub struct Inet {
    pub family: u16,
    pub words: [u32; 4],
    pub port: u16,
}

impl Inet {
    /// Reads a `struct sockaddr` in kernel memory.
    #[inline(always)]
    pub fn at(address: u64) -> Option<Self> {
        let family = read::<u16>(address, 0)?;
        let words = match family {
            AF_INET => [0, 0, MAPPED, read::<u32>(address, 4)?],
            AF_INET6 => read::<[u32; 4]>(address, 8)?,
            _ => return None,
        };
        Some(Self { family, words, port: u16::from_be(read::<u16>(address, 2)?) })
    }

    /// The key of `ENDPOINTS`: every way to write this host's own loopback is the same place.
    #[inline(always)]
    fn endpoint(&self) -> Endpoint {
        let [a, b, c, mut d] = self.words;
        if a == 0 && b == 0 {
            // The unspecified address leads to the loopback one too.
            if c == MAPPED && (d == 0 || d & 0xff == 127) {
                d = LOOPBACK;
            }
            if c == 0 && d == 0 {
                d = ONE;
            }
        }
        let mut endpoint = Endpoint { address: [0; 16], port: self.port, reserved: 0 };
        // SAFETY: sixteen bytes of plain numbers.
        unsafe { (&raw mut endpoint.address).cast::<[u32; 4]>().write_unaligned([a, b, c, d]) };
        endpoint
    }
}

#[inline(always)]
fn inet(settings: &Settings, socket: u64, address: u64, how: u8) -> bool {
    let Some(to) = Inet::at(address) else { return false };
    !door::is_knocked_at(socket, &to) && reach(settings, scratch::CONNECT, &to, how)
}

/// `true`: the task must not reach `to`.
#[inline(always)]
pub fn reach(settings: &Settings, slot: u32, to: &Inet, how: u8) -> bool {
    let flags = label::flags();
    if flags & CLEARED != 0 || flags & (FLAGGED | CLIENT) == 0 {
        return false;
    }
    let endpoint = to.endpoint();
    if flags & FLAGGED == 0 && ENDPOINTS.get_ptr(&endpoint).is_none() {
        return false;
    }
    inet_verdict(settings, slot, flags, to, how)
}

/// Decides about a connection to `to` that is evidence, and tells.
#[inline(always)]
pub fn inet_verdict(settings: &Settings, slot: u32, flags: u32, to: &Inet, how: u8) -> bool {
    let (stop, action) = decide(settings, flags, how);
    let [a, b, c, d] = to.words;
    let hash = (a ^ b).rotate_left(9) ^ c ^ d.rotate_left(16) ^ to.port as u32;
    if !stop && !is_news(hash) {
        return false;
    }
    let Some(scratch) = scratch::slot(slot) else { return stop };
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let head = &mut (*scratch).event.head;
        head.address = [0; UNIX_PATH];
        head.address_family = to.family;
        head.address_port = to.port;
        let address = (&raw mut head.address).cast::<u32>();
        if to.family == AF_INET {
            head.address_length = 4;
            address.write_unaligned(d);
        } else {
            head.address_length = 16;
            address.cast::<[u32; 4]>().write_unaligned(to.words);
        }
        report(scratch, action);
    }
    stop
}

/// `true`: the task must not connect to the UNIX socket `peer`. The kernel holds the peer's lock
/// here, so that nothing else runs in this scratch space.
#[inline(always)]
pub fn unix(settings: &Settings, peer: u64, how: u8) -> bool {
    let flags = label::flags();
    if flags & CLEARED != 0 || flags & (FLAGGED | CLIENT) == 0 {
        return false;
    }
    let Some(scratch) = scratch::slot(scratch::UNIX_CONNECT) else { return false };
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let bound = pointer(peer, offset!(unix_addr));
        if !name(scratch, bound) || !is_guarded(scratch) {
            return false;
        }
        guarded(settings, scratch, flags, bound as u32, how)
    }
}

/// As [`unix`], by the `struct sockaddr` in kernel memory that the task asked for.
#[inline(always)]
pub fn unix_by_name(settings: &Settings, address: u64, length: u32, how: u8) -> bool {
    let flags = label::flags();
    if flags & CLEARED != 0 || flags & (FLAGGED | CLIENT) == 0 || length <= 2 {
        return false;
    }
    let Some(scratch) = scratch::slot(scratch::UNIX_CONNECT) else { return false };
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        if !copy_name(scratch, address + 2, length as u64 - 2) || !is_guarded(scratch) {
            return false;
        }
        guarded(settings, scratch, flags, length, how)
    }
}

/// Decides about a connect to a guarded socket, and tells.
#[inline(always)]
unsafe fn guarded(settings: &Settings, scratch: *mut Scratch, flags: u32, target: u32, how: u8) -> bool {
    let (stop, action) = decide(settings, flags, how);
    if stop || is_news(target) {
        // SAFETY: scratch is this CPU's slot.
        unsafe { report(scratch, action) };
    }
    stop
}

/// Copies the name that a UNIX socket is bound to into the event.
#[inline(always)]
unsafe fn name(scratch: *mut Scratch, bound: u64) -> bool {
    let length = read::<i32>(bound, offset!(unix_address_length)).unwrap_or(0);
    if bound == 0 || length <= 2 {
        return false;
    }
    // SAFETY: scratch is this CPU's slot.
    unsafe { copy_name(scratch, bound + offset!(unix_address_name) as u64 + 2, length as u64 - 2) }
}

#[inline(always)]
unsafe fn copy_name(scratch: *mut Scratch, from: u64, length: u64) -> bool {
    let length = at_most(length, UNIX_PATH as u64);
    // SAFETY: scratch is this CPU's slot; the length is bounded.
    unsafe {
        let head = &mut (*scratch).event.head;
        head.address = [0; UNIX_PATH];
        head.address_family = AF_UNIX;
        head.address_port = 0;
        head.address_length = length as u32;
        bpf_probe_read_kernel(head.address.as_mut_ptr().cast(), length as u32, from as *const _) == 0
    }
}

/// The whole name is protected, or its last component is.
#[inline(always)]
unsafe fn is_guarded(scratch: *mut Scratch) -> bool {
    // SAFETY: scratch is this CPU's slot; lengths are bounded.
    unsafe {
        let s = &mut *scratch;
        if PROTECTED.get_ptr(&s.event.head.address).is_some() {
            return true;
        }
        s.cursor = 0;
        repeat(UNIX_PATH as u32, last_component, scratch);
        let s = &mut *scratch;
        s.name = [0; 128];
        let start = at_most(s.cursor, UNIX_PATH as u64 - 1);
        let length = UNIX_PATH as u64 - start;
        let from = s.event.head.address.as_ptr().add(start as usize);
        if bpf_probe_read_kernel((&raw mut s.name).cast(), length as u32, from.cast()) != 0 {
            return false;
        }
        PROTECTED.get_ptr(&*(&raw const s.name).cast::<[u8; UNIX_PATH]>()).is_some()
    }
}

unsafe extern "C" fn last_component(i: u64, context: *mut Loop) -> i64 {
    // SAFETY: the context is `repeat`'s; the index is bounded.
    unsafe {
        let s = &mut *(*context).scratch;
        let i = at_most(i, UNIX_PATH as u64 - 1);
        let byte = *s.event.head.address.as_ptr().add(i as usize);
        if byte == b'/' {
            s.cursor = i + 1;
        }
        // A path ends at its NUL; an abstract name starts with one.
        at_most((byte == 0 && i > 0) as u64, 1) as i64
    }
}

/// Whether to stop it, and what to tell.
#[inline(always)]
fn decide(settings: &Settings, flags: u32, how: u8) -> (bool, u8) {
    let stop = if flags & FLAGGED != 0 {
        settings.modes[CONNECT as usize] != MODE_OBSERVE
    } else {
        settings.below_clients == MODE_ENFORCE
    };
    if !stop {
        return (false, OBSERVED);
    }
    // SAFETY: no pointers.
    if how == KILLED && unsafe { bpf_send_signal(SIGKILL) } != 0 {
        return (true, OBSERVED);
    }
    (true, how)
}

/// Whether the current process has not been told of for this target just now.
#[inline(always)]
fn is_news(target: u32) -> bool {
    // SAFETY: plain helpers.
    let (process, now) = unsafe { (bpf_get_current_pid_tgid() >> 32, bpf_ktime_get_boot_ns()) };
    let key = process << 32 | target as u64;
    if let Some(last) = TOLD.get_ptr(&key) {
        // SAFETY: read at once.
        if now.wrapping_sub(unsafe { *last }) < AGAIN {
            return false;
        }
    }
    // A full map forgets the oldest: then it is told twice.
    let _ = TOLD.insert(&key, &now, 0);
    true
}

#[inline(always)]
unsafe fn report(scratch: *mut Scratch, action: u8) {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let own = label::current_label();
        let head = &mut (*scratch).event.head;
        head.kind = KIND;
        head.evidence = 1 << CONNECT;
        head.action = action;
        head.flags = 0;
        head.config_entry = 0;
        head.argv_length = 0;
        head.shadow = if own.is_null() { 0 } else { (*own).shadow };
        argv::take(scratch, pointer(current() as u64, offset!(task_mm)));
        event::send(scratch);
    }
}
