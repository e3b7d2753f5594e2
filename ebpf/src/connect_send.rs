//! What a task below an MCP client, or a flagged one, sends to this host's own TCP ports, and where
//! to without a connect (TCP fast open, datagrams).
//!
//! An MCP server that listens on the loopback address is outside of the door like one on stdio. Of
//! all other sending only the addresses are looked at.

use aya_ebpf::helpers::generated::bpf_probe_read_user;
use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;
use lazaret_common::event::DENIED;
use lazaret_common::hook::Hook;
use lazaret_common::http::Http;
use lazaret_common::label::{CLEARED, CLIENT, FLAGGED};

use crate::connect::{self, AF_INET, AF_INET6, Inet, MAPPED};
use crate::kernel::{Loop, at_most, field, offset, pointer, read, repeat};
use crate::maps::{DIALOGUES, fired};
use crate::scratch::{self, Scratch};
use crate::{door, label, scope};

const TCP: u16 = 6;
const MSG_FASTOPEN: u32 = 0x2000_0000;
/// Bytes of one piece that is looked at.
pub const CHUNK: usize = 256;
/// Bytes of one sending that are looked at.
const LONGEST: u64 = 64 << 10;
const SEGMENTS: u32 = 8;

/// What is about to be sent, and what came before it on the same connection.
#[repr(C)]
pub struct Sending {
    /// The segments, 0: there is only one.
    iov: u64,
    skip: u64,
    left: u64,
    base: u64,
    length: u64,
    /// Nothing more to look for.
    stop: u32,
    reserved: u32,
    http: Http,
    chunk: [u8; CHUNK],
}

/// A connection, by its socket and that one's inode: memory is used again.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Dialogue {
    sock: u64,
    inode: u64,
}

impl Dialogue {
    /// Of a `struct socket` and its `struct sock`, as numbers.
    #[inline(always)]
    pub fn of(socket: u64, sock: u64) -> Self {
        let inode = socket - offset!(socket_alloc_socket) as u64 + offset!(socket_alloc_inode) as u64;
        Self { sock, inode: pointer(inode, offset!(inode_ino)) }
    }
}

/// Linux 5.7, `bpf` in the LSM list; or as fmod_ret on `security_socket_sendmsg`.
#[lsm(hook = "socket_sendmsg")]
pub fn socket_send(ctx: LsmContext) -> i32 {
    fired(Hook::SocketSend);
    let ret: i32 = ctx.arg(3);
    if ret != 0 {
        return ret;
    }
    if is_denied(ctx.arg(0), ctx.arg(1)) {
        return -1;
    }
    0
}

#[inline(always)]
fn is_denied(socket: *const u8, message: *const u8) -> bool {
    let sock: *const u8 = field(socket, offset!(socket_sk));
    if sock.is_null() {
        return false;
    }
    let common = offset!(sk_common);
    let family: u16 = field(sock, common + offset!(common_family));
    if family != AF_INET && family != AF_INET6 {
        return false;
    }
    let name: u64 = field(message, offset!(msghdr_name));
    let here = leads_here(sock, family);
    if name == 0 && !here {
        return false;
    }
    let Some(settings) = scope::settings() else { return false };
    let flags = label::flags();
    if flags & CLEARED != 0 || flags & (FLAGGED | CLIENT) == 0 {
        return false;
    }
    let sock = sock as u64;
    let protocol = read::<u16>(sock, offset!(sk_protocol)).unwrap_or(0) & 0xff;
    if name != 0
        && (protocol != TCP || read::<u32>(message as u64, offset!(msghdr_flags)).unwrap_or(0) & MSG_FASTOPEN != 0)
    {
        let Some(to) = Inet::at(name) else { return false };
        return connect::reach(settings, scratch::SEND, &to, DENIED);
    }
    if protocol != TCP || !here {
        return false;
    }
    let Some(to) = peer(sock, family) else { return false };
    if flags & FLAGGED == 0 && door::is_behind(socket as u64, sock, &to) {
        return false;
    }
    let Some(scratch) = scratch::slot(scratch::SEND) else { return false };
    // SAFETY: scratch is this CPU's slot; the message is a typed pointer.
    unsafe {
        is_mcp(scratch, socket as u64, sock, message)
            && connect::inet_verdict(settings, scratch::SEND, flags, &to, DENIED)
    }
}

/// The peer has a loopback address, or the one that this end has too.
#[inline(always)]
fn leads_here(sock: *const u8, family: u16) -> bool {
    let common = offset!(sk_common);
    // On IPv6 sockets that speak IPv4 it is this one, too.
    let to: u32 = field(sock, common + offset!(common_daddr));
    if family == AF_INET {
        let from: u32 = field(sock, common + offset!(common_saddr));
        return to & 0xff == 127 || to == from;
    }
    if to & 0xff == 127 {
        return true;
    }
    let half = |at: u32| read::<u64>(sock as u64, common + at + 8).unwrap_or(0);
    half(offset!(common_daddr6)) == half(offset!(common_saddr6))
}

#[inline(always)]
fn peer(sock: u64, family: u16) -> Option<Inet> {
    let common = offset!(sk_common);
    let port = u16::from_be(read::<u16>(sock, common + offset!(common_dport))?);
    let words = if family == AF_INET {
        [0, 0, MAPPED, read::<u32>(sock, common + offset!(common_daddr))?]
    } else {
        read::<[u32; 4]>(sock, common + offset!(common_daddr6))?
    };
    Some(Inet { family, words, port })
}

/// Goes on with the connection where the last piece ended.
#[inline(always)]
unsafe fn is_mcp(scratch: *mut Scratch, socket: u64, sock: u64, message: *const u8) -> bool {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let key = Dialogue::of(socket, sock);
        let s = &mut *scratch;
        let known = DIALOGUES.get_ptr(&key);
        s.sending.http = known.map_or(Http::NEW, |http| *http);
        if !segments(scratch, message) {
            return false;
        }
        s.sending.stop = 0;
        repeat(SEGMENTS, segment, scratch);
        let http = &(*scratch).sending.http;
        if http.found() {
            // What is sent again after a refusal is judged by itself.
            let _ = DIALOGUES.remove(&key);
            return true;
        }
        if http.is_open() {
            let _ = DIALOGUES.insert(&key, http, 0);
        } else if known.is_some() {
            let _ = DIALOGUES.remove(&key);
        }
        false
    }
}

/// Notes the user memory behind the message. The union of buffer and segments is read as numbers:
/// 6.1 takes every member of it for a typed pointer.
#[inline(always)]
unsafe fn segments(scratch: *mut Scratch, message: *const u8) -> bool {
    let iter = message as u64 + offset!(msghdr_iter) as u64;
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let sending = &mut (*scratch).sending;
        let kind = read::<u8>(iter, offset!(iter_type)).unwrap_or(u8::MAX) as u32;
        let skip = pointer(iter, offset!(iter_offset));
        sending.left = at_most(pointer(iter, offset!(iter_count)), LONGEST);
        if kind == offset!(enum_iter_ubuf) {
            sending.iov = 0;
            sending.base = pointer(iter, offset!(iter_ubuf)) + skip;
            return true;
        }
        sending.iov = pointer(iter, offset!(iter_iov));
        sending.skip = skip;
        kind == offset!(enum_iter_iovec)
    }
}

unsafe extern "C" fn segment(_: u64, context: *mut Loop) -> i64 {
    // SAFETY: the context is `repeat`'s.
    unsafe {
        let scratch = (*context).scratch;
        let sending = &mut (*scratch).sending;
        if sending.left == 0 || sending.stop != 0 {
            return 1;
        }
        if sending.iov == 0 {
            sending.length = sending.left;
        } else {
            sending.base = pointer(sending.iov, offset!(iovec_base)) + sending.skip;
            let length = pointer(sending.iov, offset!(iovec_length)).saturating_sub(sending.skip);
            sending.length = if length > sending.left { sending.left } else { length };
            sending.skip = 0;
            sending.iov += 16;
        }
        sending.left -= sending.length;
        let chunks = (sending.length + CHUNK as u64 - 1) / CHUNK as u64;
        repeat(chunks as u32, chunk, scratch);
    }
    0
}

unsafe extern "C" fn chunk(_: u64, context: *mut Loop) -> i64 {
    // SAFETY: the context is `repeat`'s; the length is bounded by the chunk.
    unsafe {
        let scratch = (*context).scratch;
        let sending = &mut (*scratch).sending;
        let length = at_most(sending.length, CHUNK as u64);
        if length == 0
            || bpf_probe_read_user(sending.chunk.as_mut_ptr().cast(), length as u32, sending.base as *const _) != 0
        {
            sending.stop = 1;
            return 1;
        }
        sending.base += length;
        sending.length -= length;
        repeat(length as u32, byte, scratch);
        at_most((*scratch).sending.stop as u64, 1) as i64
    }
}

unsafe extern "C" fn byte(i: u64, context: *mut Loop) -> i64 {
    // SAFETY: the context is `repeat`'s; the index is masked to the chunk.
    unsafe {
        let sending = &mut (*(*context).scratch).sending;
        let byte = sending.chunk[(i & (CHUNK as u64 - 1)) as usize];
        let stop = sending.http.take(byte);
        sending.stop = stop as u32;
        at_most(stop as u64, 1) as i64
    }
}
