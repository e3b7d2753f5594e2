//! The system calls that neither std nor aya wraps. With `admission::watch::sys`, the only unsafe code of this crate.
#![expect(unsafe_code, reason = "raw bpf(2), pidfds and mounts have no safe wrapper here")]

pub(super) mod ring;

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_RAW_TRACEPOINT_OPEN: libc::c_long = 17;
const BPF_BTF_LOAD: libc::c_long = 18;
const BPF_PROG_TYPE_TRACING: u32 = 26;
const BPF_MODIFY_RETURN: u32 = 26;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_CGROUP_SOCK_ADDR: u32 = 18;
const BPF_CGROUP_UNIX_CONNECT: u32 = 49;

/// The part of `union bpf_attr` that the element commands read.
#[repr(C)]
struct ElementAttr {
    map: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

fn element(command: libc::c_long, map: BorrowedFd<'_>, key: &[u8], value: *mut u8) -> io::Result<()> {
    let attr = ElementAttr {
        map: map.as_raw_fd() as u32,
        reserved: 0,
        key: key.as_ptr() as u64,
        value: value as u64,
        flags: 0,
    };
    // SAFETY: the attribute outlives the call; the callers say that key and value have the map's sizes.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const attr, size_of::<ElementAttr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A task storage map, by a pidfd of a thread group leader.
pub(super) struct TaskMap<'a, const N: usize> {
    map: BorrowedFd<'a>,
}

impl<'a, const N: usize> TaskMap<'a, N> {
    /// `None` if the map's sizes are others: the kernel copies as many bytes as the map says.
    pub(super) fn new(map: BorrowedFd<'a>, key_size: u32, value_size: u32) -> Option<Self> {
        (key_size == 4 && value_size as usize == N).then_some(Self { map })
    }

    /// For values that are shorter than `N`: the rest reads as zeros.
    pub(super) fn up_to(map: BorrowedFd<'a>, key_size: u32, value_size: u32) -> Option<Self> {
        (key_size == 4 && value_size as usize <= N).then_some(Self { map })
    }

    pub(super) fn get(&self, pidfd: BorrowedFd<'_>) -> io::Result<Option<[u8; N]>> {
        let mut value = [0; N];
        match element(BPF_MAP_LOOKUP_ELEM, self.map, &pidfd.as_raw_fd().to_ne_bytes(), value.as_mut_ptr()) {
            Ok(()) => Ok(Some(value)),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    pub(super) fn set(&self, pidfd: BorrowedFd<'_>, mut value: [u8; N]) -> io::Result<()> {
        element(BPF_MAP_UPDATE_ELEM, self.map, &pidfd.as_raw_fd().to_ne_bytes(), value.as_mut_ptr())
    }
}

/// Calls bpf(2) with a part of `union bpf_attr` that the command reads.
///
/// # Safety
/// Pointers in `attr` are valid for what the command does with them.
unsafe fn bpf<T>(command: libc::c_long, attr: &T) -> io::Result<libc::c_long> {
    // SAFETY: the attribute outlives the call, and its size is passed along; the rest is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// # Safety
/// As [`bpf`], of a command that returns a new descriptor.
unsafe fn bpf_fd<T>(command: libc::c_long, attr: &T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise; a new descriptor that nobody else owns.
    unsafe { bpf(command, attr).map(|fd| OwnedFd::from_raw_fd(fd as i32)) }
}

#[repr(C)]
#[derive(Default)]
struct TypesAttr {
    types: u64,
    log: u64,
    size: u32,
    log_size: u32,
    log_level: u32,
    reserved: u32,
}

/// Gives the kernel the type information (BTF) of an object.
pub(super) fn load_types(types: &[u8]) -> io::Result<OwnedFd> {
    let attr = TypesAttr { types: types.as_ptr() as u64, size: types.len() as u32, ..TypesAttr::default() };
    // SAFETY: the bytes and their length; no log is asked for.
    unsafe { bpf_fd(BPF_BTF_LOAD, &attr) }
}

/// A program as the kernel takes it.
pub(super) struct Code<'a> {
    pub(super) name: &'a str,
    pub(super) license: &'a std::ffi::CStr,
    pub(super) instructions: &'a [aya_obj::generated::bpf_insn],
    pub(super) types: Option<BorrowedFd<'a>>,
    /// Records about its functions, and the size of one.
    pub(super) functions: &'a [u8],
    pub(super) functions_of: usize,
    /// Records about its lines, and the size of one.
    pub(super) lines: &'a [u8],
    pub(super) lines_of: usize,
}

#[repr(C)]
#[derive(Default)]
struct ProgramAttr {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach: u32,
    types: u32,
    functions_of: u32,
    functions: u64,
    function_count: u32,
    lines_of: u32,
    lines: u64,
    line_count: u32,
    target: u32,
    target_program: u32,
    reserved: u32,
}

/// What a program is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    /// Decides what the kernel function with this BTF id returns.
    ModifyReturn(u32),
    /// Decides about connects to UNIX sockets in a cgroup.
    UnixConnect,
}

/// Loads a program. What the verifier says goes into `log`.
pub(super) fn load_program(code: &Code<'_>, purpose: Purpose, log: Option<&mut [u8]>) -> io::Result<OwnedFd> {
    let (kind, attach, target) = match purpose {
        Purpose::ModifyReturn(id) => (BPF_PROG_TYPE_TRACING, BPF_MODIFY_RETURN, id),
        Purpose::UnixConnect => (BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_UNIX_CONNECT, 0),
    };
    let mut attr = ProgramAttr {
        kind,
        attach,
        target,
        count: code.instructions.len() as u32,
        instructions: code.instructions.as_ptr() as u64,
        license: code.license.as_ptr() as u64,
        ..ProgramAttr::default()
    };
    // The kernel wants a NUL behind the name.
    let length = code.name.len().min(attr.name.len() - 1);
    attr.name[..length].copy_from_slice(&code.name.as_bytes()[..length]);
    if let Some(types) = code.types {
        attr.types = types.as_raw_fd() as u32;
        attr.functions = code.functions.as_ptr() as u64;
        attr.functions_of = code.functions_of as u32;
        attr.function_count = code.functions.len().checked_div(code.functions_of).unwrap_or(0) as u32;
        attr.lines = code.lines.as_ptr() as u64;
        attr.lines_of = code.lines_of as u32;
        attr.line_count = code.lines.len().checked_div(code.lines_of).unwrap_or(0) as u32;
    }
    if let Some(log) = log {
        attr.log_level = 1;
        attr.log_size = log.len() as u32;
        attr.log = log.as_mut_ptr() as u64;
    }
    // SAFETY: every pointer is of a slice that outlives the call, with its length; the license ends with a NUL.
    unsafe { bpf_fd(BPF_PROG_LOAD, &attr) }
}

#[repr(C)]
struct LinkAttr {
    program: u32,
    target: u32,
    attach: u32,
    flags: u32,
    /// Room for what other kinds of links say.
    others: [u64; 6],
}

/// Attaches a program of [`Purpose::UnixConnect`] to a cgroup, until the link is closed.
pub(super) fn attach_unix_connect(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let attr = LinkAttr {
        program: program.as_raw_fd() as u32,
        target: cgroup.as_raw_fd() as u32,
        attach: BPF_CGROUP_UNIX_CONNECT,
        flags: 0,
        others: [0; 6],
    };
    // SAFETY: no pointers.
    unsafe { bpf_fd(BPF_LINK_CREATE, &attr) }
}

#[repr(C)]
struct AttachAttr {
    name: u64,
    program: u32,
    reserved: u32,
}

/// Attaches a tracing program to the function that it was loaded for, until the link is closed.
pub(super) fn attach_tracing(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let attr = AttachAttr { name: 0, program: program.as_raw_fd() as u32, reserved: 0 };
    // SAFETY: no pointers.
    unsafe { bpf_fd(BPF_RAW_TRACEPOINT_OPEN, &attr) }
}

#[repr(C)]
#[derive(Default)]
struct RunAttr {
    program: u32,
    result: u32,
    /// Data in and out, repetitions, contexts in and out, flags, processor and batch: none of these.
    nothing: [u64; 9],
}

/// Runs a raw tracepoint program once, with an empty context (Linux 5.10).
pub(super) fn run_program(program: BorrowedFd<'_>) -> io::Result<()> {
    let attr = RunAttr { program: program.as_raw_fd() as u32, ..RunAttr::default() };
    // SAFETY: no pointers.
    unsafe { bpf(BPF_PROG_TEST_RUN, &attr) }.map(|_| ())
}

#[repr(C)]
struct PinAttr {
    path: u64,
    object: u32,
    flags: u32,
}

/// Keeps a kernel object alive at `path` in a bpffs.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attr = PinAttr { path: path.as_ptr() as u64, object: object.as_raw_fd() as u32, flags: 0 };
    // SAFETY: a NUL-terminated path that outlives the call.
    unsafe { bpf(BPF_OBJ_PIN, &attr) }.map(|_| ())
}

pub(super) fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

pub(super) fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let none = std::ptr::null_mut::<libc::siginfo_t>();
    // SAFETY: no signal info, no flags.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, none, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Nobody but who may trace anything attaches to this process, and it leaves no core (prctl(2)).
pub(super) fn forbid_dumps() -> io::Result<()> {
    // SAFETY: no pointers.
    if unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sends this thread a signal that nobody means anything by, and takes it.
pub(super) fn take_a_signal() -> io::Result<()> {
    extern "C" fn ignore(_: i32) {}
    // SAFETY: all zero is a valid value of both.
    let (mut action, mut before): (libc::sigaction, libc::sigaction) = unsafe { std::mem::zeroed() };
    action.sa_sigaction = ignore as *const () as usize;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: structs that outlive the calls, and a handler that does nothing.
    let results = unsafe {
        [
            libc::sigaction(libc::SIGURG, &raw const action, &raw mut before),
            libc::raise(libc::SIGURG),
            libc::sigaction(libc::SIGURG, &raw const before, std::ptr::null_mut()),
        ]
    };
    if results == [0; 3] { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Waits until `fd` or `stop` is readable; `true` if `stop` is.
pub(super) fn wait_readable(fd: BorrowedFd<'_>, stop: BorrowedFd<'_>) -> io::Result<bool> {
    let mut fds = [fd, stop].map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    loop {
        // SAFETY: the array and its length.
        if unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, -1) } >= 0 {
            return Ok(fds[1].revents != 0);
        }
        let e = io::Error::last_os_error();
        if e.kind() != io::ErrorKind::Interrupted {
            return Err(e);
        }
    }
}

/// Waits until one of the descriptors is readable, or the time is up: which ones are.
pub(super) fn wait_for_any(fds: &[BorrowedFd<'_>], timeout: Option<std::time::Duration>) -> io::Result<Vec<bool>> {
    let mut polled: Vec<libc::pollfd> =
        fds.iter().map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 }).collect();
    let timeout = timeout.map_or(-1, |timeout| timeout.as_millis().try_into().unwrap_or(i32::MAX));
    // SAFETY: the array and its length.
    if unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, timeout) } < 0 {
        let e = io::Error::last_os_error();
        if e.kind() != io::ErrorKind::Interrupted {
            return Err(e);
        }
    }
    Ok(polled.iter().map(|fd| fd.revents != 0).collect())
}

/// Lets the calling thread run before all ordinary ones.
pub(super) fn run_first() -> io::Result<()> {
    // SAFETY: all zero is a valid value.
    let mut parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    parameters.sched_priority = 1;
    // SAFETY: a struct that outlives the call.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `struct io_uring_params`, as far as it is read here.
#[repr(C)]
struct RingParameters {
    entries: [u32; 2],
    flags: u32,
    others: [u32; 7],
    /// Offsets of the submission queue: head, tail and so on.
    queue: [u32; 10],
    completions: [u32; 10],
}

/// Has io_uring do nothing, once: an entry that is all zero is a request without effect.
pub(super) fn ring_nothing() -> io::Result<()> {
    // SAFETY: all zero is a valid value.
    let mut parameters: RingParameters = unsafe { std::mem::zeroed() };
    // SAFETY: a struct of the size that the kernel writes, which outlives the call.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, &raw mut parameters) };
    if ring < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    let ring = unsafe { OwnedFd::from_raw_fd(ring as i32) };
    const LENGTH: usize = 4096;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping of the submission queue, at offset 0.
    let queue = unsafe { libc::mmap(std::ptr::null_mut(), LENGTH, protection, libc::MAP_SHARED, ring.as_raw_fd(), 0) };
    if queue == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let tail = parameters.queue[1] as usize;
    let result = if tail + 4 <= LENGTH {
        // SAFETY: inside of the mapping, aligned as the kernel lays it out; then a call without pointers.
        unsafe {
            queue.cast::<u8>().add(tail).cast::<u32>().write_volatile(1);
            libc::syscall(libc::SYS_io_uring_enter, ring.as_raw_fd(), 1, 0, 0, 0, 0)
        }
    } else {
        0
    };
    let error = io::Error::last_os_error();
    // SAFETY: the mapping that was made above.
    unsafe { libc::munmap(queue, LENGTH) };
    match result {
        1 => Ok(()),
        0 => Err(io::Error::other("it took no request")),
        _ => Err(error),
    }
}

/// The type of the file system that `path` is on.
pub(super) fn file_system(path: &Path) -> io::Result<i64> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: all zero is a valid value.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: a NUL-terminated path and a struct that outlives the call.
    if unsafe { libc::statfs(path.as_ptr(), &raw mut stat) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(stat.f_type as i64)
}

pub(super) fn mount_bpffs(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let options = c"mode=0700";
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    // SAFETY: NUL-terminated strings that outlive the call.
    let result =
        unsafe { libc::mount(c"bpf".as_ptr(), path.as_ptr(), c"bpf".as_ptr(), flags, options.as_ptr().cast()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

pub(super) fn make_fifo(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: a NUL-terminated path.
    if unsafe { libc::mkfifo(path.as_ptr(), 0o600) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

pub(super) fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").map_or_else(|_| "unknown".into(), |text| text.trim().into())
}

/// Nanoseconds since boot, suspended time included.
pub(crate) fn boot_clock() -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a struct that outlives the call; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// aya's ring buffer only has a raw descriptor.
pub(super) fn borrow(fd: &impl std::os::fd::AsRawFd) -> BorrowedFd<'_> {
    // SAFETY: the borrow keeps the owner, and with it the descriptor, alive.
    unsafe { BorrowedFd::borrow_raw(fd.as_raw_fd()) }
}

/// Device and inode of a file as the kernel itself numbers them; overlayfs and btrfs show others in `stat`.
pub(super) fn kernel_identity(file: &std::fs::File) -> io::Result<(u32, u64)> {
    // SAFETY: a new read-only mapping of one page that nobody looks into.
    let address =
        unsafe { libc::mmap(std::ptr::null_mut(), 1, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd(), 0) };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let maps = std::fs::read_to_string("/proc/self/maps");
    // SAFETY: the mapping that was made above.
    unsafe { libc::munmap(address, 1) };
    let start = format!("{:x}-", address as usize);
    let maps = maps?;
    let line = maps.lines().find(|line| line.trim_start_matches('0').starts_with(&start));
    let mut fields = line.unwrap_or_default().split_ascii_whitespace().skip(3);
    let parsed = fields.next().and_then(|dev| dev.split_once(':')).and_then(|(major, minor)| {
        let dev = u32::from_str_radix(major, 16).ok()? << 20 | u32::from_str_radix(minor, 16).ok()?;
        Some((dev, fields.next()?.parse().ok()?))
    });
    parsed.ok_or_else(|| io::Error::other("the mapping is not in /proc/self/maps"))
}

/// Copies at most `count` bytes from one pipe to another without taking them.
pub(super) fn tee(from: BorrowedFd<'_>, to: BorrowedFd<'_>, count: usize) -> io::Result<()> {
    // SAFETY: no pointers.
    let result = unsafe { libc::tee(from.as_raw_fd(), to.as_raw_fd(), count, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Moves at most `count` bytes from one pipe to another.
pub(super) fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, count: usize) -> io::Result<()> {
    let none = std::ptr::null_mut();
    // SAFETY: no offsets.
    let result = unsafe { libc::splice(from.as_raw_fd(), none, to.as_raw_fd(), none, count, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sends the first bytes of a file.
pub(super) fn send_file(from: BorrowedFd<'_>, to: BorrowedFd<'_>, count: usize) -> io::Result<()> {
    // SAFETY: no offset.
    let result = unsafe { libc::sendfile(to.as_raw_fd(), from.as_raw_fd(), std::ptr::null_mut(), count) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Takes bytes out of a pipe as `vmsplice` does.
pub(super) fn copy_out(from: BorrowedFd<'_>, to: &mut [u8]) -> io::Result<()> {
    let segment = libc::iovec { iov_base: to.as_mut_ptr().cast(), iov_len: to.len() };
    // SAFETY: one segment, which the call fills within its length.
    let result = unsafe { libc::vmsplice(from.as_raw_fd(), &raw const segment, 1, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Both ends of a new pseudo terminal: the master, the slave.
pub(super) fn open_terminal() -> io::Result<(std::fs::File, std::fs::File)> {
    let (mut master, mut slave) = (-1, -1);
    // SAFETY: the two descriptors are filled in; no name, settings or size are asked for.
    let result = unsafe {
        libc::openpty(&raw mut master, &raw mut slave, std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut())
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: two new descriptors that nobody else owns.
    Ok(unsafe { (std::fs::File::from_raw_fd(master), std::fs::File::from_raw_fd(slave)) })
}
