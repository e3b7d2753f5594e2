//! What user space may change while the programs run.

use crate::event::ARGV;
use crate::plain_struct;

pub const SCOPE_NONE: u32 = 0;
pub const SCOPE_HOST: u32 = 1;
pub const SCOPE_CGROUP: u32 = 2;
pub const SCOPE_UID: u32 = 3;

pub const MODE_OBSERVE: u8 = 0;
pub const MODE_HOLD: u8 = 1;
pub const MODE_ENFORCE: u8 = 2;

/// Index into [`Settings::modes`] and bit number in an event's evidence.
pub const CONFIG: u32 = 0;
pub const CATALOGUE: u32 = 1;
pub const HANDSHAKE: u32 = 2;
pub const CONNECT: u32 = 3;

plain_struct! {
    /// The only entry of the map `SETTINGS`. All zero means: nothing is in scope.
    #[derive(Debug, Default, PartialEq, Eq)]
    pub struct Settings {
        pub scope: u32,
        pub scope_uid: u32,
        /// Id of the scope's cgroup in the v2 hierarchy.
        pub scope_cgroup: u64,
        /// Depth of that cgroup below the root.
        pub scope_level: u32,
        /// Modes of the four kinds of evidence.
        pub modes: [u8; 4],
        /// Launch grants that are outstanding; the cgroup's name is only read while there are any.
        pub grants: u32,
        /// Mode of connects of tasks that are below an MCP client and not flagged.
        pub below_clients: u8,
        pub reserved: [u8; 3],
    }
}

plain_struct! {
    /// The only entry of the map `QUESTION`: an argv of a program that was running before the programs were.
    pub struct Question {
        pub argv: [u8; ARGV],
        /// Bytes of the argv that are here, and that it has.
        pub length: u32,
        pub total: u32,
        /// The word that is the script, where a `#!` line put an interpreter before it; 0 if it is no script.
        pub script: u32,
        /// Answer: bits of the evidence, and [`IS_CLIENT`].
        pub answer: u32,
        /// Answer: the config entry's id.
        pub entry: u64,
        /// Whose process it is.
        pub uid: u32,
        pub reserved: u32,
    }
}

/// The argv is an MCP client's.
pub const IS_CLIENT: u32 = 1 << 8;

plain_struct! {
    /// Key of the map `EXECUTABLES`; the value is the label flags that the image gets, and
    /// [`crate::label::FOR_ROOT`].
    #[derive(Debug, PartialEq, Eq, Hash)]
    pub struct ExecutableKey {
        pub inode: u64,
        /// As the kernel writes it (`s_dev`): major << 20 | minor.
        pub dev: u32,
        /// Owner of the file: nobody else's gets the label by getting the inode's number.
        pub uid: u32,
    }
}

plain_struct! {
    /// Key of the map `ENTRIES`; the value is the config entry's id.
    #[derive(Debug, PartialEq, Eq, Hash)]
    pub struct EntryKey {
        /// FNV-1a of basename(command), NUL, then each argument and a NUL.
        pub hash: u64,
        pub length: u32,
        /// Whose processes it convicts, or [`ANYBODY`].
        pub uid: u32,
    }
}

plain_struct! {
    /// Key of the map `ENDPOINTS`: where a remote MCP server of a client config is.
    #[derive(Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub struct Endpoint {
        /// In network order; IPv4 as `::ffff:a.b.c.d`.
        pub address: [u8; 16],
        /// Host order.
        pub port: u16,
        pub reserved: u16,
    }
}

plain_struct! {
    /// The only entry of the map `DOOR`: where the daemon itself serves MCP over HTTP.
    #[derive(Debug, Default, PartialEq, Eq)]
    pub struct Door {
        /// Nanoseconds since boot when it was opened; 0: it is closed.
        pub since: u64,
        /// As in [`Endpoint`].
        pub address: [u8; 16],
        /// Inode of the network namespace.
        pub netns: u32,
        /// Host order.
        pub port: u16,
        pub reserved: u16,
    }
}

pub const MAX_ENDPOINTS: u32 = 4096;
/// No user has this uid: it is the -1 of setuid(2).
pub const ANYBODY: u32 = u32::MAX;

pub const MAX_ENTRIES: u32 = 4096;
/// Bytes of the longest argv that is compared with the entries.
pub const LONGEST_ENTRY: u32 = 128 << 10;
pub const MAX_EXECUTABLES: u32 = 1024;
pub const MAX_GRANTS: u32 = 256;

/// Length of a container id.
pub const CONTAINER_ID: usize = 64;
/// Longest UNIX socket path.
pub const UNIX_PATH: usize = 108;
