//! What the kernel reports: a fixed head and then the argv.

use crate::plain_struct;
use crate::settings::UNIX_PATH;

/// Of what stands here: another one with every change, since events outlive the version that wrote them.
pub const FORMAT: u32 = 1;

pub const SPAWN: u8 = 1;
pub const HANDSHAKE: u8 = 2;
pub const CONNECT: u8 = 3;
pub const CLIENT: u8 = 4;

pub const OBSERVED: u8 = 0;
pub const HELD: u8 = 1;
pub const KILLED: u8 = 2;
pub const DENIED: u8 = 3;

pub const ARGV_TRUNCATED: u8 = 1;
pub const EXE_TRUNCATED: u8 = 1 << 1;
pub const CWD_TRUNCATED: u8 = 1 << 2;
/// `config_entry` is set.
pub const HAS_ENTRY: u8 = 1 << 3;

/// Longest path that is kept.
pub const PATH: usize = 1024;
/// Room behind a path for the component that crosses its end.
pub const PATH_SLACK: usize = 256;
pub const ARGV: usize = 4096;
pub const ANCESTORS: usize = 8;
pub const COMM: usize = 16;

plain_struct! {
    pub struct Ancestor {
        pub pid: u32,
        pub comm: [u8; COMM],
    }
}

plain_struct! {
    /// A path as its components from the leaf to the root, each with a NUL behind it.
    pub struct Path {
        pub bytes: [u8; PATH + PATH_SLACK],
        pub length: u32,
    }
}

// SAFETY: an array of a type that is plain.
unsafe impl crate::plain::Plain for [Ancestor; ANCESTORS] {}

plain_struct! {
    pub struct Head {
        /// Nanoseconds since boot, suspended time included.
        pub at: u64,
        /// Boot-unique; the same for a flagged task's later evidence and its children's.
        pub shadow: u64,
        pub cgroup: u64,
        pub config_entry: u64,
        pub exe_inode: u64,
        pub exe_dev: u32,
        pub pid: u32,
        pub tgid: u32,
        pub uid: u32,
        pub gid: u32,
        pub kind: u8,
        /// Bits, see [`crate::settings::CONFIG`] and so on.
        pub evidence: u8,
        pub action: u8,
        pub flags: u8,
        pub comm: [u8; COMM],
        pub ancestors: [Ancestor; ANCESTORS],
        pub ancestor_count: u32,
        /// AF_UNIX: the path or abstract name; AF_INET and AF_INET6: the address in network order.
        pub address: [u8; UNIX_PATH],
        pub address_length: u32,
        pub address_family: u16,
        /// Host order.
        pub address_port: u16,
        pub exe: Path,
        pub cwd: Path,
        pub argv_length: u32,
        /// [`FORMAT`].
        pub format: u32,
    }
}

/// Nothing is sent behind the first `argv_length` bytes of the argv.
#[repr(C)]
pub struct Event {
    pub head: Head,
    pub argv: [u8; ARGV],
}
