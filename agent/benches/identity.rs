//! What it costs to know who calls: `cargo xtask bench`. Not a test: a slow machine is no failure.

use std::hint::black_box;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use lazaret::identity::AgentKey;
use lazaret::identity::measure::{Digests, Sample};
use lazaret::identity::signed::{LineSigner, LineVerifier};

const EXECUTABLE: usize = 100 << 20;
const ROUNDS: usize = 200;
const FIRST_ROUNDS: usize = 9;
/// A call as Claude Code writes it, about.
const LINE: usize = 460;

fn main() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut client = client(dir.path());
    let uid = std::fs::metadata("/proc/self").expect("/proc is mounted").uid();

    let first = Figures::of((0..FIRST_ROUNDS).map(|_| {
        let digests = Digests::default();
        timed(|| Sample::take(client.id(), uid, &digests))
    }));
    let digests = Digests::default();
    let sample = Sample::take(client.id(), uid, &digests);
    let again = Figures::of((0..ROUNDS).map(|_| timed(|| Sample::take(client.id(), uid, &digests))));
    let unchanged = Figures::of((0..ROUNDS).map(|_| timed(|| assert!(sample.still_holds()))));
    println!("measuring a client of 100 MiB, first time     {first}  (budget 100 ms)");
    println!("the same, its files read before               {again}  (budget 1 ms)");
    println!(
        "asking whether any of its files has changed   {unchanged}  (budget 1 ms, {} parts)",
        sample.parts().len()
    );
    client.kill().and_then(|()| client.wait()).expect("a child can be killed");

    let key = AgentKey::generate().expect("the kernel gives randomness");
    let mut verifier = LineVerifier::new("session".into(), key.public());
    let mut signer = LineSigner::new("session".into(), key);
    let line = vec![b'x'; LINE];
    let mut framed = Vec::new();
    let signing = Figures::of((0..ROUNDS).map(|_| {
        timed(|| {
            let mut bytes = signer.frame(&line);
            bytes.pop();
            framed.push(Bytes::from(bytes));
        })
    }));
    let verifying =
        Figures::of(framed.iter().map(|framed| timed(|| verifier.open(framed).expect("it was signed just now"))));
    println!("signing a line of {LINE} bytes                  {signing}");
    println!("verifying it                                  {verifying}");
}

/// A process of an executable of 100 MiB under the name of Claude Code, in a home and a project of its own.
fn client(dir: &Path) -> Child {
    for below in ["home/.claude/agents", "project/.claude"] {
        std::fs::create_dir_all(dir.join(below)).expect("the directory is writable");
    }
    for file in ["home/.claude.json", "project/.mcp.json", "home/.claude/settings.json"] {
        std::fs::write(dir.join(file), r#"{"mcpServers":{}}"#).expect("the directory is writable");
    }
    for file in ["project/CLAUDE.md", "home/.claude/CLAUDE.md", "home/.claude/agents/one.md"] {
        std::fs::write(dir.join(file), "Be careful.").expect("the directory is writable");
    }
    let exe = dir.join("claude");
    let mut bytes = std::fs::read("/bin/sh").expect("there is a shell");
    bytes.resize(EXECUTABLE, 0);
    let mut file = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o755).open(&exe).expect("writable");
    file.write_all(&bytes).and_then(|()| file.sync_all()).expect("the disk has room");
    drop(file);
    let mut client = Command::new(&exe)
        .args(["-c", "echo up; read x"])
        .env("HOME", dir.join("home"))
        .env_remove("CLAUDE_CONFIG_DIR")
        .current_dir(dir.join("project"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it can be run");
    let mut line = String::new();
    BufReader::new(client.stdout.take().expect("stdout is piped")).read_line(&mut line).expect("it says that it runs");
    client
}

fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    black_box(work());
    start.elapsed()
}

struct Figures {
    p50: Duration,
    p99: Duration,
}

impl Figures {
    fn of(times: impl Iterator<Item = Duration>) -> Self {
        let mut times: Vec<Duration> = times.collect();
        times.sort();
        Self { p50: times[times.len() / 2], p99: times[times.len() * 99 / 100] }
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        write!(f, "p50 {:>9.1} us, p99 {:>9.1} us", micros(self.p50), micros(self.p99))
    }
}
