//! What user space may change while the programs run.

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
        pub reserved: u32,
    }
}

plain_struct! {
    /// Key of the map `EXECUTABLES`; the value is the label flags that the image gets.
    #[derive(Debug, PartialEq, Eq, Hash)]
    pub struct ExecutableKey {
        pub inode: u64,
        /// As the kernel writes it (`s_dev`): major << 20 | minor.
        pub dev: u32,
        pub reserved: u32,
    }
}

plain_struct! {
    /// Key of the map `ENTRIES`; the value is the config entry's id.
    #[derive(Debug, PartialEq, Eq, Hash)]
    pub struct EntryKey {
        /// FNV-1a of basename(command), NUL, then each argument and a NUL.
        pub hash: u64,
        pub length: u32,
        pub reserved: u32,
    }
}

pub const MAX_ENTRIES: u32 = 4096;
pub const MAX_EXECUTABLES: u32 = 1024;
pub const MAX_GRANTS: u32 = 256;

/// Length of a container id.
pub const CONTAINER_ID: usize = 64;
/// Longest UNIX socket path.
pub const UNIX_PATH: usize = 108;
