//! `kernel-guest tamper PID BPF_DIR STATE_DIR RUN_DIR`: tries what a process can do against the daemon and its kernel
//! objects, and prints the names of what it was *allowed*, one a line. Nothing that it tries leaves a mark by itself.
#![expect(unsafe_code, reason = "ptrace, bpf(2) and prlimit have no safe wrapper here")]

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::os::unix::net::UnixStream;
use std::path::Path;

const BPF_OBJ_GET: libc::c_long = 7;
const BPF_PROG_GET_NEXT_ID: libc::c_long = 11;
const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
const BPF_MAP_GET_FD_BY_ID: libc::c_long = 14;
const BPF_LINK_GET_FD_BY_ID: libc::c_long = 30;

pub fn run(arguments: &[String]) {
    let [pid, bpf_dir, state_dir, run_dir] = arguments else {
        return eprintln!("usage: kernel-guest tamper PID BPF_DIR STATE_DIR RUN_DIR");
    };
    let pid: i32 = pid.parse().unwrap_or(0);
    for (name, allowed) in attempts(pid, bpf_dir, state_dir, run_dir) {
        if allowed {
            println!("{name}");
        }
    }
}

fn attempts(pid: i32, bpf_dir: &str, state_dir: &str, run_dir: &str) -> Vec<(&'static str, bool)> {
    let link = format!("{bpf_dir}/link_exec");
    let labels = format!("{bpf_dir}/LABELS");
    let first_program = next_id(BPF_PROG_GET_NEXT_ID, 0).unwrap_or(1);
    vec![
        ("look for it", signal(pid, 0)),
        ("a signal", signal(pid, libc::SIGURG)),
        ("ptrace", traced(pid)),
        ("memory", File::open(format!("/proc/{pid}/mem")).is_ok()),
        ("environment", fs::read(format!("/proc/{pid}/environ")).is_ok()),
        ("oom score", OpenOptions::new().write(true).open(format!("/proc/{pid}/oom_score_adj")).is_ok()),
        ("limits", limited(pid)),
        ("open a pinned link", object(&link)),
        ("open a pinned map", object(&labels)),
        ("list what is pinned", fs::read_dir(bpf_dir).is_ok()),
        ("rename a pinned link", renamed(&link)),
        ("list programs", next_id(BPF_PROG_GET_NEXT_ID, 0).is_some()),
        (
            "open a program by its number",
            (first_program..first_program + 64).any(|id| by_id(BPF_PROG_GET_FD_BY_ID, id)),
        ),
        ("open a map by its number", (1..256).any(|id| by_id(BPF_MAP_GET_FD_BY_ID, id))),
        ("open a link by its number", (1..64).any(|id| by_id(BPF_LINK_GET_FD_BY_ID, id))),
        ("read the state", fs::read_dir(state_dir).is_ok()),
        ("write the state", OpenOptions::new().append(true).open(format!("{state_dir}/state.redb")).is_ok()),
        ("the operators' socket", answered(&format!("{run_dir}/admin.sock"))),
        ("write where the sockets are", File::create_new(format!("{run_dir}/.tamper")).is_ok()),
    ]
}

fn signal(pid: i32, signal: i32) -> bool {
    // SAFETY: no pointers.
    unsafe { libc::kill(pid, signal) == 0 }
}

fn traced(pid: i32) -> bool {
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: PTRACE_SEIZE takes no pointers. The tracer ends at once, which lets go of whom it traces.
    unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, none, none) == 0 }
}

fn limited(pid: i32) -> bool {
    // SAFETY: all zero is a valid value; the struct outlives the call, which only reads the limit.
    unsafe {
        let mut limit: libc::rlimit64 = std::mem::zeroed();
        libc::prlimit64(pid, libc::RLIMIT_NOFILE, std::ptr::null(), &raw mut limit) == 0
    }
}

/// The first three fields of `union bpf_attr` that the commands above read.
#[repr(C)]
struct Attr([u64; 3]);

fn bpf(command: libc::c_long, attr: &mut Attr) -> libc::c_long {
    // SAFETY: the attribute outlives the call; a path in it is NUL-terminated and outlives it too. What is opened
    // closes when this process ends.
    unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<Attr>()) }
}

fn object(path: &str) -> bool {
    let Ok(path) = CString::new(path) else { return false };
    bpf(BPF_OBJ_GET, &mut Attr([path.as_ptr() as u64, 0, 0])) >= 0
}

fn by_id(command: libc::c_long, id: u32) -> bool {
    bpf(command, &mut Attr([u64::from(id), 0, 0])) >= 0
}

fn next_id(command: libc::c_long, after: u32) -> Option<u32> {
    let mut attr = Attr([u64::from(after), 0, 0]);
    (bpf(command, &mut attr) == 0).then_some((attr.0[0] >> 32) as u32)
}

fn renamed(link: &str) -> bool {
    let away = format!("{link}_away");
    let done = Path::new(link).exists() && fs::rename(link, &away).is_ok();
    done && fs::rename(away, link).is_ok()
}

fn answered(socket: &str) -> bool {
    use std::io::{Read as _, Write as _};
    let Ok(mut stream) = UnixStream::connect(socket) else { return false };
    let request = "GET /v1/status HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let mut answer = String::new();
    let spoke = stream.write_all(request.as_bytes()).is_ok() && stream.read_to_string(&mut answer).is_ok();
    spoke && answer.starts_with("HTTP/1.1 200")
}
