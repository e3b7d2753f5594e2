//! Reaches for things as a job says, and writes down how that went.
//!
//! `connector --job FILE`: each line of it is `WAY TARGET OUTCOME-FILE`. The command line stays the same whatever the
//! job is, so that a client config can name it. Ways: `unix`, `relative`, `uring` and `sqpoll` to a UNIX socket;
//! `tcp`, `udp` and `fastopen` to an address; `http:MESSAGE`, `split:MESSAGE` and `bytes:MESSAGE` send a message of
//! `messages.rs` to an HTTP server, whole, headers and body apart, or byte by byte; `late:MESSAGE` makes the file
//! `LATE_CONNECTED` when it has a connection, and sends when there is a file `LATE_GO`.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use lazaret_tests::guest::connect_requests::{LATE_CONNECTED, LATE_GO, request};
use lazaret_tests::{poll, uring};

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [flag, job] = arguments.as_slice() else { return Err(io::Error::other("usage: connector --job FILE")) };
    if flag != "--job" {
        return Err(io::Error::other("usage: connector --job FILE"));
    }
    for line in std::fs::read_to_string(job)?.lines() {
        let [way, target, outcome] = line.split(' ').collect::<Vec<_>>()[..] else {
            return Err(io::Error::other(format!("{line:?} is no job")));
        };
        let went = reach(way, target).map_or_else(|e| e.to_string(), |()| "connected".into());
        std::fs::write(outcome, went)?;
    }
    Ok(())
}

fn reach(way: &str, target: &str) -> io::Result<()> {
    let address = || target.parse::<SocketAddr>().map_err(io::Error::other);
    match way.split_once(':') {
        Some((way, message)) => http(way, message, address()?),
        None => match way {
            "unix" => UnixStream::connect(target).map(drop),
            "relative" => {
                let path = Path::new(target);
                std::env::set_current_dir(path.parent().unwrap_or(Path::new("/")))?;
                UnixStream::connect(path.file_name().unwrap_or_default()).map(drop)
            }
            "uring" | "sqpoll" => uring::connect(Path::new(target), way == "sqpoll").map(drop),
            "tcp" => TcpStream::connect_timeout(&address()?, Duration::from_secs(5)).map(drop),
            "udp" => UdpSocket::bind("0.0.0.0:0")?.send_to(b"x", address()?).map(drop),
            "fastopen" => uring::fast_open(address()?, b"x").map(drop),
            _ => Err(io::Error::other(format!("there is no way {way:?}"))),
        },
    }
}

fn http(way: &str, message: &str, address: SocketAddr) -> io::Result<()> {
    let (head, body) = request(message).ok_or_else(|| io::Error::other(format!("there is no request {message:?}")))?;
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_nodelay(true)?;
    if way == "late" {
        std::fs::write(LATE_CONNECTED, "")?;
        poll(Duration::from_secs(900), || Path::new(LATE_GO).exists().then_some(()))
            .ok_or_else(|| io::Error::other("nobody said go"))?;
    }
    match way {
        "split" => {
            stream.write_all(head.as_bytes())?;
            stream.write_all(&body)?;
        }
        "bytes" => {
            for byte in head.bytes().chain(body) {
                stream.write_all(&[byte])?;
            }
        }
        _ => stream.write_all(&[head.as_bytes(), &body].concat())?,
    }
    let mut answer = String::new();
    let mut buffer = [0; 4096];
    // A server may keep the connection.
    while !answer.contains("\r\n\r\n") {
        match stream.read(&mut buffer)? {
            0 => break,
            count => answer.push_str(&String::from_utf8_lossy(&buffer[..count])),
        }
    }
    if answer.starts_with("HTTP/1.1 200") {
        Ok(())
    } else {
        Err(io::Error::other(format!("the answer was {answer:?}")))
    }
}
