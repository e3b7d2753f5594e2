//! The user memory that a system call names by its arguments: a buffer, segments or a message header.

use aya_ebpf::helpers::generated::bpf_probe_read_user;

use super::Arguments;
use super::number::{BUFFER, MESSAGE, MESSAGES};
use crate::iov;
use crate::kernel::at_most;
use crate::scratch::Scratch;

const MOST: usize = iov::SEGMENTS as usize;

/// A copy, so that nothing changes between two looks at it.
#[repr(C)]
pub struct Segments {
    /// Address and length of each, as in `struct iovec`.
    table: [[u64; 2]; MOST],
    /// As 32-bit programs write them.
    narrow: [[u32; 2]; MOST],
}

/// Where the memory is named.
#[derive(Clone, Copy)]
pub struct Source {
    shape: u32,
    compat: bool,
    at: u64,
    count: u64,
}

impl Source {
    #[inline(always)]
    pub fn of(shape: u32, arguments: &Arguments) -> Self {
        Self { shape, compat: arguments.compat, at: arguments.second, count: arguments.third }
    }

    #[inline(always)]
    pub fn new(shape: u32, at: u64, count: u64) -> Self {
        Self { shape, compat: false, at, count }
    }
}

/// Notes at most `length` bytes of it for `iov`; `false` if it cannot be read.
#[inline(always)]
pub unsafe fn take(scratch: *mut Scratch, source: Source, length: u64) -> bool {
    // SAFETY: scratch is this CPU's slot; user memory is read softly.
    unsafe {
        let (mut at, mut count) = (source.at, source.count);
        if source.shape == BUFFER {
            iov::at(scratch, at, if count < length { count } else { length });
            return true;
        }
        if source.shape == MESSAGE || source.shape == MESSAGES {
            // Behind the name stand the segments and how many.
            let header = if source.compat { narrow_header(at) } else { header(at) };
            let Some(found) = header else { return false };
            (at, count) = (found[0], found[1]);
        }
        segments(scratch, source.compat, at, count, length)
    }
}

#[inline(always)]
fn header(at: u64) -> Option<[u64; 2]> {
    user::<[u64; 2]>(at + 16)
}

#[inline(always)]
fn narrow_header(at: u64) -> Option<[u64; 2]> {
    user::<[u32; 2]>(at + 8).map(|[base, count]| [base as u64, count as u64])
}

#[inline(always)]
fn user<T: Copy + Default>(at: u64) -> Option<T> {
    let mut value = T::default();
    // SAFETY: the helper checks the source and fills no more than the value.
    let result = unsafe { bpf_probe_read_user((&raw mut value).cast(), size_of::<T>() as u32, at as *const _) };
    (result == 0).then_some(value)
}

#[inline(always)]
unsafe fn segments(scratch: *mut Scratch, compat: bool, at: u64, count: u64, length: u64) -> bool {
    let whole = count <= MOST as u64;
    // SAFETY: as in `take`; `count` is bounded.
    unsafe {
        let segments = &mut (*scratch).segments;
        segments.table = [[0; 2]; MOST];
        let read = if compat {
            segments.narrow = [[0; 2]; MOST];
            let to = (&raw mut segments.narrow).cast();
            let read = bpf_probe_read_user(to, (at_most(count, MOST as u64) * 8) as u32, at as *const _);
            for i in 0..MOST {
                let [base, length] = segments.narrow[i];
                segments.table[i] = [base as u64, length as u64];
            }
            read
        } else {
            let to = (&raw mut segments.table).cast();
            bpf_probe_read_user(to, (at_most(count, MOST as u64) * 16) as u32, at as *const _)
        };
        let table = &(*scratch).segments.table;
        let mut sum = 0u64;
        for segment in table {
            sum = sum.saturating_add(segment[1]);
        }
        // More of them than are looked at: nobody knows how long they are.
        let length = if whole && sum < length { sum } else { length };
        iov::segments_at(scratch, (&raw const (*scratch).segments.table) as u64, length);
        read == 0
    }
}
