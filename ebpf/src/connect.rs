//! Connect evidence: a flagged task, or one below an MCP client, reaches for a container engine's
//! socket; a flagged one reaches for the network.
//!
//! A flagged task in scope is denied (or ended, where the backend cannot deny); the others are reported.

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_send_signal};
use aya_ebpf::macros::{cgroup_sock_addr, fentry, lsm};
use aya_ebpf::programs::{FEntryContext, LsmContext, SockAddrContext};
use lazaret_common::event::{CONNECT as KIND, DENIED, KILLED, OBSERVED};
use lazaret_common::hook::Hook;
use lazaret_common::label::{CLEARED, CLIENT, FLAGGED};
use lazaret_common::settings::{CONNECT, MODE_OBSERVE, Settings, UNIX_PATH};

use crate::kernel::{at_most, current, offset, pointer, read};
use crate::maps::{PROTECTED, fired};
use crate::scratch::{self, Scratch};
use crate::{argv, event, label, scope};

const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const SIGKILL: u32 = 9;

/// Linux 5.7, `bpf` in the LSM list.
#[lsm(hook = "socket_connect")]
pub fn connect_lsm(ctx: LsmContext) -> i32 {
    fired(Hook::ConnectLsm);
    let ret: i32 = ctx.arg(3);
    if ret != 0 {
        return ret;
    }
    let Some(settings) = scope::settings() else { return 0 };
    // SAFETY: kernel memory is read softly.
    if unsafe { judge(settings, ctx.arg(1), ctx.arg::<i32>(2), DENIED) } {
        return -1;
    }
    0
}

/// Linux 5.5. Ends the task, as it cannot deny.
#[fentry(function = "security_socket_connect")]
pub fn connect_fentry(ctx: FEntryContext) -> i32 {
    fired(Hook::ConnectFentry);
    let Some(settings) = scope::settings() else { return 0 };
    // SAFETY: as above.
    unsafe { judge(settings, ctx.arg(1), ctx.arg::<i32>(2), KILLED) };
    0
}

/// Linux 4.17; attached to the root cgroup. Denies, but sees inet sockets only.
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    fired(Hook::Connect4);
    // SAFETY: the verifier checks the fields that a program may read.
    let allowed = unsafe {
        let address = (*ctx.sock_addr).user_ip4;
        inet(ctx.sock_addr, AF_INET, [address, 0, 0, 0])
    };
    if allowed { 1 } else { 0 }
}

/// As [`connect4`].
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    fired(Hook::Connect6);
    // SAFETY: as above.
    let allowed = unsafe {
        let a = &(*ctx.sock_addr).user_ip6;
        inet(ctx.sock_addr, AF_INET6, [a[0], a[1], a[2], a[3]])
    };
    if allowed { 1 } else { 0 }
}

/// `true`: the connect may happen.
#[inline(always)]
unsafe fn inet(address: *const bpf_sock_addr, family: u16, words: [u32; 4]) -> bool {
    let Some(settings) = scope::settings() else { return true };
    let flags = label::flags();
    if flags & CLEARED != 0 || flags & FLAGGED == 0 {
        return true;
    }
    let Some(scratch) = scratch::slot(scratch::CONNECT) else { return true };
    let stop = settings.modes[CONNECT as usize] != MODE_OBSERVE;
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let head = &mut (*scratch).event.head;
        head.address = [0; UNIX_PATH];
        head.address_family = family;
        head.address_length = if family == AF_INET { 4 } else { 16 };
        head.address_port = u16::from_be((*address).user_port as u16);
        for (i, word) in words.iter().enumerate() {
            let bytes = word.to_ne_bytes();
            head.address[4 * i] = bytes[0];
            head.address[4 * i + 1] = bytes[1];
            head.address[4 * i + 2] = bytes[2];
            head.address[4 * i + 3] = bytes[3];
        }
        report(scratch, if stop { DENIED } else { OBSERVED });
    }
    !stop
}

/// `true`: the connect must not happen.
#[inline(always)]
unsafe fn judge(settings: &Settings, address: u64, length: i32, how: u8) -> bool {
    let flags = label::flags();
    if flags & CLEARED != 0 || flags & (FLAGGED | CLIENT) == 0 {
        return false;
    }
    let Some(scratch) = scratch::slot(scratch::CONNECT) else { return false };
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        if !take(scratch, address, length) {
            return false;
        }
        let family = (*scratch).event.head.address_family;
        let flagged = flags & FLAGGED != 0;
        let guarded = family == AF_UNIX && PROTECTED.get_ptr(&(*scratch).event.head.address).is_some();
        if !guarded && (!flagged || family == AF_UNIX) {
            return false;
        }
        let stop = flagged && settings.modes[CONNECT as usize] != MODE_OBSERVE;
        let action = if !stop {
            OBSERVED
        } else if how == KILLED && bpf_send_signal(SIGKILL) != 0 {
            OBSERVED
        } else {
            how
        };
        report(scratch, action);
        stop
    }
}

/// Copies the address into the event.
#[inline(always)]
unsafe fn take(scratch: *mut Scratch, address: u64, length: i32) -> bool {
    // SAFETY: scratch is this CPU's slot; lengths are bounded.
    unsafe {
        let head = &mut (*scratch).event.head;
        head.address = [0; UNIX_PATH];
        head.address_port = 0;
        let family = read::<u16>(address, 0).unwrap_or(0);
        head.address_family = family;
        match family {
            AF_UNIX => {
                if length <= 2 {
                    return false;
                }
                let path = at_most(length as u64 - 2, UNIX_PATH as u64);
                head.address_length = path as u32;
                bpf_probe_read_kernel(head.address.as_mut_ptr().cast(), path as u32, (address + 2) as *const _) == 0
            }
            AF_INET => {
                head.address_port = u16::from_be(read::<u16>(address, 2).unwrap_or(0));
                head.address_length = 4;
                bpf_probe_read_kernel(head.address.as_mut_ptr().cast(), 4, (address + 4) as *const _) == 0
            }
            AF_INET6 => {
                head.address_port = u16::from_be(read::<u16>(address, 2).unwrap_or(0));
                head.address_length = 16;
                bpf_probe_read_kernel(head.address.as_mut_ptr().cast(), 16, (address + 8) as *const _) == 0
            }
            _ => false,
        }
    }
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
