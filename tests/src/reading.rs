//! The ways in which a test server can read its standard input.
#![expect(unsafe_code, reason = "most of these system calls have no safe wrapper here")]

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};
use std::ptr::null_mut;

use crate::uring::{self, Ring};

/// Reads once. The first call of some ways only looks; what they go on with is a plain read.
pub struct Input {
    by: String,
    calls: usize,
}

impl Input {
    pub fn by(by: &str) -> Self {
        Self { by: by.to_owned(), calls: 0 }
    }

    /// What the last call gave is read once more by the next one.
    pub fn only_looked(&self) -> bool {
        self.calls == 1 && matches!(self.by.as_str(), "peek" | "peek-byte" | "fault" | "tee")
    }

    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.calls += 1;
        let first = self.calls == 1;
        // SAFETY: standard input is open as long as the process runs.
        let stdin = unsafe { BorrowedFd::borrow_raw(0) };
        match self.by.as_str() {
            "byte" => read(&mut buffer[..1]),
            "thread" => std::thread::scope(|scope| {
                let reader = scope.spawn(|| read(&mut buffer[..1]));
                reader.join().map_err(|_| io::Error::other("the reader panicked"))?
            }),
            // The first piece is shorter than any message's first member.
            "readv" => readv(&mut segments(buffer, 7)),
            "readv-bytes" => readv(&mut segments(&mut buffer[..1000], 1)),
            "preadv2" => preadv2(&mut segments(buffer, 7)),
            "recv" => recv(buffer, 0),
            "recvmsg" => recvmsg(buffer),
            "recvmmsg" => recvmmsg(buffer),
            "peek" if first => recv(buffer, libc::MSG_PEEK),
            "peek-byte" if first => recv(&mut buffer[..1], libc::MSG_PEEK),
            "fault" if first => fault(buffer),
            "vmsplice" => vmsplice(buffer),
            "splice" => aside(buffer.len(), false)?.read(buffer),
            "splice-bytes" => by_bytes(aside(buffer.len(), false)?, buffer),
            "tee" if first => by_bytes(aside(buffer.len(), true)?, buffer),
            "splice-file" => by_file(buffer),
            "uring" => uring::read(stdin, buffer, Ring::Read, false),
            "uring-sqpoll" => uring::read(stdin, buffer, Ring::Read, true),
            "uring-readv" => uring::read(stdin, buffer, Ring::Readv, false),
            "uring-recv" => uring::read(stdin, buffer, Ring::Receive, false),
            "uring-fixed" => uring::read(stdin, buffer, Ring::Fixed, false),
            "uring-worker" => uring::read(stdin, buffer, Ring::Worker, false),
            _ => read(buffer),
        }
    }
}

fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn read(buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the buffer and its length.
    check(unsafe { libc::read(0, buffer.as_mut_ptr().cast(), buffer.len()) })
}

/// The buffer in pieces: all but the last have `length` bytes, and there are at most as many as the kernel takes.
fn segments(buffer: &mut [u8], length: usize) -> Vec<libc::iovec> {
    let (head, rest) = buffer.split_at_mut(length.min(buffer.len()));
    let mut pieces: Vec<&mut [u8]> = vec![head];
    if length == 1 {
        pieces.extend(rest.chunks_mut(1))
    } else {
        pieces.push(rest)
    }
    pieces.into_iter().map(|p| libc::iovec { iov_base: p.as_mut_ptr().cast(), iov_len: p.len() }).collect()
}

fn readv(segments: &mut [libc::iovec]) -> io::Result<usize> {
    // SAFETY: segments of a buffer that outlives the call.
    check(unsafe { libc::readv(0, segments.as_ptr(), segments.len() as i32) })
}

fn preadv2(segments: &mut [libc::iovec]) -> io::Result<usize> {
    // SAFETY: as above; -1 is the current position.
    check(unsafe { libc::preadv2(0, segments.as_ptr(), segments.len() as i32, -1, 0) })
}

fn vmsplice(buffer: &mut [u8]) -> io::Result<usize> {
    let segment = segments(buffer, usize::MAX)[0];
    let mut input = libc::pollfd { fd: 0, events: libc::POLLIN, revents: 0 };
    // What is spliced is to be the message, whenever that comes.
    // SAFETY: one descriptor; then as above.
    unsafe {
        libc::poll(&raw mut input, 1, -1);
        check(libc::vmsplice(0, &raw const segment, 1, 0))
    }
}

fn recv(buffer: &mut [u8], flags: i32) -> io::Result<usize> {
    // SAFETY: the buffer and its length.
    check(unsafe { libc::recv(0, buffer.as_mut_ptr().cast(), buffer.len(), flags) })
}

fn message(segments: &mut [libc::iovec]) -> libc::msghdr {
    // SAFETY: all zero is a valid value: no name, no control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = segments.as_mut_ptr();
    message.msg_iovlen = segments.len();
    message
}

fn recvmsg(buffer: &mut [u8]) -> io::Result<usize> {
    let mut segments = segments(buffer, 7);
    let mut message = message(&mut segments);
    // SAFETY: a message whose segments outlive the call.
    check(unsafe { libc::recvmsg(0, &raw mut message, 0) })
}

fn recvmmsg(buffer: &mut [u8]) -> io::Result<usize> {
    let mut segments = segments(buffer, 7);
    let mut message = libc::mmsghdr { msg_hdr: message(&mut segments), msg_len: 0 };
    // SAFETY: as above, one message.
    let count = check(unsafe { libc::recvmmsg(0, &raw mut message, 1, 0, null_mut()) as isize })?;
    Ok(if count == 0 { 0 } else { message.msg_len as usize })
}

/// Gives the kernel a buffer whose end is not mapped: the call fails, the message stays, and its beginning is here.
fn fault(buffer: &mut [u8]) -> io::Result<usize> {
    const PAGE: usize = 4096;
    const SEEN: usize = 100;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping of two pages; the second one is taken away again before anything refers to it.
    let at = unsafe { libc::mmap(null_mut(), 2 * PAGE, access, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the last bytes of the first page; the kernel checks what lies behind it.
    let seen = unsafe {
        libc::munmap(at.byte_add(PAGE), PAGE);
        let from = at.byte_add(PAGE - SEEN);
        if check(libc::read(0, from, PAGE)).is_ok() {
            return Err(io::Error::other("the kernel filled memory that is not there"));
        }
        std::slice::from_raw_parts(from.cast::<u8>(), SEEN)
    };
    buffer[..SEEN].copy_from_slice(seen);
    if seen[0] == 0 { Err(io::Error::other("nothing was to be seen")) } else { Ok(SEEN) }
}

/// Another pipe that what stands in this one has been moved or copied to.
fn aside(count: usize, copy: bool) -> io::Result<io::PipeReader> {
    let (reader, writer) = io::pipe()?;
    move_to(writer.as_raw_fd(), count, copy)?;
    Ok(reader)
}

fn move_to(to: RawFd, count: usize, copy: bool) -> io::Result<usize> {
    // SAFETY: no offsets.
    check(unsafe {
        if copy { libc::tee(0, to, count, 0) } else { libc::splice(0, null_mut(), to, null_mut(), count, 0) }
    })
}

fn by_bytes(mut from: io::PipeReader, buffer: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() && from.read(&mut buffer[count..=count])? == 1 {
        count += 1;
    }
    Ok(count)
}

fn by_file(buffer: &mut [u8]) -> io::Result<usize> {
    let mut file: File = tempfile::tempfile()?;
    move_to(file.as_raw_fd(), buffer.len(), false)?;
    file.rewind()?;
    file.read(buffer)
}
