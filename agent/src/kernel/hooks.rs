//! The kernel programs, where each is attached, and what it needs of the kernel.

use lazaret_common::hook::Hook;

/// What a hook is for; a backend is a set of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Without these nothing can be judged.
    Exec,
    /// Sees tasks that fork's tracepoint does not.
    ExtraFork,
    Handshake,
    /// Denies a connect.
    DenyConnect,
    /// Ends a task that connects; only where nothing can deny.
    KillConnect,
    /// Denies inet connects by cgroup; only where nothing better was proven.
    CgroupConnect,
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
const EXEC: &[&str] = &["task_group_leader", "task_mm", "mm_arg", "bprm_", "file_inode", "inode_", "sb_dev"];
const PIPE: &[&str] = &[
    "task_group_leader",
    "kiocb_file",
    "file_private_data",
    "file_inode",
    "inode_ino",
    "iter_type",
    "iter_offset",
    "iter_count",
    "iter_iov",
    "iovec_",
    "enum_iter_iovec",
];
const SOCKET: &[&str] = &[
    "task_group_leader",
    "msghdr_iter",
    "socket_",
    "sk_socket",
    "unix_peer",
    "inode_ino",
    "iter_type",
    "iter_offset",
    "iter_count",
    "iter_iov",
    "iovec_",
    "enum_iter_iovec",
];

pub(super) const SPECS: &[Spec] = &[
    spec(Hook::Exec, "exec", "tp_btf", &["sched_process_exec"], Role::Exec, EXEC),
    spec(Hook::Fork, "fork", "tp_btf", &["sched_process_fork"], Role::Exec, TASK),
    spec(Hook::TaskAlloc, "task_alloc", "lsm", &["task_alloc"], Role::ExtraFork, TASK),
    spec(Hook::PipeWrite, "pipe_write", "fentry", &["anon_pipe_write", "pipe_write"], Role::Handshake, PIPE),
    optional(Hook::FifoWrite, "fifo_write", "fentry", &["fifo_pipe_write"], PIPE),
    spec(Hook::UnixSend, "unix_send", "fentry", &["unix_stream_sendmsg"], Role::Handshake, SOCKET),
    spec(Hook::PipeRead, "pipe_read", "fexit", &["anon_pipe_read", "pipe_read"], Role::Handshake, PIPE),
    optional(Hook::FifoRead, "fifo_read", "fexit", &["fifo_pipe_read"], PIPE),
    spec(Hook::UnixRecv, "unix_recv", "fexit", &["unix_stream_recvmsg"], Role::Handshake, SOCKET),
    spec(Hook::ConnectLsm, "connect_lsm", "lsm", &["socket_connect"], Role::DenyConnect, TASK),
    spec(Hook::ConnectFentry, "connect_fentry", "fentry", &["security_socket_connect"], Role::KillConnect, TASK),
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

const fn optional(
    hook: Hook,
    program: &'static str,
    kind: &'static str,
    targets: &'static [&'static str],
    needs: &'static [&'static str],
) -> Spec {
    Spec { hook, program, kind, targets, optional: true, role: Role::Handshake, needs }
}
