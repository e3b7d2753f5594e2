//! What a file descriptor of the current task is.

use lazaret_common::watch::{PIPE, SOCKET, TERMINAL};

use crate::kernel::{current, field, offset, pointer, read};

const S_IFMT: u16 = 0o170_000;
const S_IFIFO: u16 = 0o010_000;
const S_IFCHR: u16 = 0o020_000;
const S_IFSOCK: u16 = 0o140_000;
/// Majors of the slave ends of UNIX98 pseudo terminals.
const PTS: core::ops::RangeInclusive<u32> = 136..=143;
const AF_UNIX: u16 = 1;
/// More descriptors than a process can have.
const MOST: u64 = 1 << 30;

/// An open file; `kind` is 0 if it is no channel.
#[derive(Clone, Copy)]
pub struct Open {
    pub file: u64,
    /// `private_data`: the pipe, the terminal's, or the `struct socket`.
    pub key: u64,
    pub kind: u32,
}

impl Open {
    #[inline(always)]
    pub fn of(descriptor: u64) -> Self {
        Self::of_file(file(descriptor & 0xffff_ffff))
    }

    #[inline(always)]
    pub fn of_file(file: u64) -> Self {
        let kind = if file == 0 { 0 } else { kind(file) };
        let key = if kind == 0 { 0 } else { pointer(file, offset!(file_private_data)) };
        // An internet socket is nobody's standard input.
        if kind == SOCKET {
            let sock = pointer(key, offset!(socket_sk));
            if read::<u16>(sock, offset!(sk_common) + offset!(common_family)) != Some(AF_UNIX) {
                return Self { file, key: 0, kind: 0 };
            }
        }
        Self { file, key, kind }
    }

    /// `FMODE_READ` and `FMODE_WRITE`.
    #[inline(always)]
    pub fn mode(&self) -> u32 {
        read(self.file, offset!(file_mode)).unwrap_or(0)
    }

    #[inline(always)]
    pub fn inode(&self) -> u64 {
        pointer(pointer(self.file, offset!(file_inode)), offset!(inode_ino))
    }
}

/// The `struct file` of a descriptor, 0 if there is none.
#[inline(always)]
pub fn file(descriptor: u64) -> u64 {
    if descriptor >= MOST {
        return 0;
    }
    // As a number: what follows is read softly.
    let files: u64 = pointer(current() as u64, offset!(task_files));
    let table = pointer(files, offset!(files_table));
    if descriptor >= read::<u32>(table, offset!(table_size)).unwrap_or(0) as u64 {
        return 0;
    }
    pointer(pointer(table, offset!(table_files)) + 8 * descriptor, 0)
}

#[inline(always)]
fn kind(file: u64) -> u32 {
    let inode = pointer(file, offset!(file_inode));
    match read::<u16>(inode, offset!(inode_mode)).unwrap_or(0) & S_IFMT {
        S_IFIFO => PIPE,
        S_IFSOCK => SOCKET,
        S_IFCHR if PTS.contains(&(read::<u32>(inode, offset!(inode_device)).unwrap_or(0) >> 20)) => TERMINAL,
        _ => 0,
    }
}

/// Of the current task.
#[inline(always)]
pub fn group() -> u32 {
    field(current().cast(), offset!(task_tgid))
}
