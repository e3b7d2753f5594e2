//! Starts a program in the ways that people think of who do not want to be seen starting it.
//!
//! `evader WAY PROGRAM ARGUMENT...`: stdin and stdout are the program's. The ways that end in an exec do not
//! return; the others wait for what they started.
#![expect(unsafe_code, reason = "raw clone, execveat, ptrace and prctl have no safe wrapper in std")]

use std::ffi::CString;
use std::fs::File;
use std::io::{Error, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, ExitCode};
use std::ptr::null;

use lazaret_tests::{poll, taking};

/// How long another process may take to do its part, on a slow machine.
const SOON: std::time::Duration = std::time::Duration::from_secs(60);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [way, program @ ..] = arguments.as_slice() else { return usage() };
    if program.is_empty() {
        return usage();
    }
    match start(way, program) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            eprintln!("evader {way} {}: {e}", program[0]);
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: evader WAY PROGRAM ARGUMENT...");
    ExitCode::from(2)
}

fn start(way: &str, program: &[String]) -> Result<u8, Error> {
    match way {
        "plain" => Err(command(program).exec()),
        "lie" => Err(command(program).arg0("harmless").exec()),
        "memory" => by_descriptor(&in_memory(&program[0])?, program),
        "path-descriptor" => {
            by_descriptor(&File::options().read(true).custom_flags(libc::O_PATH).open(&program[0])?.into(), program)
        }
        "proc-descriptor" => {
            let file = File::open(&program[0])?;
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            Err(Command::new(path).arg0(&program[0]).args(&program[1..]).exec())
        }
        "memory-lie" => by_descriptor(&in_memory(&program[0])?, &[&["harmless".to_owned()], &program[1..]].concat()),
        "rewritten" => rewritten(program),
        "thread" => in_a_thread(program.to_vec()),
        "thread-alone" => {
            let program = program.to_vec();
            std::thread::spawn(move || in_a_thread(program));
            // SAFETY: ends this thread only; what the other one uses is its own.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
            Ok(1)
        }
        "spawn" => Ok(code(command(program).status()?)),
        "vfork" => waited(cloned(libc::CLONE_VFORK, program)?),
        "sibling" => {
            cloned(libc::CLONE_PARENT, program)?;
            // The new process is the caller's child; it keeps the pipes open by itself.
            Ok(0)
        }
        "traced" => traced(program),
        "attached" => attached(program),
        "written-into" => written_into(program),
        "namespace" => in_a_user_namespace(program),
        "below-directory" => below_a_directory(program),
        "removed" => {
            let file = File::open(&program[0])?;
            std::fs::remove_file(&program[0])?;
            by_descriptor(&file.into(), program)
        }
        "out-of-cgroup" => taking::start_in_cgroup("/sys/fs/cgroup", program),
        "with-pid" => taking::start_with_pid(program[0].as_ref(), &program[1..]),
        "become-root" => {
            // SAFETY: numbers only.
            if unsafe { libc::setresuid(0, 0, 0) } < 0 {
                return Err(Error::last_os_error());
            }
            Err(command(program).exec())
        }
        "checked" => {
            say("checked", taking::check_exec(program))?;
            Ok(0)
        }
        // Has its own standard input for others: `-` instead of a program, or a name and what follows.
        "keep" => waited(-1),
        "pass" => {
            taking::pass(&program[0], 0)?;
            waited(-1)
        }
        "pass-on" => {
            taking::pass(&program[0], 0)?;
            waited(-1)?;
            Err(command(&program[1..]).exec())
        }
        "receive" => Err(command(&program[1..]).stdin(taking::receive(&program[0])?).exec()),
        "outlived" => outlived(program),
        "flood" => flood(program),
        other => Err(Error::other(format!("there is no way {other:?}"))),
    }
}

fn command(program: &[String]) -> Command {
    let mut command = Command::new(&program[0]);
    command.args(&program[1..]);
    command
}

fn code(status: std::process::ExitStatus) -> u8 {
    status.code().map_or(128 + status.signal().unwrap_or(0) as u8, |code| code as u8)
}

fn in_memory(program: &str) -> Result<OwnedFd, Error> {
    // SAFETY: a NUL-terminated name; the descriptor is new and nobody else's.
    let fd = unsafe { libc::memfd_create(c"x".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: as above.
    let mut file = unsafe { File::from_raw_fd(fd) };
    file.write_all(&std::fs::read(program)?)?;
    Ok(file.into())
}

fn below_a_directory(program: &[String]) -> Result<u8, Error> {
    let (directory, name) = program[0].rsplit_once('/').ok_or_else(|| Error::other("a path is needed"))?;
    let (directory, name) = (File::open(directory)?, CString::new(name)?);
    let words = words(program)?;
    let argv = pointers(&words);
    // SAFETY: as in `by_descriptor`.
    unsafe {
        let environment = null::<*const libc::c_char>();
        libc::syscall(libc::SYS_execveat, directory.as_raw_fd(), name.as_ptr(), argv.as_ptr(), environment, 0)
    };
    Err(Error::last_os_error())
}

/// Says its pid in a file, starts the program, and ends as soon as somebody makes the file `.arrived`.
fn outlived(words: &[String]) -> Result<u8, Error> {
    let [file, program @ ..] = words else { return Err(Error::other("a file is needed")) };
    std::fs::write(file, std::process::id().to_string())?;
    command(program).spawn()?;
    let arrived = format!("{file}.arrived");
    let seen = poll(SOON, || std::path::Path::new(&arrived).exists().then_some(0));
    seen.ok_or_else(|| Error::other("the message never arrived"))
}

/// Fills so many pipes with messages that nobody reads, makes the file, and ends with its input.
fn flood(words: &[String]) -> Result<u8, Error> {
    let [count, file] = words else { return Err(Error::other("a count and a file are needed")) };
    taking::flood(count.parse().map_err(Error::other)?)?;
    std::fs::write(file, "")?;
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(0)
}

fn words(program: &[String]) -> Result<Vec<CString>, Error> {
    program.iter().map(|word| CString::new(word.as_str()).map_err(Error::other)).collect()
}

fn pointers(words: &[CString]) -> Vec<*const libc::c_char> {
    words.iter().map(|word| word.as_ptr()).chain([null()]).collect()
}

fn by_descriptor(file: &OwnedFd, program: &[String]) -> Result<u8, Error> {
    let words = words(program)?;
    let argv = pointers(&words);
    // SAFETY: NUL-terminated strings and an array that ends with a null pointer.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            null::<*const libc::c_char>(),
            libc::AT_EMPTY_PATH,
        )
    };
    Err(Error::last_os_error())
}

/// Another thread rewrites the argument in memory over and over while the program is executed.
fn rewritten(program: &[String]) -> Result<u8, Error> {
    let mut words = words(program)?;
    let last = words.pop().ok_or_else(|| Error::other("an argument is needed"))?.into_raw();
    let shared = last as usize;
    std::thread::spawn(move || {
        loop {
            for byte in *b"sx" {
                // SAFETY: the string is leaked and longer than nothing; a race is the purpose.
                unsafe { std::ptr::write_volatile(shared as *mut u8, byte) };
            }
        }
    });
    let mut argv = pointers(&words);
    argv.insert(words.len(), last);
    // SAFETY: as in `by_descriptor`.
    unsafe { libc::execv(argv[0], argv.as_ptr()) };
    Err(Error::last_os_error())
}

fn in_a_thread(program: Vec<String>) -> Result<u8, Error> {
    std::thread::spawn(move || command(&program).exec()).join().map_or_else(|_| Ok(1), Err)
}

/// Starts the program in a child that `clone` makes with `flags`.
fn cloned(flags: i32, program: &[String]) -> Result<i32, Error> {
    let words = words(program)?;
    let argv = pointers(&words);
    // SAFETY: no stack and no shared memory: as fork. The child does nothing but exec or exit.
    unsafe {
        let pid = libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD, 0, 0, 0, 0);
        if pid == 0 {
            libc::execv(argv[0], argv.as_ptr());
            libc::_exit(126);
        }
        if pid < 0 { Err(Error::last_os_error()) } else { Ok(pid as i32) }
    }
}

fn waited(pid: i32) -> Result<u8, Error> {
    let mut status = 0;
    // SAFETY: a child of this process and a place for its status.
    if unsafe { libc::waitpid(pid, &raw mut status, 0) } < 0 {
        return Err(Error::last_os_error());
    }
    Ok(code(std::process::ExitStatus::from_raw(status)))
}

fn ptrace(request: libc::c_uint, pid: i32, address: usize, data: usize) -> Result<i64, Error> {
    // SAFETY: the requests that are made here take numbers, or pointers to memory of this process that lives on.
    let result = unsafe { libc::ptrace(request, pid, address, data) };
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result) }
}

/// The program runs under a tracer from its first instruction on.
fn traced(program: &[String]) -> Result<u8, Error> {
    let mut command = command(program);
    // SAFETY: only an async-signal-safe call between fork and exec.
    unsafe {
        command.pre_exec(|| ptrace(libc::PTRACE_TRACEME, 0, 0, 0).map(drop));
    }
    let pid = command.spawn()?.id() as i32;
    loop {
        let mut status = 0;
        // SAFETY: as in `waited`.
        if unsafe { libc::waitpid(pid, &raw mut status, 0) } < 0 {
            return Err(Error::last_os_error());
        }
        if !libc::WIFSTOPPED(status) {
            return Ok(code(std::process::ExitStatus::from_raw(status)));
        }
        let signal = libc::WSTOPSIG(status);
        let deliver = if signal == libc::SIGTRAP { 0 } else { signal as usize };
        if ptrace(libc::PTRACE_CONT, pid, 0, deliver).is_err() {
            continue; // it was killed meanwhile: the next wait says so
        }
    }
}

/// Attaches to the program while it starts and lets go again at once, as something that injects code does. What
/// came of that is in a trace.
fn attached(program: &[String]) -> Result<u8, Error> {
    let mut child = command(program).spawn()?;
    let pid = child.id() as i32;
    // The memory of the fork is this program's own; what counts is that of the new image.
    let image = |pid: i32| std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    while child.try_wait()?.is_none() && image(pid) == image(std::process::id() as i32) {}
    let attached = ptrace(libc::PTRACE_ATTACH, pid, 0, 0).and_then(|_| {
        let mut status = 0;
        // SAFETY: as in `waited`.
        unsafe { libc::waitpid(pid, &raw mut status, 0) };
        ptrace(libc::PTRACE_DETACH, pid, 0, 0)
    });
    // What was waited for may have been its exec; the stop that attaching asked for would then come now.
    // SAFETY: no pointers.
    unsafe { libc::kill(pid, libc::SIGCONT) };
    say("attach", attached.map(drop))?;
    Ok(code(child.wait()?))
}

/// Waits until the program has settled and then opens its memory.
fn written_into(program: &[String]) -> Result<u8, Error> {
    let mut child = command(program).spawn()?;
    let path = format!("/proc/{}/mem", child.id());
    // It has settled when its memory belongs to root: until then this process could open it.
    let settled = || {
        use std::os::unix::fs::MetadataExt as _;
        std::fs::metadata(format!("/proc/{}/status", child.id())).map_or(true, |meta| meta.uid() == 0)
    };
    while !settled() {}
    let opened = File::options().read(true).write(true).open(&path);
    say("open", opened.map(drop))?;
    Ok(code(child.wait()?))
}

/// Leaves a trace of how it went.
fn say(name: &str, outcome: Result<(), Error>) -> Result<(), Error> {
    std::fs::write(format!("/tmp/traces/{name}"), outcome.map_or_else(|e| e.to_string(), |()| "done".into()))
}

/// In user and mount namespaces of its own, where whoever made them can mount another library.
fn in_a_user_namespace(program: &[String]) -> Result<u8, Error> {
    // SAFETY: no pointers.
    if unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) } < 0 {
        return Err(Error::last_os_error());
    }
    Err(command(program).exec())
}
