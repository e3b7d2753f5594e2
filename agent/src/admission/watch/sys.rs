//! fanotify(7) and file handles, which std does not wrap.
#![expect(unsafe_code, reason = "raw fanotify(7), name_to_handle_at(2) and poll(2)")]

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

const FAN_REPORT_PIDFD: libc::c_uint = 0x80;
const INFO_DFID_NAME: u8 = 2;
const INFO_PIDFD: u8 = 4;
/// `AT_HANDLE_FID`, Linux 6.5: a handle that only has to tell one file from another.
const AT_HANDLE_FID: libc::c_int = 0x200;
/// `struct fanotify_event_metadata`.
const METADATA: usize = 24;
const MAX_HANDLE: usize = 128;

/// What changes the entries of a directory, or a file in it.
const CHANGES: u64 = libc::FAN_MODIFY
    | libc::FAN_CLOSE_WRITE
    | libc::FAN_CREATE
    | libc::FAN_DELETE
    | libc::FAN_MOVED_FROM
    | libc::FAN_MOVED_TO
    | libc::FAN_DELETE_SELF
    | libc::FAN_MOVE_SELF
    | libc::FAN_ATTRIB
    | libc::FAN_EVENT_ON_CHILD
    | libc::FAN_ONDIR;

/// Tells a directory from every other: its file system, and its handle there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct DirId(Vec<u8>);

/// One event as the kernel wrote it.
#[derive(Debug)]
pub(super) struct Raw {
    pub mask: u64,
    /// Who caused it, 0 where the kernel does not tell.
    pub pid: u32,
    /// Held, so that the number stays that process's.
    pub pidfd: Option<OwnedFd>,
    pub dir: DirId,
    /// Name in the directory; `.` is the directory itself.
    pub name: OsString,
}

pub(super) enum Read {
    Events(Vec<Raw>),
    /// The kernel's queue was full.
    Lost,
    /// Who asked for events is gone.
    Stopped,
}

/// A notification group.
pub(super) struct Group {
    fd: OwnedFd,
}

impl Group {
    /// Linux 5.9 (`FAN_REPORT_DFID_NAME`); with process descriptors 5.15. Needs `CAP_SYS_ADMIN` to be told the pid.
    pub(super) fn open() -> io::Result<Self> {
        let flags = libc::FAN_CLASS_NOTIF | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK | libc::FAN_REPORT_DFID_NAME;
        let mut error = io::ErrorKind::Unsupported.into();
        for flags in [flags | FAN_REPORT_PIDFD, flags] {
            // SAFETY: no pointers.
            let fd = unsafe { libc::fanotify_init(flags, (libc::O_RDONLY | libc::O_CLOEXEC) as libc::c_uint) };
            if fd >= 0 {
                // SAFETY: a new descriptor that nobody else owns.
                return Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } });
            }
            error = io::Error::last_os_error();
        }
        Err(error)
    }

    /// Watches a directory and the files in it.
    pub(super) fn add(&self, dir: &Path) -> io::Result<DirId> {
        let id = dir_id(dir)?;
        self.change(libc::FAN_MARK_ADD | libc::FAN_MARK_ONLYDIR, dir)?;
        Ok(id)
    }

    pub(super) fn remove(&self, dir: &Path) -> io::Result<()> {
        self.change(libc::FAN_MARK_REMOVE | libc::FAN_MARK_ONLYDIR, dir)
    }

    fn change(&self, flags: libc::c_uint, dir: &Path) -> io::Result<()> {
        let path = CString::new(dir.as_os_str().as_bytes())?;
        // SAFETY: a NUL-terminated path that outlives the call.
        let result = unsafe { libc::fanotify_mark(self.fd.as_raw_fd(), flags, CHANGES, libc::AT_FDCWD, path.as_ptr()) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Waits for events, or until `stop` is readable or closed at its other end.
    pub(super) fn read(&self, stop: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Read> {
        loop {
            if wait(&[self.fd.as_fd(), stop], -1)?[1] {
                return Ok(Read::Stopped);
            }
            // SAFETY: the buffer and its length.
            let count = unsafe { libc::read(self.fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
            if count >= 0 {
                let (events, lost) = parse(&buffer[..count as usize]);
                return Ok(if lost { Read::Lost } else { Read::Events(events) });
            }
            let e = io::Error::last_os_error();
            if !matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) {
                return Err(e);
            }
        }
    }
}

/// Which descriptors have something to say, after at most `timeout` milliseconds (-1: no limit).
fn wait(fds: &[BorrowedFd<'_>; 2], timeout: libc::c_int) -> io::Result<[bool; 2]> {
    let mut polled = fds.map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    loop {
        // SAFETY: the array and its length.
        if unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, timeout) } >= 0 {
            return Ok(polled.map(|fd| fd.revents != 0));
        }
        let e = io::Error::last_os_error();
        if e.kind() != io::ErrorKind::Interrupted {
            return Err(e);
        }
    }
}

/// Whether the process has ended.
pub(super) fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    wait(&[pidfd, pidfd], 0).is_ok_and(|[ended, _]| ended)
}

/// This thread runs before others: a process that wrote and ends must still be there when it is looked at.
pub(super) fn hurry() {
    // SAFETY: no pointers; 0 is this thread. Where it is refused, everything works, only later.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -10) };
}

/// `struct file_handle` with room behind it.
#[repr(C)]
struct Handle {
    bytes: u32,
    kind: i32,
    data: [u8; MAX_HANDLE],
}

fn dir_id(dir: &Path) -> io::Result<DirId> {
    let path = CString::new(dir.as_os_str().as_bytes())?;
    // SAFETY: all zero is a valid value.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: a NUL-terminated path and a struct that outlives the call.
    if unsafe { libc::statfs(path.as_ptr(), &raw mut stat) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut error = io::ErrorKind::Unsupported.into();
    for flags in [0, AT_HANDLE_FID] {
        let mut handle = Handle { bytes: MAX_HANDLE as u32, kind: 0, data: [0; MAX_HANDLE] };
        let (mut mount, at) = (0, libc::AT_FDCWD);
        // SAFETY: a NUL-terminated path, a handle with as much room as it says, and an integer.
        let result = unsafe {
            libc::syscall(
                libc::SYS_name_to_handle_at,
                at,
                path.as_ptr(),
                &raw mut handle,
                &raw mut mount,
                flags | libc::AT_SYMLINK_FOLLOW,
            )
        };
        if result == 0 {
            // SAFETY: two integers, whatever their bits.
            let fsid: [u8; 8] = unsafe { std::mem::transmute_copy(&stat.f_fsid) };
            let data = &handle.data[..(handle.bytes as usize).min(MAX_HANDLE)];
            return Ok(DirId([&fsid[..], &handle.kind.to_ne_bytes(), data].concat()));
        }
        error = io::Error::last_os_error();
    }
    Err(error)
}

/// The events in `bytes`, and whether the kernel lost some. What is not understood is left out.
fn parse(bytes: &[u8]) -> (Vec<Raw>, bool) {
    let (mut events, mut lost, mut rest) = (Vec::new(), false, bytes);
    while rest.len() >= METADATA {
        let length = word(rest, 0) as usize;
        if length < METADATA || length > rest.len() {
            break;
        }
        let (event, behind) = rest.split_at(length);
        rest = behind;
        let mask = u64::from(word(event, 8)) | u64::from(word(event, 12)) << 32;
        lost |= mask & libc::FAN_Q_OVERFLOW != 0;
        let header = usize::from(u16::from_ne_bytes([event[6], event[7]])).clamp(METADATA, length);
        let (place, pidfd) = information(&event[header..]);
        if let Some((dir, name)) = place {
            events.push(Raw { mask, pid: word(event, 20), pidfd, dir, name });
        }
    }
    (events, lost)
}

type Place = Option<(DirId, OsString)>;

/// The records behind an event: `struct fanotify_event_info_header` and what follows it.
fn information(mut records: &[u8]) -> (Place, Option<OwnedFd>) {
    let (mut place, mut pidfd) = (None, None);
    while records.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([records[2], records[3]]));
        if length < 4 || length > records.len() {
            break;
        }
        let (record, behind) = records.split_at(length);
        records = behind;
        match record[0] {
            INFO_DFID_NAME if place.is_none() => place = dir_and_name(&record[4..]),
            INFO_PIDFD if record.len() >= 8 && pidfd.is_none() => {
                let fd = word(record, 4) as i32;
                // SAFETY: the kernel has just made it for this reader; it is negative where there is none.
                pidfd = (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) });
            }
            _ => {}
        }
    }
    (place, pidfd)
}

/// fsid, then `struct file_handle`, then a name and a NUL.
fn dir_and_name(record: &[u8]) -> Place {
    let size = word(record.get(..12)?, 8) as usize;
    let data = record.get(16..16usize.checked_add(size)?)?;
    let name = &record[16 + size..];
    let end = name.iter().position(|byte| *byte == 0)?;
    let id = DirId([&record[..8], &record[12..16], data].concat());
    Some((id, OsStr::from_bytes(&name[..end]).to_owned()))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |four| u32::from_ne_bytes([four[0], four[1], four[2], four[3]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        /// Without process descriptors: whatever number stands there would be closed.
        #[test]
        fn any_bytes_are_events_or_left_out(mut bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            for byte in &mut bytes {
                if *byte == INFO_PIDFD {
                    *byte = 0;
                }
            }
            parse(&bytes);
        }
    }
}
