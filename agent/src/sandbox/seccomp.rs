//! The system calls of a cage.
//!
//! An allow-list: what is not named fails with EPERM, whatever Docker's version would let through.
//! It holds what programs without privileges use, and leaves out what has often been a way into
//! the kernel or into other processes: io_uring, bpf, perf events, userfaultfd, keyrings,
//! ptrace and its relatives, namespaces, mounts, and sockets of other families than local ones and
//! IP. The calls of 32-bit programs are not in it at all.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const ALLOWED: &str = "
accept accept4 access alarm arch_prctl bind brk cachestat capget capset chdir chmod chown clock_getres
clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range connect
copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2
epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64
fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fcntl64 fdatasync fgetxattr
flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64
futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu
getcwd getdents getdents64 getegid geteuid getgid getgroups getitimer getpeername getpgid getpgrp getpid getppid
getpriority getrandom getresgid getresuid getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday
getuid getxattr getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy
io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl ioprio_get ioprio_set kill
landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lgetxattr link linkat listen listxattr
listxattrat llistxattr lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack membarrier memfd_create
memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr mq_notify
mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget
msgrcv msgsnd msync munlock munlockall munmap nanosleep newfstatat open openat openat2 pause pidfd_open
pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2
prlimit64 process_mrelease pselect6 pselect6_time64 pwrite64 pwritev pwritev2 read readahead readlink readlinkat
readv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename renameat renameat2
restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min
sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64
sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop
semtimedop semtimedop_time64 sendfile sendfile64 sendmmsg sendmsg sendto set_robust_list set_thread_area
set_tid_address setfsgid setfsuid setgid setgroups setitimer setpgid setpriority setregid setresgid setresuid
setreuid setrlimit setsid setsockopt setuid setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack
signalfd signalfd4 socketpair splice stat stat64 statfs statfs64 statx symlink symlinkat sync sync_file_range
sync_file_range2 syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime
timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime
timerfd_settime64 times tkill truncate truncate64 umask uname unlink unlinkat utime utimensat utimensat_time64
utimes vfork vmsplice wait4 waitid write writev";

/// Local, IPv4, IPv6, and netlink, by which C libraries list interfaces.
const FAMILIES: [u32; 4] = [1, 2, 10, 16];
/// Of ordinary programs: Linux's own, and the same without address randomisation or as a question.
const PERSONALITIES: [u32; 3] = [0, 0x0004_0000, 0xffff_ffff];
/// Every CLONE_NEW* flag but CLONE_NEWTIME, which `clone` cannot be given.
const NAMESPACES: u32 = 0x7e02_0000;
/// C libraries fall back to `clone`, whose flags can be looked at; those of `clone3` cannot.
const ENOSYS: u32 = 38;

/// The option as Docker takes it.
pub(super) fn option() -> String {
    format!("seccomp={}", profile())
}

/// The option as Podman takes it: a file, whose name tells its content.
pub(super) fn install(dir: &Path) -> io::Result<String> {
    let profile = profile();
    let digest = hex::encode(&Sha256::digest(&profile)[..6]);
    let path = std::path::absolute(dir)?.join(format!("cage-calls-{digest}.json"));
    if !std::fs::read_to_string(&path).is_ok_and(|found| found == profile) {
        let new = path.with_extension(format!("new-{}", std::process::id()));
        std::fs::write(&new, profile)?;
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o444))?;
        std::fs::rename(&new, &path)?;
    }
    Ok(format!("seccomp={}", path.display()))
}

fn profile() -> String {
    let allow = |names: Value, args: Value| json!({"names": names, "action": "SCMP_ACT_ALLOW", "args": args});
    let first = |value: u32| json!([{"index": 0, "value": value, "op": "SCMP_CMP_EQ"}]);
    let mut rules = vec![
        allow(ALLOWED.split_whitespace().collect(), json!([])),
        allow(json!(["clone"]), json!([{"index": 0, "value": NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}])),
        json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS, "args": []}),
    ];
    rules.extend(FAMILIES.map(|family| allow(json!(["socket"]), first(family))));
    rules.extend(PERSONALITIES.map(|personality| allow(json!(["personality"]), first(personality))));
    let native = |name: &str| json!({"architecture": name, "subArchitectures": []});
    let profile = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "archMap": [native("SCMP_ARCH_X86_64"), native("SCMP_ARCH_AARCH64")],
        "syscalls": rules,
    });
    profile.to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_call_is_named_twice_and_none_that_must_not_be() {
        let names: Vec<&str> = ALLOWED.split_whitespace().collect();
        let set: BTreeSet<&str> = names.iter().copied().collect();
        assert_eq!(set.len(), names.len());
        for name in [
            "add_key",
            "bpf",
            "clone",
            "clone3",
            "fsopen",
            "io_uring_setup",
            "kexec_load",
            "keyctl",
            "mount",
            "open_by_handle_at",
            "perf_event_open",
            "personality",
            "pidfd_getfd",
            "process_vm_readv",
            "ptrace",
            "setns",
            "socket",
            "unshare",
            "userfaultfd",
        ] {
            assert!(!set.contains(name), "{name}");
        }
    }
}
