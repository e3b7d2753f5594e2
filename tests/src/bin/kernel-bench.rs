//! Does one thing many times and says what it took: the measured side of `guest/cost.rs`.
//!
//! `kernel-bench operations` prints one line `NAME NANOSECONDS` per operation, the median of some rounds.
//! `kernel-bench storm COUNT PROGRAM -- SERVER [ARGUMENT...]` executes PROGRAM so often, and now and then the server,
//! and prints one JSON object with what became of them.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command};
use std::time::Instant;

type Done = std::io::Result<()>;

const TINY: &str = "/opt/bin/tiny";
const ROUNDS: usize = 5;
/// So many rounds in a row must take the same before anything is measured, and so many are tried.
const QUIET: usize = 50;
const RESTLESS: usize = 5000;
/// A storm's processes at a time.
const AT_ONCE: usize = 8;
/// In a storm, one exec of so many is a server's.
const ONE_SERVER_IN: u32 = 20;

fn main() -> Done {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["operations"] => operations(),
        ["storm", count, program, "--", server @ ..] if !server.is_empty() => {
            storm(count.parse().map_err(std::io::Error::other)?, program, server)
        }
        _ => Err(std::io::Error::other("usage: kernel-bench operations | storm COUNT PROGRAM -- SERVER [ARGUMENT...]")),
    }
}

/// Waits until nobody else wants the processor: a kernel that has just booted, or a daemon that has just started, goes
/// on working for a while.
fn settle() -> Done {
    let (mut least, mut quiet) = (u128::MAX, 0);
    for _ in 0..RESTLESS {
        let start = Instant::now();
        for _ in 0..10_000 {
            std::hint::black_box(std::os::unix::process::parent_id());
        }
        let took = start.elapsed().as_nanos();
        quiet = if took <= least.saturating_add(least / 50) { quiet + 1 } else { 0 };
        least = least.min(took);
        if quiet == QUIET {
            return Ok(());
        }
    }
    Err(std::io::Error::other("the machine does not come to rest"))
}

fn operations() -> Done {
    settle()?;
    measure("exec", 200, || Command::new(TINY).status().map(drop))?;
    measure("getppid", 20_000, || {
        std::hint::black_box(std::os::unix::process::parent_id());
        Ok(())
    })?;
    let mut page = vec![0; 4096];
    let mut zero = File::options().read(true).write(true).open("/dev/zero")?;
    measure("zero-read", 5000, || zero.read_exact(&mut page))?;
    measure("zero-write", 5000, || zero.write_all(&[0; 4096]))?;
    let file = File::options().read(true).write(true).create(true).truncate(true).open("/tmp/bench")?;
    measure("file-write", 5000, || file.write_all_at(&page, 0))?;
    measure("file-read", 5000, || file.read_exact_at(&mut page, 0))?;
    for (name, message) in messages() {
        let count = if message.len() > 8192 { 200 } else { 1000 };
        let (mut from, mut to) = std::io::pipe()?;
        channel(&format!("pipe-{name}"), count, &message, &mut from, &mut to)?;
        let (mut from, mut to) = UnixStream::pair()?;
        channel(&format!("socket-{name}"), count, &message, &mut from, &mut to)?;
    }
    let listener = UnixListener::bind("/tmp/bench.sock")?;
    measure("unix-connect", 1000, || {
        let one = UnixStream::connect("/tmp/bench.sock")?;
        listener.accept().map(|other| drop((one, other)))
    })?;
    std::fs::remove_file("/tmp/bench.sock")
}

fn channel(name: &str, count: u32, message: &[u8], from: &mut impl Read, to: &mut impl Write) -> Done {
    let mut buffer = vec![0; message.len()];
    measure(name, count, || {
        to.write_all(message)?;
        from.read_exact(&mut buffer)
    })
}

fn measure(name: &str, count: u32, mut operation: impl FnMut() -> Done) -> Done {
    operation()?; // what is only done once
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..count {
            operation()?;
        }
        rounds.push(start.elapsed().as_nanos() as f64 / f64::from(count));
    }
    rounds.sort_by(f64::total_cmp);
    println!("{name} {:.1}", rounds[ROUNDS / 2]);
    Ok(())
}

/// What goes through a channel: nothing in it is a server's, so that all of it may be read.
fn messages() -> Vec<(&'static str, Vec<u8>)> {
    let fill = |size: usize, head: &str, unit: &str, tail: &str| {
        let room = size - head.len() - tail.len() - 1;
        let body: String = unit.chars().cycle().take(room).collect();
        format!("{head}{body}{tail}\n").into_bytes()
    };
    let mut state = 1_u32;
    let mut byte = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let item = "{'key':'value','list':[1,2,3],'text':'one two three'},".replace('\'', "\"");
    let whole = |size: usize, head: &str| {
        let count = (size - head.len() - 8) / item.len();
        let text = format!("{head}[{}0", item.repeat(count));
        let pad = size - text.len() - 3;
        format!("{text}{}]}}\n", " ".repeat(pad)).into_bytes()
    };
    vec![
        ("text-4k", fill(4096, "", "the quick brown fox jumps over the lazy dog\n", "")),
        ("binary-4k", std::iter::repeat_with(&mut byte).take(4096).collect()),
        ("json-4k", whole(4096, r#"{"items":"#)),
        ("json-64k", whole(65_536, r#"{"items":"#)),
        // A write that ends in the middle of a document: it may go on as a message.
        ("json-part-64k", fill(65_536, "{\"items\":[", &item, "")),
        // Looks like a session's message until it has been read to its end.
        ("json-rpc-4k", whole(4096, r#"{"jsonrpc":"2.0","id":7,"method":"session/update","params":"#)),
        ("acp-initialize", ACP.as_bytes().to_vec()),
    ]
}

const ACP: &str = "{\"jsonrpc\":\"2.0\",\"id\":0,\"method\":\"initialize\",\"params\":{\"protocolVersion\":1,\"clientCapabilities\":{}}}\n";

#[derive(Default)]
struct Fate {
    servers: u32,
    servers_that_ran: u32,
    programs: u32,
    programs_that_were_stopped: u32,
}

impl Fate {
    fn count(&mut self, server: bool, stopped: bool) {
        if server {
            self.servers += 1;
            self.servers_that_ran += u32::from(!stopped);
        } else {
            self.programs += 1;
            self.programs_that_were_stopped += u32::from(stopped);
        }
    }
}

fn storm(count: u32, program: &str, server: &[&str]) -> Done {
    let mut fate = Fate::default();
    let mut running: Vec<(Child, bool)> = Vec::new();
    let start = Instant::now();
    for i in 0..count {
        let is_server = i % ONE_SERVER_IN == ONE_SERVER_IN / 2;
        let mut command = if is_server { Command::new(server[0]) } else { Command::new(program) };
        if is_server {
            command.args(&server[1..]);
        }
        match command.spawn() {
            Ok(child) => running.push((child, is_server)),
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => fate.count(is_server, true),
            Err(e) => return Err(e),
        }
        while running.len() >= AT_ONCE || i + 1 == count && !running.is_empty() {
            let (mut child, was_server) = running.remove(0);
            fate.count(was_server, child.wait()?.signal() == Some(9));
        }
        if (i + 1) % 5000 == 0 {
            eprintln!("{} of {count} execs", i + 1);
        }
    }
    let Fate { servers, servers_that_ran, programs, programs_that_were_stopped } = fate;
    println!(
        "{{\"execs\":{count},\"servers\":{servers},\"servers_that_ran\":{servers_that_ran},\"programs\":{programs},\
         \"programs_that_were_stopped\":{programs_that_were_stopped},\"nanoseconds\":{}}}",
        start.elapsed().as_nanos()
    );
    Ok(())
}
