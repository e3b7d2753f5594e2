//! Fires each hook on purpose and looks whether its counter moved. An attach that succeeds proves
//! nothing: LSM programs attach and never run where `bpf` is not in the LSM list.

use std::io::{self, Read as _, Write as _};
use std::net::UdpSocket;
use std::os::fd::AsFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};

use lazaret_common::hook::Hook;

use super::load::Loaded;
use super::{maps, sys};

/// Marks what fired as proven; detaches what did not and says why.
pub(super) fn prove(loaded: &mut Loaded) {
    let mut hooks = std::mem::take(&mut loaded.hooks);
    for attached in hooks.iter_mut().filter(|attached| attached.link.is_some() && !attached.proven) {
        let before = maps::fired(&loaded.ebpf, attached.spec.hook);
        let result = fire(attached.spec.hook);
        attached.proven = maps::fired(&loaded.ebpf, attached.spec.hook) > before;
        if attached.proven {
            continue;
        }
        attached.link = None;
        attached.reason = Some(match (result, attached.spec.kind) {
            (Err(e), _) => format!("it could not be fired to prove it: {e}"),
            (Ok(()), "lsm") => format!("it was attached and never fired: {}", lsm_list()),
            (Ok(()), _) => "it was attached and never fired".into(),
        });
    }
    loaded.hooks = hooks;
}

fn lsm_list() -> String {
    match std::fs::read_to_string("/sys/kernel/security/lsm") {
        Ok(list) if list.split(',').any(|name| name.trim() == "bpf") => {
            "`bpf` is in /sys/kernel/security/lsm all the same".into()
        }
        Ok(list) => format!(
            "`bpf` is not in /sys/kernel/security/lsm ({}); add it to lsm= on the kernel's command line",
            list.trim()
        ),
        Err(e) => format!("/sys/kernel/security/lsm cannot be read ({e})"),
    }
}

fn fire(hook: Hook) -> io::Result<()> {
    match hook {
        Hook::Exec | Hook::Fork | Hook::TaskAlloc | Hook::PrepareExec | Hook::PrepareExecFentry | Hook::DoorEnd => {
            run_something()
        }
        // Who may read that of another process is asked the same question as who wants to write into it.
        Hook::Ptrace => std::fs::read_link(format!("/proc/{}/exe", std::os::unix::process::parent_id())).map(drop),
        Hook::PipeWrite | Hook::PipeRead => {
            let (mut reader, mut writer) = io::pipe()?;
            writer.write_all(b"x")?;
            reader.read_exact(&mut [0])
        }
        Hook::FifoWrite | Hook::FifoRead => through_a_fifo(),
        Hook::PipeBegin => io::pipe().map(drop),
        Hook::SocketEnd => UnixStream::pair().map(drop),
        Hook::UnixSend | Hook::UnixRecv | Hook::SocketSend => {
            let (mut one, mut other) = UnixStream::pair()?;
            one.write_all(b"x")?;
            other.read_exact(&mut [0])
        }
        Hook::PacketSend | Hook::PacketRecv => {
            let (one, other) = UnixDatagram::pair()?;
            one.send(b"x")?;
            other.recv(&mut [0]).map(drop)
        }
        Hook::Splices | Hook::Spliced | Hook::Tees | Hook::Teed | Hook::FromPipe => {
            let (from, mut writer) = io::pipe()?;
            writer.write_all(b"xx")?;
            let (mut reader, to) = io::pipe()?;
            sys::tee(from.as_fd(), to.as_fd(), 1)?;
            sys::splice(from.as_fd(), to.as_fd(), 1)?;
            sys::copy_out(from.as_fd(), &mut [0])?;
            reader.read_exact(&mut [0; 2])
        }
        Hook::UnixSendPage => {
            let (one, mut other) = UnixStream::pair()?;
            let file = std::fs::File::open("/proc/self/exe")?;
            sys::send_file(file.as_fd(), one.as_fd(), 1)?;
            other.read_exact(&mut [0])
        }
        Hook::FileToPipe => {
            let (mut reader, to) = io::pipe()?;
            let file = std::fs::File::open("/proc/self/exe")?;
            sys::splice(file.as_fd(), to.as_fd(), 1)?;
            reader.read_exact(&mut [0])
        }
        Hook::TerminalWrite | Hook::TerminalRead | Hook::TerminalEnd => {
            let (mut master, mut slave) = sys::open_terminal()?;
            master.write_all(b"x\n")?;
            slave.read_exact(&mut [0; 2])
        }
        Hook::Connect | Hook::ConnectFentry | Hook::ConnectUnix => {
            // The hook runs before the path is looked up.
            // A connect that fails is as good as one that works.
            let _ = UnixStream::connect("/nonexistent/lazaret-probe");
            Ok(())
        }
        Hook::UnixConnect | Hook::UnixConnectFentry => {
            let name = format!("lazaret-probe-{}", std::process::id());
            let address = SocketAddr::from_abstract_name(name)?;
            let listener = UnixListener::bind_addr(&address)?;
            UnixStream::connect_addr(&address).and(listener.accept()).map(|_| ())
        }
        Hook::Resumed | Hook::SignalGenerate | Hook::SignalDeliver => sys::take_a_signal(),
        Hook::Judge => Ok(()),
        Hook::Candidate => run_something(),
        Hook::SysEnter | Hook::SysExit => {
            let (mut reader, mut writer) = io::pipe()?;
            writer.write_all(b"x")?;
            reader.read_exact(&mut [0])
        }
        Hook::SocketSent | Hook::SocketReceived => {
            let (mut one, mut other) = UnixStream::pair()?;
            one.write_all(b"x")?;
            other.read_exact(&mut [0])
        }
        Hook::RingComplete => sys::ring_nothing(),
        Hook::Connect4 => UdpSocket::bind("0.0.0.0:0")?.connect("127.0.0.1:9"),
        Hook::Connect6 => UdpSocket::bind("[::]:0")?.connect("[::1]:9"),
    }
}

fn run_something() -> io::Result<()> {
    const HARMLESS: &[&str] = &["/bin/true", "/usr/bin/true", "/bin/busybox", "/bin/sh"];
    let program = HARMLESS
        .iter()
        .find(|path| Path::new(path).exists())
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("none of {HARMLESS:?} is here to be run")))?;
    let mut command = Command::new(program);
    if program.ends_with("busybox") {
        command.arg("true");
    }
    if program.ends_with("sh") {
        command.args(["-c", ":"]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().map(|_| ())
}

fn through_a_fifo() -> io::Result<()> {
    let path = std::env::temp_dir().join(format!("lazaret-probe-{}", std::process::id()));
    sys::make_fifo(&path)?;
    // Open for both, so that neither side waits for the other.
    let result = std::fs::OpenOptions::new().read(true).write(true).open(&path).and_then(|mut fifo| {
        fifo.write_all(b"x")?;
        fifo.read_exact(&mut [0])
    });
    std::fs::remove_file(&path)?;
    result
}
