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
    task_comm = "task_struct" "comm";
    task_cgroups = "task_struct" "cgroups";
    mm_arg_start = "mm_struct" "arg_start";
    mm_arg_end = "mm_struct" "arg_end";
    mm_exe_file = "mm_struct" "exe_file";
    fs_pwd = "fs_struct" "pwd";
    bprm_file = "linux_binprm" "file";
    bprm_filename = "linux_binprm" "filename";
    bprm_interp = "linux_binprm" "interp";
    file_path = "file" "f_path";
    file_inode = "file" "f_inode";
    file_private_data = "file" "private_data";
    path_mnt = "path" "mnt";
    path_dentry = "path" "dentry";
    inode_ino = "inode" "i_ino";
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
    socket_alloc_socket = "socket_alloc" "socket";
    socket_alloc_inode = "socket_alloc" "vfs_inode";
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
