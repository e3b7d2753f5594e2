//! As much of Docker's API as a program needs that starts a container without Docker's client.
//!
//! HTTP/1.0 on purpose: an answer then ends with its connection.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::Value;

pub const SOCKET: &str = "/run/docker.sock";

/// Longer than a container needs to start or end, without KVM.
const PATIENCE: Duration = Duration::from_secs(90);

/// Sends a request and returns the body of the answer, JSON or nothing.
pub fn request(method: &str, path: &str, body: &Value) -> Result<Value, String> {
    let mut answer = open(method, path, "Connection: close\r\n", body)?;
    let mut text = String::new();
    answer.read_to_string(&mut text).map_err(|e| format!("{method} {path} broke off: {e}"))?;
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(&text).map_err(|e| format!("{method} {path} answered no JSON ({e}): {text}"))
}

/// Whether the engine answers.
pub fn is_up() -> bool {
    open("GET", "/_ping", "", &Value::Null).is_ok()
}

/// A request whose connection becomes the stdin, stdout and stderr of a container or of an exec in one.
pub fn hijack(path: &str, body: &Value) -> Result<UnixStream, String> {
    let answer = open("POST", path, "Connection: Upgrade\r\nUpgrade: tcp\r\n", body)?;
    match answer.buffer() {
        [] => Ok(answer.into_inner()),
        early => Err(format!("before it was sent anything, it said {:?}", String::from_utf8_lossy(early))),
    }
}

/// Sends a request and reads the head of its answer, which must not be an error.
fn open(method: &str, path: &str, headers: &str, body: &Value) -> Result<BufReader<UnixStream>, String> {
    let failed = |e: std::io::Error| format!("{method} {path} on {SOCKET}: {e}");
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let mut socket = UnixStream::connect(SOCKET).map_err(failed)?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: docker\r\n{headers}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all(head.as_bytes()).and_then(|()| socket.write_all(body.as_bytes())).map_err(failed)?;
    let mut answer = BufReader::new(socket);
    let mut status = String::new();
    answer.read_line(&mut status).map_err(failed)?;
    let mut line = String::from("head");
    while !line.trim().is_empty() {
        line.clear();
        answer.read_line(&mut line).map_err(failed)?;
    }
    let code: u16 = status.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    if (101..300).contains(&code) {
        return Ok(answer);
    }
    let mut why = String::new();
    let _ = answer.read_to_string(&mut why); // the status says enough
    Err(format!("{method} {path} answered {} {}", status.trim(), why.trim()))
}
