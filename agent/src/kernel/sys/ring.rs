//! A ring buffer of the kernel whose records stay in it until they are written down.
//!
//! Invariant: what was read and not acknowledged is read again by whoever opens the ring next, so that a reader that
//! is killed takes nothing with it. The kernel has that room back only then.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering, fence};

use aya::maps::MapData;

/// Before each record: its length and two flags, and a word that is the kernel's own (`struct bpf_ringbuf_hdr`).
const HEADER: usize = 8;
const BUSY: u32 = 1 << 31;
const DISCARDED: u32 = 1 << 30;

/// Pages of a ring, for as long as it lives.
struct Pages {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: shared memory that belongs to no thread; it is read and written by atomics, or when the kernel is done with it.
unsafe impl Send for Pages {}

impl Pages {
    fn map(fd: BorrowedFd<'_>, offset: usize, length: usize, protection: i32) -> io::Result<Self> {
        let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, fd.as_raw_fd(), offset) };
        match NonNull::new(start.cast::<u8>()) {
            Some(start) if start.as_ptr().cast::<libc::c_void>() != libc::MAP_FAILED => Ok(Self { start, length }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The position at the start of the pages.
    fn position(&self) -> &AtomicUsize {
        // SAFETY: page-aligned, mapped for as long as `self`, and written by both sides as a whole word.
        unsafe { self.start.cast::<AtomicUsize>().as_ref() }
    }

    /// `None`: beyond the pages.
    fn bytes(&self, at: usize, length: usize) -> Option<&[u8]> {
        let inside = at.checked_add(length).is_some_and(|end| end <= self.length);
        // SAFETY: mapped for as long as `self`; the kernel writes no committed record before it is acknowledged.
        inside.then(|| unsafe { std::slice::from_raw_parts(self.start.as_ptr().add(at), length) })
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`, and nothing borrows from it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

pub(in crate::kernel) struct Ring {
    fd: OwnedFd,
    consumer: Pages,
    /// The producer's position, and behind it the records, twice in a row: one that wraps around is whole all the same.
    producer: Pages,
    page: usize,
    size: usize,
    /// Behind what was read last.
    read: usize,
}

impl Ring {
    /// Starts at what nobody has acknowledged.
    pub(in crate::kernel) fn new(map: &MapData) -> io::Result<Self> {
        // SAFETY: no pointers.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).map_err(io::Error::other)?;
        let size = map.info().map_err(io::Error::other)?.max_entries() as usize;
        if !size.is_power_of_two() || !size.is_multiple_of(page) {
            return Err(io::Error::other(format!("a ring of {size} bytes is none of the kernel's")));
        }
        let fd = map.fd().as_fd().try_clone_to_owned()?;
        let consumer = Pages::map(fd.as_fd(), 0, page, libc::PROT_READ | libc::PROT_WRITE)?;
        let producer = Pages::map(fd.as_fd(), page, page + 2 * size, libc::PROT_READ)?;
        let read = consumer.position().load(Ordering::Acquire);
        Ok(Self { fd, consumer, producer, page, size, read })
    }

    /// The next record; `None` if there is none yet.
    pub(in crate::kernel) fn next(&mut self) -> Option<&[u8]> {
        loop {
            if self.read == self.producer.position().load(Ordering::Acquire) {
                return None;
            }
            let at = self.page + (self.read & (self.size - 1));
            let header: *const u8 = self.producer.bytes(at, HEADER)?.as_ptr();
            // SAFETY: records start at multiples of eight bytes; the kernel writes the word as a whole.
            let word = unsafe { &*header.cast::<AtomicU32>() }.load(Ordering::Acquire);
            if word & BUSY != 0 {
                return None;
            }
            let length = (word & !DISCARDED) as usize;
            self.read = self.read.wrapping_add((HEADER + length).next_multiple_of(8));
            if word & DISCARDED == 0 {
                return self.producer.bytes(at + HEADER, length);
            }
        }
    }

    /// Whether what was read and not acknowledged takes half of the room.
    pub(in crate::kernel) fn is_half_full(&self) -> bool {
        self.read.wrapping_sub(self.consumer.position().load(Ordering::Relaxed)) > self.size / 2
    }

    /// Gives the room of all that was read back to the kernel.
    pub(in crate::kernel) fn acknowledge(&mut self) {
        self.consumer.position().store(self.read, Ordering::Release);
        // The kernel wakes nobody who is behind: it must see this before the next look at its own position.
        fence(Ordering::SeqCst);
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
