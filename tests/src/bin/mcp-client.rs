//! Starts a server the way MCP clients do, sends it one opening message and reports what happened as JSON.
//!
//! `mcp-client [--io SHAPE] [--send MESSAGE] [--by WAY] [--timeout-ms N] -- COMMAND [ARGUMENT...]`
//!
//! Python gives its servers pipes, Node gives them UNIX socket pairs; these and other shapes, and ways of writing, are
//! in `stdio.rs`. MESSAGE is a name in `messages.rs`, or `none`.
//! It waits for the first bytes of an answer, closes the server's input and waits for its end; a server that has
//! neither answered nor ended in time is killed. The report:
//! `{"spawned", "error", "pid", "answer", "exit_code", "signal", "timed_out", "millis"}`.

use std::io::Read;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitCode, ExitStatus};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use lazaret_tests::{messages::message, poll, stdio};
use serde_json::{Value, json};

/// How long a server may take to end once its input is closed.
const GRACE: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match parse(&arguments) {
        Ok(request) => {
            println!("{}", run(&request));
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("mcp-client: {why}");
            ExitCode::from(2)
        }
    }
}

struct Request<'a> {
    io: &'a str,
    by: &'a str,
    message: Vec<u8>,
    timeout: Duration,
    command: &'a [String],
}

fn parse(arguments: &[String]) -> Result<Request<'_>, String> {
    let split = arguments.iter().position(|argument| argument == "--").ok_or("a `--` must stand before the command")?;
    let mut request = Request {
        io: "pipe",
        by: "whole",
        message: Vec::new(),
        timeout: Duration::from_secs(60),
        command: &arguments[split + 1..],
    };
    for pair in arguments[..split].chunks(2) {
        match pair {
            [name, value] if name == "--io" => request.io = value,
            [name, value] if name == "--by" => request.by = value,
            [name, value] if name == "--send" && value == "none" => {}
            [name, value] if name == "--send" => {
                request.message = message(value).ok_or(format!("there is no message {value:?}"))?;
            }
            [name, value] if name == "--timeout-ms" => {
                request.timeout = Duration::from_millis(value.parse().map_err(|_| format!("{value:?} is no number"))?);
            }
            other => return Err(format!("cannot use {other:?}")),
        }
    }
    if request.command.is_empty() { Err("a command must follow `--`".into()) } else { Ok(request) }
}

fn spawn(request: &Request<'_>) -> std::io::Result<stdio::Started> {
    let mut command = Command::new(&request.command[0]);
    command.args(&request.command[1..]);
    stdio::spawn(command, request.io)
}

fn run(request: &Request<'_>) -> Value {
    let start = Instant::now();
    let (mut child, mut input, output) = match spawn(request) {
        Ok(started) => started,
        Err(e) => return json!({"spawned": false, "error": e.to_string(), "answer": null, "signal": null}),
    };
    // A server that was killed takes nothing more; what became of it is in its exit status.
    let _ = stdio::write(&mut *input, &request.message, request.by);
    let input = (!request.message.is_empty()).then_some(input); // who sends nothing closes at once
    let answer = first_words(output, request.timeout);
    drop(input);
    let left = if answer.is_some() { GRACE } else { request.timeout.saturating_sub(start.elapsed()).max(GRACE) };
    let ended = poll(left, || child.try_wait().ok().flatten());
    if ended.is_none() {
        let _ = child.kill(); // it may have ended just now
    }
    let status: Option<ExitStatus> = ended.or_else(|| child.wait().ok());
    json!({
        "spawned": true,
        "error": null,
        "pid": child.id(),
        "answer": answer,
        "exit_code": status.and_then(|status| status.code()),
        "signal": status.and_then(|status| status.signal()),
        "timed_out": ended.is_none(),
        "millis": start.elapsed().as_millis() as u64,
    })
}

/// What the server says first, or `None` when it ended or stayed silent until the deadline. The rest is read and
/// dropped, so that it can finish what it says.
fn first_words(mut output: Box<dyn Read + Send>, timeout: Duration) -> Option<String> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        let count = output.read(&mut buffer).unwrap_or(0);
        let _ = send.send(String::from_utf8_lossy(&buffer[..count]).into_owned()); // nobody waits after the deadline
        std::io::copy(&mut output, &mut std::io::sink())
    });
    receive.recv_timeout(timeout).ok().filter(|text| !text.is_empty())
}
