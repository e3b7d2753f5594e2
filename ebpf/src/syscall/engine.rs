//! Connects to container engines where no function can be hooked.
//!
//! A cgroup program denies by the name that is asked for, which the kernel has copied by then. Whoever gets
//! there by another name, a symbolic link for example, is known by the peer at the first thing that it sends.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use lazaret_common::event::{DENIED, KILLED};
use lazaret_common::hook::Hook;
use lazaret_common::settings::Settings;

use crate::kernel::{offset, pointer, read};
use crate::maps::fired;
use crate::{connect, scope};

/// Linux 6.7; attached to the root cgroup. The loader gives it its real kind, which aya does not know.
#[cgroup_sock_addr(connect4)]
pub fn connect_unix(ctx: SockAddrContext) -> i32 {
    fired(Hook::ConnectUnix);
    let Some(settings) = scope::settings() else { return 1 };
    let context = ctx.sock_addr as u64;
    let address = pointer(context, offset!(sockaddr_kern_address));
    let length = read::<u32>(context, offset!(sockaddr_kern_length)).unwrap_or(0);
    if connect::unix_by_name(settings, address, length, DENIED) { 0 } else { 1 }
}

/// The current task has sent something to the UNIX socket `peer`.
#[inline(always)]
pub fn sent(settings: &Settings, peer: u64) {
    connect::unix(settings, peer, KILLED);
}
