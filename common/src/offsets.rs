//! Where the running kernel keeps the fields that the programs read.
//!
//! User space resolves each from `/sys/kernel/btf/vmlinux` and writes the table into read-only
//! data before loading. rustc emits no CO-RE relocations; bindings of one kernel read wrong bytes
//! on the next.

/// Stands for a field that this kernel does not have.
pub const MISSING: u32 = u32::MAX;

macro_rules! offsets {
    ($($(#[$meta:meta])* $name:ident = $structure:literal $member:literal;)*) => {
        #[derive(Clone, Copy, Debug)]
        #[repr(C)]
        pub struct Offsets { $($(#[$meta])* pub $name: u32),* }

        /// (name, struct, member) in the order of the fields of [`Offsets`].
        pub const FIELDS: &[(&str, &str, &str)] = &[$((stringify!($name), $structure, $member)),*];

        impl Offsets {
            pub const NONE: Offsets = Offsets { $($name: MISSING),* };
        }
    };
}

offsets! {
    task_mm = "task_struct" "mm";
    task_fs = "task_struct" "fs";
    task_real_parent = "task_struct" "real_parent";
    task_group_leader = "task_struct" "group_leader";
    task_tgid = "task_struct" "tgid";
    task_start_time = "task_struct" "start_boottime";
    task_comm = "task_struct" "comm";
    task_cgroups = "task_struct" "cgroups";
    task_ptrace = "task_struct" "ptrace";
    task_cred = "task_struct" "cred";
    cred_user_ns = "cred" "user_ns";
    user_ns_level = "user_namespace" "level";
    mm_arg_start = "mm_struct" "arg_start";
    mm_arg_end = "mm_struct" "arg_end";
    mm_env_start = "mm_struct" "env_start";
    mm_env_end = "mm_struct" "env_end";
    mm_exe_file = "mm_struct" "exe_file";
    fs_pwd = "fs_struct" "pwd";
    bprm_file = "linux_binprm" "file";
    bprm_filename = "linux_binprm" "filename";
    bprm_interp = "linux_binprm" "interp";
    bprm_interp_flags = "linux_binprm" "interp_flags";
    file_path = "file" "f_path";
    file_inode = "file" "f_inode";
    file_private_data = "file" "private_data";
    path_mnt = "path" "mnt";
    path_dentry = "path" "dentry";
    inode_ino = "inode" "i_ino";
    inode_uid = "inode" "i_uid";
    inode_sb = "inode" "i_sb";
    sb_dev = "super_block" "s_dev";
    dentry_parent = "dentry" "d_parent";
    dentry_name = "dentry" "d_name";
    qstr_name = "qstr" "name";
    vfsmount_root = "vfsmount" "mnt_root";
    mount_vfsmount = "mount" "mnt";
    mount_parent = "mount" "mnt_parent";
    mount_mountpoint = "mount" "mnt_mountpoint";
    css_set_dfl_cgroup = "css_set" "dfl_cgrp";
    css_set_subsys = "css_set" "subsys";
    css_cgroup = "cgroup_subsys_state" "cgroup";
    cgroup_kn = "cgroup" "kn";
    kernfs_name = "kernfs_node" "name";
    kiocb_file = "kiocb" "ki_filp";
    iter_type = "iov_iter" "iter_type";
    iter_offset = "iov_iter" "iov_offset";
    iter_count = "iov_iter" "count";
    /// `__iov` since 6.4.
    iter_iov = "iov_iter" "__iov|iov";
    iter_ubuf = "iov_iter" "ubuf";
    iter_segments = "iov_iter" "nr_segs";
    iovec_base = "iovec" "iov_base";
    iovec_length = "iovec" "iov_len";
    msghdr_iter = "msghdr" "msg_iter";
    socket_sk = "socket" "sk";
    sk_socket = "sock" "sk_socket";
    unix_peer = "unix_sock" "peer";
    unix_addr = "unix_sock" "addr";
    unix_address_length = "unix_address" "len";
    unix_address_name = "unix_address" "name";
    sk_common = "sock" "__sk_common";
    sk_protocol = "sock" "sk_protocol";
    common_family = "sock_common" "skc_family";
    common_daddr = "sock_common" "skc_daddr";
    common_saddr = "sock_common" "skc_rcv_saddr";
    common_dport = "sock_common" "skc_dport";
    netns_of_sock = "sock_common" "skc_net";
    netns_common = "net" "ns";
    netns_number = "ns_common" "inum";
    common_daddr6 = "sock_common" "skc_v6_daddr";
    common_saddr6 = "sock_common" "skc_v6_rcv_saddr";
    msghdr_name = "msghdr" "msg_name";
    msghdr_name_length = "msghdr" "msg_namelen";
    msghdr_flags = "msghdr" "msg_flags";
    task_files = "task_struct" "files";
    task_thread_info = "task_struct" "thread_info";
    thread_status = "thread_info" "status";
    files_table = "files_struct" "fdt";
    table_size = "fdtable" "max_fds";
    table_files = "fdtable" "fd";
    file_mode = "file" "f_mode";
    inode_mode = "inode" "i_mode";
    inode_device = "inode" "i_rdev";
    regs_di = "pt_regs" "di";
    regs_si = "pt_regs" "si";
    regs_dx = "pt_regs" "dx";
    regs_r10 = "pt_regs" "r10";
    regs_bx = "pt_regs" "bx";
    regs_cx = "pt_regs" "cx";
    regs_number = "pt_regs" "orig_ax";
    request_file = "io_kiocb" "file";
    request_opcode = "io_kiocb" "opcode";
    completion_result = "io_uring_cqe" "res";
    ring_read_address = "io_rw" "addr";
    ring_receive_address = "io_sr_msg" "buf";
    sockaddr_kern_address = "bpf_sock_addr_kern" "uaddr";
    sockaddr_kern_length = "bpf_sock_addr_kern" "uaddrlen";
    socket_alloc_socket = "socket_alloc" "socket";
    socket_alloc_inode = "socket_alloc" "vfs_inode";
    pipe_head = "pipe_inode_info" "head";
    pipe_tail = "pipe_inode_info" "tail";
    sk_receive_queue = "sock" "sk_receive_queue";
    queue_length = "sk_buff_head" "qlen";
    tty_link = "tty_struct" "link";
    tty_driver = "tty_struct" "driver";
    driver_subtype = "tty_driver" "subtype";
    /// Values of `enum iter_type`.
    enum_iter_iovec = "enum iter_type" "ITER_IOVEC";
    enum_iter_ubuf = "enum iter_type" "ITER_UBUF";
    /// Values of `enum cgroup_subsys_id`: the v1 hierarchies that a container's cgroup shows up in.
    enum_cgroup_memory = "enum cgroup_subsys_id" "memory_cgrp_id";
    enum_cgroup_pids = "enum cgroup_subsys_id" "pids_cgrp_id";
}

pub const COUNT: usize = size_of::<Offsets>() / 4;

impl Offsets {
    pub fn from_words(words: [u32; COUNT]) -> Self {
        // SAFETY: `Offsets` is `repr(C)` and has only `u32` fields.
        unsafe { core::mem::transmute(words) }
    }

    pub fn words(self) -> [u32; COUNT] {
        // SAFETY: as above.
        unsafe { core::mem::transmute(self) }
    }
}
