//! What the kernel remembers about a task, in task storage: no pid reuse, no eviction.

use crate::plain_struct;

plain_struct! {
    #[derive(Debug, Default, PartialEq, Eq)]
    pub struct Label {
        pub flags: u32,
        /// Kinds of evidence that user space has heard of, as bits.
        pub told: u32,
        /// Id of the shadow that this task belongs to, 0 if it is not flagged.
        pub shadow: u64,
    }
}

/// Came out of a one-shot launch grant; inherited by fork and kept over exec.
pub const APPROVED: u32 = 1;
/// The image that runs is a trusted executable; inherited by fork, judged anew at each exec.
pub const TRUSTED: u32 = 1 << 1;
/// Evidence has convicted it; inherited by fork and kept over exec.
pub const FLAGGED: u32 = 1 << 2;
/// Born in scope; kept when it moves out of it.
pub const IN_SCOPE: u32 = 1 << 3;
/// A human let this shadow go on.
pub const RELEASED: u32 = 1 << 4;
/// Is an MCP client or was started below one.
pub const CLIENT: u32 = 1 << 5;
/// The image that runs is a text tool that passes messages without serving them; judged anew at each exec.
pub const INERT: u32 = 1 << 6;
/// As [`INERT`], but it can put what it reads into other words: whatever it writes then is what it has read.
pub const REWRITES: u32 = 1 << 8;
/// Stopped by `hold` and not yet decided.
pub const HELD: u32 = 1 << 7;
/// The daemon, while its door stands open; no child inherits it.
pub const DOOR: u32 = 1 << 9;
/// In the map `EXECUTABLES` only: the image gets its label where root runs it, and nowhere else.
pub const FOR_ROOT: u32 = 1 << 31;

/// Nothing convicts a task with one of these.
pub const CLEARED: u32 = APPROVED | TRUSTED | RELEASED;
/// What another image does not inherit over exec.
pub const OF_THE_IMAGE: u32 = TRUSTED | INERT | REWRITES;
