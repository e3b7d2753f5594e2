//! How a test server can come by a channel that was not given to it when it was started, and what it can do before it
//! reads.
#![expect(unsafe_code, reason = "these system calls have no safe wrapper in std")]

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::ExitStatus;
use std::ptr::null;
use std::time::Duration;

use crate::messages::message;
use crate::poll;

/// `AT_EXECVE_CHECK` (Linux 6.14).
const AT_EXECVE_CHECK: i32 = 0x10000;
/// How long another process may take to do its part, on a slow machine.
const SOON: Duration = Duration::from_secs(60);

/// Makes standard input what `way` says.
pub fn take(way: &str) -> io::Result<()> {
    let (way, of) = way.split_once(':').unwrap_or((way, ""));
    match way {
        "passed" => replace_stdin(receive(of)?.as_raw_fd()),
        "stolen" => replace_stdin(stolen()?.as_raw_fd()),
        "opened" => {
            let path = format!("/proc/{}/fd/0", std::os::unix::process::parent_id());
            replace_stdin(File::open(path)?.as_raw_fd())
        }
        "reopened" => replace_stdin(File::open("/proc/self/fd/0")?.as_raw_fd()),
        "forked" => in_a_child(0),
        "pid" => as_another(Path::new(of)),
        "flood" => {
            let (count, done) = of.split_once(':').ok_or_else(|| io::Error::other("a count and a file are needed"))?;
            wait_for_message();
            flood(count.parse().map_err(io::Error::other)?)?;
            fs::write(done, "")
        }
        "checked" => check_exec(&[of.to_owned()]),
        _ => Err(io::Error::other(format!("there is no way {way:?} to take a channel"))),
    }
}

fn failed<T>() -> io::Result<T> {
    Err(io::Error::last_os_error())
}

fn replace_stdin(with: RawFd) -> io::Result<()> {
    // SAFETY: numbers of descriptors; nothing here owns standard input.
    if unsafe { libc::dup2(with, 0) } < 0 { failed() } else { Ok(()) }
}

fn abstract_name(name: &str) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("lazaret-test-{name}"))
}

/// Room for one descriptor, aligned as a header must be.
#[repr(C)]
union Control {
    header: libc::cmsghdr,
    room: [u8; 64],
}

/// A message with one byte and with room for one descriptor.
fn with_control<T>(act: impl FnOnce(&mut libc::msghdr) -> T) -> T {
    let mut byte = 0_u8;
    let mut segment = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let mut control = Control { room: [0; 64] };
    // SAFETY: all zero is a valid value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut segment;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    // SAFETY: arithmetic.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(size_of::<RawFd>() as u32) } as usize;
    act(&mut message)
}

/// Gives the descriptor to whoever receives under that name.
pub fn pass(name: &str, descriptor: RawFd) -> io::Result<()> {
    let address = abstract_name(name)?;
    let to = poll(SOON, || UnixStream::connect_addr(&address).ok());
    let to = to.ok_or_else(|| io::Error::other(format!("nobody receives as {name}")))?;
    with_control(|message| {
        // SAFETY: the control data has room for a header and a descriptor; all of it outlives the call.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as usize;
            libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(descriptor);
            if libc::sendmsg(to.as_raw_fd(), message, 0) == 1 { Ok(()) } else { failed() }
        }
    })
}

/// The descriptor that somebody passes under that name.
pub fn receive(name: &str) -> io::Result<OwnedFd> {
    let (from, _) = UnixListener::bind_addr(&abstract_name(name)?)?.accept()?;
    with_control(|message| {
        // SAFETY: as in `pass`; a descriptor that the kernel has just made is nobody else's.
        unsafe {
            if libc::recvmsg(from.as_raw_fd(), message, libc::MSG_CMSG_CLOEXEC) < 0 {
                return failed();
            }
            let header = libc::CMSG_FIRSTHDR(message);
            if header.is_null() || (*header).cmsg_type != libc::SCM_RIGHTS {
                return Err(io::Error::other("no descriptor came"));
            }
            Ok(OwnedFd::from_raw_fd(libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned()))
        }
    })
}

/// Standard input of this process's parent (Linux 5.6).
fn stolen() -> io::Result<OwnedFd> {
    let owned = |fd: i64| {
        // SAFETY: a new descriptor.
        if fd < 0 { failed() } else { Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }) }
    };
    // SAFETY: numbers only.
    let parent = owned(unsafe { libc::syscall(libc::SYS_pidfd_open, std::os::unix::process::parent_id(), 0) })?;
    // SAFETY: as above.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, parent.as_raw_fd(), 0, 0) })
}

/// `struct clone_args` (include/uapi/linux/sched.h), as long as it is since 5.7.
#[repr(C)]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// As fork: 0 in the child. `pid`: the child's, if not 0 (Linux 5.5). `cgroup`: a directory's descriptor (5.7).
///
/// # Safety
/// This process must have one thread.
unsafe fn clone3(pid: u32, cgroup: Option<RawFd>) -> io::Result<i32> {
    let mut arguments = CloneArguments { exit_signal: libc::SIGCHLD as u64, ..CloneArguments::default() };
    if pid != 0 {
        arguments.set_tid = (&raw const pid) as u64;
        arguments.set_tid_size = 1;
    }
    if let Some(cgroup) = cgroup {
        arguments.flags = CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup as u64;
    }
    // SAFETY: as the caller says; no shared memory, no stack.
    let child = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<CloneArguments>()) };
    if child < 0 { failed() } else { Ok(child as i32) }
}

/// Ends this process as the child did, once that has ended.
#[expect(clippy::disallowed_methods, reason = "a test program that has nothing to clean up")]
fn end_as(child: i32) -> ! {
    let mut status = 0;
    // SAFETY: a child and a place for its status.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    let status = ExitStatus::from_raw(status);
    std::process::exit(status.code().unwrap_or(128 + status.signal().unwrap_or(0)))
}

/// Goes on in a child, perhaps with that pid, which executes nothing.
fn in_a_child(pid: u32) -> io::Result<()> {
    // SAFETY: test servers take their input before they start a thread.
    match unsafe { clone3(pid, None) }? {
        0 => Ok(()),
        child => end_as(child),
    }
}

/// Starts the program in a child in another cgroup, and ends as it does.
pub fn start_in_cgroup(directory: &str, program: &[String]) -> io::Result<u8> {
    let directory = File::open(directory)?;
    // SAFETY: `evader` has one thread.
    match unsafe { clone3(0, Some(directory.as_raw_fd())) }? {
        0 => Err(std::process::Command::new(&program[0]).args(&program[1..]).exec()),
        child => end_as(child),
    }
}

/// Starts the program in a child with the pid in `file`, whose owner has gone, and ends as it does. That it had the pid
/// is said in `file`.reused.
pub fn start_with_pid(file: &Path, program: &[String]) -> io::Result<u8> {
    in_a_child_with_pid(file)?;
    Err(std::process::Command::new(&program[0]).args(&program[1..]).exec())
}

fn in_a_child_with_pid(file: &Path) -> io::Result<()> {
    let gone = || io::Error::other(format!("the process that {} names is not gone", file.display()));
    let pid: u32 = fs::read_to_string(file)?.trim().parse().map_err(io::Error::other)?;
    poll(SOON, || (!Path::new(&format!("/proc/{pid}")).exists()).then_some(())).ok_or_else(gone)?;
    in_a_child(pid)?;
    fs::write(file.with_added_extension("reused"), (std::process::id() == pid).to_string())
}

/// Once the message is there, reads it as a process with the pid in `file`, whose owner ends at `file`.arrived; not on
/// its standard input. That it had the pid is said in `file`.reused.
fn as_another(file: &Path) -> io::Result<()> {
    wait_for_message();
    fs::write(file.with_added_extension("arrived"), "")?;
    in_a_child_with_pid(file)?;

    // SAFETY: standard input is a descriptor; the new one is nobody else's.
    let mut channel = unsafe { File::from_raw_fd(libc::dup(0)) };
    replace_stdin(File::open("/dev/null")?.as_raw_fd())?;
    let mut buffer = vec![0; 64 << 10];
    let count = channel.read(&mut buffer)?;
    let mut copy: File = tempfile::tempfile()?;
    copy.write_all(&buffer[..count])?;
    copy.rewind()?;
    replace_stdin(copy.as_raw_fd())
}

fn wait_for_message() {
    let mut input = libc::pollfd { fd: 0, events: libc::POLLIN, revents: 0 };
    // SAFETY: one descriptor.
    unsafe { libc::poll(&raw mut input, 1, -1) };
}

/// Pipes of one process: not more than it may have open anywhere.
const PIPES: usize = 400;

/// Has a message stand in so many pipes, which nobody reads, for as long as this process lives.
pub fn flood(count: usize) -> io::Result<()> {
    let message = message("initialize").unwrap_or_default();
    let processors = std::thread::available_parallelism()?.get();
    let (mut done, mut filled) = io::pipe()?;
    let children = count.div_ceil(PIPES);
    for i in 0..children {
        // SAFETY: this process has one thread; the child ends with it.
        match unsafe { libc::fork() } {
            0 => {
                // SAFETY: as above.
                unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
                // Each processor keeps its newest entries of a map to itself, until it has made more.
                run_on(i % processors);
                let pipes = fill(&message);
                filled.write_all(&[u8::from(pipes.is_ok())])?;
                loop {
                    // SAFETY: it never returns but for a signal.
                    unsafe { libc::pause() };
                }
            }
            child if child < 0 => return failed(),
            _ => {}
        }
    }
    let mut outcomes = vec![0; children];
    done.read_exact(&mut outcomes)?;
    if outcomes.contains(&0) { Err(io::Error::other("a process could not fill its pipes")) } else { Ok(()) }
}

fn fill(message: &[u8]) -> io::Result<Vec<(io::PipeReader, io::PipeWriter)>> {
    let pipe = |_| {
        let (from, mut to) = io::pipe()?;
        to.write_all(message)?;
        Ok((from, to))
    };
    (0..PIPES).map(pipe).collect()
}

/// Where it may not, it runs where it does.
fn run_on(processor: usize) {
    // SAFETY: a set of processors, all zero at first.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(processor, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
    }
}

/// Asks the kernel whether the program could be executed, and executes nothing.
pub fn check_exec(program: &[String]) -> io::Result<()> {
    let words: Vec<CString> =
        program.iter().map(|word| CString::new(word.as_str()).map_err(io::Error::other)).collect::<Result<_, _>>()?;
    let argv: Vec<*const libc::c_char> = words.iter().map(|word| word.as_ptr()).chain([null()]).collect();
    let environment = [null::<libc::c_char>()];
    // SAFETY: NUL-terminated strings, and arrays that end with a null pointer.
    let result = unsafe {
        libc::syscall(libc::SYS_execveat, libc::AT_FDCWD, argv[0], argv.as_ptr(), environment.as_ptr(), AT_EXECVE_CHECK)
    };
    if result < 0 { failed() } else { Ok(()) }
}
