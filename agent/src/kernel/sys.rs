//! The system calls that neither std nor aya wraps. The only unsafe code of this crate.
#![expect(unsafe_code, reason = "raw bpf(2), pidfds and mounts have no safe wrapper here")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;

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
pub(super) fn boot_clock() -> i64 {
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
