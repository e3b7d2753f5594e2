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
    Connect = 9,
    ConnectFentry = 10,
    Connect4 = 11,
    Connect6 = 12,
    /// A stream connect to a UNIX socket: the peer is known.
    UnixConnect = 13,
    UnixConnectFentry = 14,
    /// What a socket is about to send, and where to.
    SocketSend = 15,
    /// A task looks for signals: also when it goes on after a stop.
    Resumed = 16,
    SignalGenerate = 17,
    SignalDeliver = 18,
    /// Never attached: user space runs it to have an argv judged.
    Judge = 19,
    /// A program is about to take the place of another, while the threads of that one are still there.
    PrepareExec = 24,
    PrepareExecFentry = 25,
    /// A task may look into another one, or write into it.
    Ptrace = 26,
    /// A program was started that a pipe may feed.
    Candidate = 32,
    /// Every system call, at its beginning and its end; attached while a candidate is open.
    SysEnter = 33,
    SysExit = 34,
    /// What a socket has sent and received.
    SocketSent = 35,
    SocketReceived = 36,
    /// An io_uring request is done.
    RingComplete = 37,
    /// A connect to a UNIX socket that can be denied.
    ConnectUnix = 38,
    /// Datagrams and sequenced packets.
    PacketSend = 40,
    PacketRecv = 41,
    /// A splice at its beginning and its end, and a tee.
    Splices = 42,
    Spliced = 43,
    Tees = 44,
    Teed = 45,
    /// What is copied out of a pipe without reading it.
    FromPipe = 46,
    TerminalWrite = 47,
    TerminalRead = 48,
    /// A terminal's memory is about to be another one's.
    TerminalEnd = 49,
    /// A file is put into a pipe without writing.
    FileToPipe = 50,
    UnixSendPage = 51,
    /// A pipe gets memory that was another channel's; a socket's is about to be another one's.
    PipeBegin = 52,
    SocketEnd = 53,
    /// The daemon ends, and with it its door.
    DoorEnd = 54,
}

pub const HOOKS: usize = 55;

/// Slots of the map `COUNTERS`.
pub const LOST_EVENTS: u32 = 0;
/// Lost events that user space has told of: its own note, which outlives a daemon.
pub const LOST_AND_TOLD: u32 = 1;
/// Events that a daemon has taken out of the ring and not written down yet, and those that one took with it: as above.
pub const UNWRITTEN: u32 = 2;
pub const LOST_BY_READERS: u32 = 3;
pub const COUNTERS: usize = 4;
