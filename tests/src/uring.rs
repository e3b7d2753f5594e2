//! System calls that test programs make and std does not: io_uring, one request at a time, and TCP fast open.
#![expect(unsafe_code, reason = "io_uring and MSG_FASTOPEN have no safe wrapper here")]

use std::io;
use std::mem::size_of;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

const OP_CONNECT: u8 = 16;
const OP_READ_FIXED: u8 = 4;
const SETUP_SQPOLL: u32 = 2;
const ENTER_GETEVENTS: u32 = 1;
const ENTER_SQ_WAKEUP: u32 = 2;
const FEATURE_SINGLE_MMAP: u32 = 1;
const OFFSET_ENTRIES: i64 = 0x1000_0000;

/// `struct io_uring_params`.
#[repr(C)]
#[derive(Default)]
struct Parameters {
    entries: [u32; 2],
    flags: u32,
    poller: [u32; 2],
    features: u32,
    reserved: [u32; 4],
    submission: Offsets,
    completion: Offsets,
}

/// `struct io_sqring_offsets` and `struct io_cqring_offsets`: the fourth to seventh word differ.
#[repr(C)]
#[derive(Default)]
struct Offsets {
    head: u32,
    tail: u32,
    mask: u32,
    entries: u32,
    /// `flags` of the one, `overflow` of the other.
    fifth: u32,
    /// `dropped`, `cqes`.
    sixth: u32,
    /// `array`, `flags`.
    seventh: u32,
    reserved: u32,
    address: u64,
}

/// `struct io_uring_sqe`.
#[repr(C)]
#[derive(Default)]
struct Entry {
    operation: u8,
    flags: u8,
    priority: u16,
    fd: i32,
    offset: u64,
    address: u64,
    length: u32,
    operation_flags: u32,
    user: u64,
    reserved: [u64; 3],
}

/// Does one request; with `sqpoll` a kernel thread takes it from the ring, and no system call hands it over.
fn one(sqpoll: bool, entry: Entry) -> io::Result<i32> {
    let mut parameters =
        Parameters { flags: if sqpoll { SETUP_SQPOLL } else { 0 }, poller: [0, 2000], ..Parameters::default() };
    // SAFETY: a struct as the call wants it, which outlives it.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 2, &raw mut parameters) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    let ring = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    if parameters.features & FEATURE_SINGLE_MMAP == 0 {
        return Err(io::Error::other("this io_uring has two rings"));
    }
    if entry.operation == OP_READ_FIXED {
        let buffer = libc::iovec { iov_base: entry.address as *mut libc::c_void, iov_len: entry.length as usize };
        // SAFETY: one segment, of a buffer that outlives the ring's use of it.
        if unsafe { libc::syscall(libc::SYS_io_uring_register, fd, 0, &raw const buffer, 1) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    let rings = map(&ring, 0)?;
    let entries = map(&ring, OFFSET_ENTRIES)?;
    let at = |offset: u32| {
        // SAFETY: an offset that the kernel gave, into the mapping that it gave; the kernel shares it as atomics.
        unsafe { &*rings.add(offset as usize).cast::<AtomicU32>() }
    };
    // SAFETY: the first entry of the mapped array.
    unsafe { entries.cast::<Entry>().write(entry) };
    at(parameters.submission.seventh).store(0, Ordering::Relaxed);
    at(parameters.submission.tail).store(1, Ordering::SeqCst);
    let wake = if at(parameters.submission.fifth).load(Ordering::SeqCst) & 1 != 0 { ENTER_SQ_WAKEUP } else { 0 };
    let (submit, flags) = if sqpoll { (0, ENTER_GETEVENTS | wake) } else { (1, ENTER_GETEVENTS) };
    // SAFETY: no pointers but a null one.
    let entered = unsafe { libc::syscall(libc::SYS_io_uring_enter, fd, submit, 1, flags, 0_usize, 0_usize) };
    if entered < 0 {
        return Err(io::Error::last_os_error());
    }
    if at(parameters.completion.tail).load(Ordering::Acquire) == 0 {
        return Err(io::Error::other("the request did not complete"));
    }
    // user_data, res, flags
    let result = at(parameters.completion.sixth + 8).load(Ordering::Relaxed).cast_signed();
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result) }
}

/// Stays mapped until the process ends.
fn map(ring: &OwnedFd, offset: i64) -> io::Result<*mut u8> {
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
    // SAFETY: a new mapping of the ring; the kernel checks its size.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), 4096, access, kind, ring.as_raw_fd(), offset) };
    if address == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(address.cast()) }
}

/// Connects a new stream socket to the UNIX socket `path` by io_uring.
pub fn connect(path: &Path, sqpoll: bool) -> io::Result<OwnedFd> {
    let socket = socket(libc::AF_UNIX)?;
    let name = path.as_os_str().as_bytes();
    // SAFETY: all zero is a valid address.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as u16;
    if name.len() >= address.sun_path.len() {
        return Err(io::Error::other("the path is too long for a socket"));
    }
    for (to, from) in address.sun_path.iter_mut().zip(name) {
        *to = from.cast_signed();
    }
    one(
        sqpoll,
        Entry {
            operation: OP_CONNECT,
            fd: socket.as_raw_fd(),
            address: (&raw const address) as u64,
            offset: size_of::<libc::sockaddr_un>() as u64,
            ..Entry::default()
        },
    )?;
    Ok(socket)
}

fn socket(family: i32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends `data` to a TCP port without a connect before it.
pub fn fast_open(to: SocketAddr, data: &[u8]) -> io::Result<OwnedFd> {
    let SocketAddr::V4(to) = to else { return Err(io::Error::other("only IPv4 here")) };
    let socket = socket(libc::AF_INET)?;
    send_to(&socket, to, data, libc::MSG_FASTOPEN)?;
    Ok(socket)
}

fn send_to(socket: &OwnedFd, to: SocketAddrV4, data: &[u8], flags: i32) -> io::Result<()> {
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(to.ip().octets()) },
        sin_zero: [0; 8],
    };
    let length = size_of::<libc::sockaddr_in>() as u32;
    // SAFETY: the data, the address, and their lengths.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            data.as_ptr().cast(),
            data.len(),
            flags | libc::MSG_NOSIGNAL,
            (&raw const address).cast(),
            length,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// How a ring is asked to read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ring {
    Read,
    Readv,
    Receive,
    /// Into a buffer that was registered before.
    Fixed,
    /// By one of the kernel's own threads.
    Worker,
}

/// Reads once from `fd` into `buffer`.
pub fn read(fd: BorrowedFd<'_>, buffer: &mut [u8], how: Ring, sqpoll: bool) -> io::Result<usize> {
    const ASYNC: u8 = 1 << 4;
    let segment = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let (address, length) = match how {
        Ring::Readv => ((&raw const segment) as u64, 1),
        _ => (buffer.as_mut_ptr() as u64, buffer.len() as u32),
    };
    let operation = match how {
        Ring::Read | Ring::Worker => 22,
        Ring::Readv => 1,
        Ring::Receive => 27,
        Ring::Fixed => OP_READ_FIXED,
    };
    let entry = Entry {
        operation,
        flags: if how == Ring::Worker { ASYNC } else { 0 },
        fd: fd.as_raw_fd(),
        offset: if how == Ring::Receive { 0 } else { u64::MAX },
        address,
        length,
        ..Entry::default()
    };
    one(sqpoll, entry).map(|count| count as usize)
}
