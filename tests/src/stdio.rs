//! The shapes that a client can give its server's standard input, and the ways in which it can write to it.
#![expect(unsafe_code, reason = "socket types and terminals have no safe wrapper here")]

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::ptr::null_mut;

/// The server, what its input is written to, and what its output is read from.
pub type Started = (Child, Box<dyn Write>, Box<dyn Read + Send>);

/// Starts the command with an input of the shape `io`.
pub fn spawn(mut command: Command, io: &str) -> io::Result<Started> {
    let (input, theirs): (Box<dyn Write>, OwnedFd) = match io {
        "socketpair" => {
            let (input, theirs) = UnixStream::pair()?;
            let (output, their_output) = UnixStream::pair()?;
            command.stdin(OwnedFd::from(theirs)).stdout(OwnedFd::from(their_output));
            let child = command.spawn()?;
            drop(command); // it holds our copies of the child's ends
            return Ok((child, Box::new(input), Box::new(output)));
        }
        "terminal" => {
            let (master, slave) = terminal()?;
            (Box::new(Master(master)), slave)
        }
        "packets" => packets(libc::SOCK_SEQPACKET)?,
        "datagrams" => packets(libc::SOCK_DGRAM)?,
        "fifo" => fifo()?,
        "kept-fifo" => fifo_at(&std::env::temp_dir().join("fifo-kept"))?,
        "named" => {
            let path = format!("/tmp/stdio-{}", std::process::id());
            let listener = UnixListener::bind(&path)?;
            let ends = (UnixStream::connect(&path)?, listener.accept()?.0);
            std::fs::remove_file(path)?;
            (Box::new(ends.0), ends.1.into())
        }
        "abstract" => {
            let address = SocketAddr::from_abstract_name(format!("stdio-{}", std::process::id()))?;
            let listener = UnixListener::bind_addr(&address)?;
            let input = UnixStream::connect_addr(&address)?;
            (Box::new(input), listener.accept()?.0.into())
        }
        _ => {
            let (theirs, input) = io::pipe()?;
            (Box::new(input), theirs.into())
        }
    };
    let (output, their_output) = io::pipe()?;
    command.stdin(theirs).stdout(Stdio::from(their_output));
    let child = command.spawn()?;
    drop(command);
    Ok((child, input, Box::new(output)))
}

fn packets(kind: i32) -> io::Result<(Box<dyn Write>, OwnedFd)> {
    let mut ends = [-1; 2];
    // SAFETY: room for two descriptors.
    if unsafe { libc::socketpair(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0, ends.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: new descriptors that nobody else owns.
    let (ours, theirs) = unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
    // A datagram socket says nothing at its end: an empty packet does.
    Ok((if kind == libc::SOCK_DGRAM { Box::new(Packets(ours.into())) } else { Box::new(File::from(ours)) }, theirs))
}

fn fifo() -> io::Result<(Box<dyn Write>, OwnedFd)> {
    let path = std::env::temp_dir().join(format!("fifo-{}", std::process::id()));
    let ends = fifo_at(&path)?;
    std::fs::remove_file(path)?;
    Ok(ends)
}

fn fifo_at(path: &Path) -> io::Result<(Box<dyn Write>, OwnedFd)> {
    if !path.exists() && !Command::new("mkfifo").arg(path).status()?.success() {
        return Err(io::Error::other("cannot make a FIFO"));
    }
    // Open for both, so that neither side waits for the other.
    let both = OpenOptions::new().read(true).write(true).open(path)?;
    let (ours, theirs) = (OpenOptions::new().write(true).open(path)?, File::open(path)?);
    drop(both);
    Ok((Box::new(ours), theirs.into()))
}

/// Without echo, and with lines: what is written comes as it was written.
fn terminal() -> io::Result<(File, OwnedFd)> {
    let (mut master, mut slave) = (-1, -1);
    // SAFETY: room for two descriptors; nothing else is given or asked for.
    if unsafe { libc::openpty(&raw mut master, &raw mut slave, null_mut(), null_mut(), null_mut()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a terminal, its settings, and new descriptors that nobody else owns.
    unsafe {
        let mut settings: libc::termios = std::mem::zeroed();
        libc::tcgetattr(slave, &raw mut settings);
        settings.c_lflag &= !libc::ECHO;
        libc::tcsetattr(slave, libc::TCSANOW, &raw const settings);
        Ok((File::from_raw_fd(master), OwnedFd::from_raw_fd(slave)))
    }
}

/// Says at its end that nothing more comes.
struct Master(File);

impl Drop for Master {
    fn drop(&mut self) {
        let _ = self.0.write_all(b"\x04"); // the server may be gone
    }
}

struct Packets(File);

impl Drop for Packets {
    fn drop(&mut self) {
        let _ = self.0.write(b""); // as above
    }
}

macro_rules! write_through {
    ($($name:ident),*) => {
        $(impl Write for $name {
            fn write(&mut self, data: &[u8]) -> io::Result<usize> {
                self.0.write(data)
            }
            fn flush(&mut self) -> io::Result<()> {
                self.0.flush()
            }
        })*
    };
}
write_through!(Master, Packets);

/// Writes the message in one piece, or as `by` says.
pub fn write(to: &mut dyn Write, message: &[u8], by: &str) -> io::Result<()> {
    match by {
        "bytes" => message.chunks(1).try_for_each(|byte| to.write_all(byte)),
        "halves" => message.chunks(message.len() / 2 + 1).try_for_each(|half| to.write_all(half)),
        "vectors" => {
            let pieces: Vec<IoSlice<'_>> = message.chunks(1).take(1000).map(IoSlice::new).collect();
            let count = to.write_vectored(&pieces)?;
            to.write_all(&message[count..])
        }
        _ => to.write_all(message),
    }
}
