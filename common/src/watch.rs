//! Candidates: processes that a pipe may be feeding an MCP message, on kernels where only the system
//! calls show what goes through pipes.
//!
//! The programs on system calls cost every system call of the host, so that user space attaches them
//! only while a candidate is open. The kernel reports candidates as they are exec'd.

use crate::plain_struct;

/// What a descriptor is, as bits.
pub const PIPE: u32 = 1;
pub const SOCKET: u32 = 1 << 1;
pub const TERMINAL: u32 = 1 << 2;

plain_struct! {
    /// The only entry of the map `WATCH`.
    #[derive(Debug, Default, PartialEq, Eq)]
    pub struct Watch {
        /// The programs on system calls are attached.
        pub attached: u32,
        /// What a candidate's standard input may be.
        pub kinds: u32,
        /// As `kinds`, for what runs below an MCP client.
        pub kinds_below: u32,
        /// What the programs on system calls look at.
        pub looks: u32,
        /// How long a candidate may be kept from its first instruction until they are attached; 0: not at all.
        pub gate_ns: u64,
    }
}

plain_struct! {
    /// The only entry of the map `GATE`, written by the kernel alone.
    #[derive(Debug, Default, PartialEq, Eq)]
    pub struct Gate {
        /// Candidates that waited, and those that went on because it took too long.
        pub waited: u64,
        pub late: u64,
        /// Nanoseconds since boot of the last one that went on.
        pub late_at: u64,
    }
}

plain_struct! {
    /// One entry of the ring buffer `CANDIDATES`.
    #[derive(Debug, PartialEq, Eq)]
    pub struct Candidate {
        /// Nanoseconds since boot.
        pub at: u64,
        /// Inode of its standard input.
        pub inode: u64,
        pub pid: u32,
        pub kind: u32,
    }
}

plain_struct! {
    /// The system call that a thread is in, as it was when it began.
    #[derive(Debug, Default, PartialEq, Eq)]
    pub struct Call {
        /// The `struct file` that is read, and what identifies the channel behind it.
        pub file: u64,
        pub key: u64,
        /// Number of the call plus one; 0: none.
        pub number: u32,
        /// What the file is.
        pub kind: u32,
    }
}

pub const MAX_TALKED: u32 = 4096;
