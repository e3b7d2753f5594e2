//! The kernel programs, by the slot of their counter.

/// One kernel program. The number is its slot in the map `FIRED`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Hook {
    Exec = 0,
    Fork = 1,
    TaskAlloc = 2,
    PipeWrite = 3,
    FifoWrite = 4,
    UnixSend = 5,
    PipeRead = 6,
    FifoRead = 7,
    UnixRecv = 8,
    ConnectLsm = 9,
    ConnectFentry = 10,
    Connect4 = 11,
    Connect6 = 12,
}

pub const HOOKS: usize = 13;

/// Slots of the map `COUNTERS`.
pub const LOST_EVENTS: u32 = 0;
pub const COUNTERS: usize = 4;
