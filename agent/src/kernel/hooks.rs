//! The kernel programs, where each is attached, and what it needs of the kernel.

use lazaret_common::hook::Hook;

/// What a hook is for; a backend is a set of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Without these nothing can be judged.
    Exec,
    /// Carries a label over to the thread that executes a program.
    ThreadExec,
    /// The same where there is no tracepoint.
    ThreadExecFunction,
    /// Takes the label of the door from a process that somebody may write into.
    Tamper,
    Handshake,
    /// The same on channels that no client is known to use, and on ways around reading; one is not like another.
    OtherChannels,
    /// Terminals; only where their end is seen.
    Terminals,
    /// Denies a connect.
    DenyConnect,
    /// The same by changing what the kernel's function returns; only where LSM programs do not run.
    ModifyConnect,
    /// Denies sending MCP over loopback, and sending where a connect would be denied.
    DenySend,
    /// As `ModifyConnect`.
    ModifySend,
    /// Hears when the daemon ends; only where sending to its own HTTP would be denied.
    DoorEnd,
    /// Ends a task that connects; only where nothing can deny.
    KillConnect,
    /// Denies inet connects by cgroup; only where nothing better was proven.
    CgroupConnect,
    /// Sees what goes through UNIX sockets; only where functions cannot be hooked, as all that follow.
    Sockets,
    /// Denies connects to container engines by the name that is asked for.
    UnixByName,
    /// Sees what io_uring reads.
    Ring,
    /// On every system call; attached while a candidate is open.
    OnDemand,
    /// Reports candidates.
    Candidates,
    /// Stops a held task again that somebody continues.
    Hold,
    /// As far as signals tell; only where functions cannot be hooked.
    HoldBySignals,
}

pub(super) struct Spec {
    pub(super) hook: Hook,
    /// Name of the program in the object.
    pub(super) program: &'static str,
    pub(super) kind: &'static str,
    /// Names that kernels have had for the function; the first that exists is hooked. Tracepoints
    /// and LSM hooks have one.
    pub(super) targets: &'static [&'static str],
    /// A kernel that lacks all of the targets has nothing to hook there.
    pub(super) optional: bool,
    pub(super) role: Role,
    /// Prefixes of the fields that it reads.
    pub(super) needs: &'static [&'static str],
}

const TASK: &[&str] = &["task_group_leader", "task_mm"];
const LEADER: &[&str] = &["task_group_leader"];
const EXEC: &[&str] = &[
    "task_group_leader",
    "task_mm",
    "task_cred",
    "task_ptrace",
    "cred_",
    "user_ns_",
    "mm_arg",
    "mm_env",
    "bprm_",
    "file_inode",
    "file_path",
    "path_dentry",
    "dentry_name",
    "qstr_name",
    "inode_ino",
    "inode_uid",
    "inode_sb",
    "sb_dev",
];
const DOOR: &[&str] = &["task_group_leader", "netns_", "socket_", "sk_common", "inode_ino"];
const UNIX: &[&str] = &["task_group_leader", "task_mm", "unix_addr"];
const SEND: &[&str] = &[
    "task_group_leader",
    "task_mm",
    "msghdr_",
    "socket_",
    "sk_",
    "common_",
    "inode_ino",
    "iter_type",
    "iter_offset",
    "iter_count",
    "iter_iov",
    "iovec_",
    "enum_iter_iovec",
];
const PIPE: &[&str] = &[
    "task_group_leader",
    "kiocb_file",
    "file_private_data",
    "file_inode",
    "inode_ino",
    "pipe_",
    "task_tgid",
    "task_start_time",
    "task_real_parent",
    "iter_type",
    "iter_offset",
    "iter_count",
    "iter_iov",
    "iovec_",
    "enum_iter_iovec",
];
const SPLICE: &[&str] = &[
    "task_group_leader",
    "file_inode",
    "file_private_data",
    "inode_ino",
    "inode_mode",
    "pipe_",
    "socket_",
    "sk_socket",
    "sk_receive_queue",
    "queue_",
    "unix_peer",
];
const TERMINAL: &[&str] =
    &["task_group_leader", "task_tgid", "task_start_time", "task_real_parent", "tty_", "driver_subtype"];
const SOCKET: &[&str] = &[
    "task_group_leader",
    "msghdr_iter",
    "socket_",
    "sk_socket",
    "sk_receive_queue",
    "queue_",
    "unix_peer",
    "inode_ino",
    "task_tgid",
    "task_start_time",
    "task_real_parent",
    "iter_type",
    "iter_offset",
    "iter_count",
    "iter_iov",
    "iovec_",
    "enum_iter_iovec",
];

const DESCRIPTOR: &[&str] = &[
    "task_group_leader",
    "task_files",
    "task_tgid",
    "files_table",
    "table_",
    "file_inode",
    "file_mode",
    "file_private_data",
    "inode_ino",
    "inode_mode",
    "inode_device",
    "socket_",
    "sk_socket",
    "sk_common",
    "common_family",
    "unix_peer",
];
const CALL: &[&str] = &["task_thread_info", "thread_status", "regs_", "task_mm", "iovec_"];
const BY_NAME: &[&str] = &["task_group_leader", "task_mm", "sockaddr_kern_"];
const RING: &[&str] = &["request_", "completion_", "ring_"];

pub(super) const SPECS: &[Spec] = &[
    spec(Hook::Exec, "exec", "tp_btf", &["sched_process_exec"], Role::Exec, EXEC),
    spec(Hook::Fork, "fork", "tp_btf", &["sched_process_fork"], Role::Exec, TASK),
    spec(Hook::PrepareExec, "prepare_exec", "tp_btf", &["sched_prepare_exec"], Role::ThreadExec, LEADER),
    spec(
        Hook::PrepareExecFentry,
        "prepare_exec_fentry",
        "fentry",
        &["begin_new_exec"],
        Role::ThreadExecFunction,
        LEADER,
    ),
    spec(Hook::Ptrace, "ptrace", "fentry", &["security_ptrace_access_check"], Role::Tamper, LEADER),
    spec(Hook::PipeWrite, "pipe_write", "fentry", &["anon_pipe_write", "pipe_write"], Role::Handshake, PIPE),
    optional(Hook::FifoWrite, "fifo_write", "fentry", &["fifo_pipe_write"], PIPE),
    spec(Hook::UnixSend, "unix_send", "fentry", &["unix_stream_sendmsg"], Role::Handshake, SOCKET),
    spec(Hook::PipeRead, "pipe_read", "fexit", &["anon_pipe_read", "pipe_read"], Role::Handshake, PIPE),
    optional(Hook::FifoRead, "fifo_read", "fexit", &["fifo_pipe_read"], PIPE),
    spec(Hook::UnixRecv, "unix_recv", "fexit", &["unix_stream_recvmsg"], Role::Handshake, SOCKET),
    other(Hook::PacketSend, "packet_send", "fentry", &["unix_dgram_sendmsg"], SOCKET),
    other(Hook::PacketRecv, "packet_recv", "fexit", &["__unix_dgram_recvmsg"], SOCKET),
    other(Hook::Splices, "splices", "fentry", &["do_splice"], SPLICE),
    other(Hook::Spliced, "spliced", "fexit", &["do_splice"], SPLICE),
    other(Hook::Tees, "tees", "fentry", &["do_tee"], SPLICE),
    other(Hook::Teed, "teed", "fexit", &["do_tee"], SPLICE),
    other(Hook::FromPipe, "from_pipe", "fexit", &["__splice_from_pipe"], SPLICE),
    other(Hook::FileToPipe, "file_to_pipe", "fentry", &["splice_file_to_pipe"], SPLICE),
    Spec { optional: true, ..other(Hook::UnixSendPage, "unix_send_page", "fentry", &["unix_stream_sendpage"], SOCKET) },
    other(Hook::PipeBegin, "pipe_begin", "fexit", &["alloc_pipe_info"], LEADER),
    other(Hook::SocketEnd, "socket_end", "fentry", &["unix_sock_destructor"], LEADER),
    other(Hook::TerminalEnd, "terminal_end", "fentry", &["pty_close"], TERMINAL),
    spec(Hook::TerminalWrite, "terminal_write", "fentry", &["pty_write"], Role::Terminals, TERMINAL),
    spec(Hook::TerminalRead, "terminal_read", "fexit", &["n_tty_read"], Role::Terminals, TERMINAL),
    spec(Hook::Connect, "connect", "lsm", &["socket_connect"], Role::DenyConnect, TASK),
    spec(Hook::UnixConnect, "unix_connect", "lsm", &["unix_stream_connect"], Role::DenyConnect, UNIX),
    spec(Hook::Connect, "connect", "fmod_ret", &["security_socket_connect"], Role::ModifyConnect, TASK),
    spec(Hook::UnixConnect, "unix_connect", "fmod_ret", &["security_unix_stream_connect"], Role::ModifyConnect, UNIX),
    spec(Hook::SocketSend, "socket_send", "lsm", &["socket_sendmsg"], Role::DenySend, SEND),
    spec(Hook::SocketSend, "socket_send", "fmod_ret", &["security_socket_sendmsg"], Role::ModifySend, SEND),
    spec(Hook::DoorEnd, "door_end", "tp_btf", &["sched_process_exit"], Role::DoorEnd, DOOR),
    spec(Hook::ConnectFentry, "connect_fentry", "fentry", &["security_socket_connect"], Role::KillConnect, TASK),
    spec(
        Hook::UnixConnectFentry,
        "unix_connect_fentry",
        "fentry",
        &["security_unix_stream_connect"],
        Role::KillConnect,
        UNIX,
    ),
    spec(Hook::Resumed, "resumed", "fentry", &["dequeue_signal"], Role::Hold, TASK),
    spec(Hook::SignalGenerate, "signal_generate", "tp_btf", &["signal_generate"], Role::HoldBySignals, TASK),
    spec(Hook::SignalDeliver, "signal_deliver", "tp_btf", &["signal_deliver"], Role::HoldBySignals, TASK),
    spec(Hook::SocketSent, "socket_sent", "tp_btf", &["sock_send_length"], Role::Sockets, CALL),
    spec(Hook::SocketReceived, "socket_received", "tp_btf", &["sock_recv_length"], Role::Sockets, CALL),
    spec(Hook::RingComplete, "ring_complete", "tp_btf", &["io_uring_complete"], Role::Ring, RING),
    spec(Hook::ConnectUnix, "connect_unix", "cgroup", &["connect_unix"], Role::UnixByName, BY_NAME),
    spec(Hook::SysEnter, "sys_enter", "tp_btf", &["sys_enter"], Role::OnDemand, CALL),
    spec(Hook::SysExit, "sys_exit", "tp_btf", &["sys_exit"], Role::OnDemand, CALL),
    spec(Hook::Candidate, "candidate", "tp_btf", &["sched_process_exec"], Role::Candidates, DESCRIPTOR),
    spec(Hook::Connect4, "connect4", "cgroup", &["connect4"], Role::CgroupConnect, TASK),
    spec(Hook::Connect6, "connect6", "cgroup", &["connect6"], Role::CgroupConnect, TASK),
];

const fn spec(
    hook: Hook,
    program: &'static str,
    kind: &'static str,
    targets: &'static [&'static str],
    role: Role,
    needs: &'static [&'static str],
) -> Spec {
    Spec { hook, program, kind, targets, optional: false, role, needs }
}

const fn other(
    hook: Hook,
    program: &'static str,
    kind: &'static str,
    targets: &'static [&'static str],
    needs: &'static [&'static str],
) -> Spec {
    spec(hook, program, kind, targets, Role::OtherChannels, needs)
}

const fn optional(
    hook: Hook,
    program: &'static str,
    kind: &'static str,
    targets: &'static [&'static str],
    needs: &'static [&'static str],
) -> Spec {
    Spec { hook, program, kind, targets, optional: true, role: Role::Handshake, needs }
}
