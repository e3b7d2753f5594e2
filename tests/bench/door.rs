//! What the door costs, as figures: `cargo xtask bench`. Not a test: a slow machine is no failure.
//!
//! The measure of a proxied call is the same call over the bare container's own pipe, attached to through
//! Docker's socket exactly as the daemon does it.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use lazaret_tests::host::{self, House, Needs, Peer, text};

const AGENT: &str = "bench@ann.lazaret.local";
const CALLS: usize = 3000;
const WARM_UP: usize = 300;
const STARTS: usize = 50;
const RATES: &str = "[rate]\ncalls_per_minute = 100000000\nburst = 1000000\n";
const INITIALIZE: &str =
    r#"{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}"#;
const MIRROR: &str = r#"{"name":"mirror","arguments":{"path":"/srv/docs/readme.md","lines":[1,40]}}"#;
const MIRROR_THROUGH: &str = r#"{"name":"call_tool","arguments":{"server":"odd","tool":"mirror","arguments":{"path":"/srv/docs/readme.md","lines":[1,40]}}}"#;

fn main() {
    let Some(mut house) = House::or_skip(Needs::Docker) else { return };
    house.write_config(RATES);
    house.start("observe");
    let path = host::file("servers/oddities.py");
    house.ok(&["server", "add", "odd", "--local", path.to_str().expect("UTF-8"), "--", "python3", "{src}"]);
    house.ok(&["server", "approve", "odd", "--yes"]);
    house.ok(&["agent", "enroll", AGENT]);

    let starts = Figures::of((0..STARTS).map(|_| connector_start(&house)).collect());
    let mut door = house.connect(AGENT);
    let before = cpu_time(&house);
    let proxied = Figures::of(round_trips(|| drop(door.request("tools/call", MIRROR_THROUGH))));
    let spent = (cpu_time(&house) - before).as_secs_f64() * 1e6 / (WARM_UP + CALLS) as f64;
    let mut container = Container::start(&house);
    let bare = Figures::of(round_trips(|| container.call(MIRROR)));
    drop((container, door));
    house.stop();
    house.write_config(&format!("{RATES}[audit]\nsync = \"always\"\n"));
    house.start("observe");
    let mut door = house.connect(AGENT);
    let always = Figures::of(round_trips(|| drop(door.request("tools/call", MIRROR_THROUGH))));

    println!("connector, start to its first byte           {starts}");
    println!("tools/call, bare container                   {bare}");
    println!("tools/call, through the door                 {proxied}");
    println!(
        "the door itself                              p50 {:+.0} us, p99 {:+.0} us  (budget +60, +300)",
        micros(proxied.p50) - micros(bare.p50),
        micros(proxied.p99) - micros(bare.p99)
    );
    println!("CPU time of the daemon for each call         {spent:.0} us");
    println!("tools/call, [audit] sync = \"always\"          {always}");
}

/// User and system time that the daemon has used: what a loaded machine does not change.
fn cpu_time(house: &House) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", house.daemon_pid())).expect("the daemon runs");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().expect("a number of ticks")).sum();
    // 100 a second on every kernel that Lazaret runs on.
    Duration::from_millis(ticks * 10)
}

fn connector_start(house: &House) -> Duration {
    let mut command = house.lazaret();
    command.args(["connect", "--agent", AGENT]);
    let start = Instant::now();
    let mut peer = Peer::spawn(&mut command);
    peer.request("initialize", INITIALIZE);
    start.elapsed()
}

fn round_trips(mut call: impl FnMut()) -> Vec<Duration> {
    let timed = |_| {
        let start = Instant::now();
        call();
        start.elapsed()
    };
    let mut times: Vec<Duration> = (0..WARM_UP + CALLS).map(timed).collect();
    times.drain(..WARM_UP);
    times
}

struct Figures {
    p50: Duration,
    p99: Duration,
}

impl Figures {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort();
        let at = |share: usize| times[times.len() * share / 100];
        Self { p50: at(50), p99: at(99) }
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "p50 {:>7.0} us, p99 {:>7.0} us", micros(self.p50), micros(self.p99))
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// The approved server's own image, run by hand and attached to.
struct Container {
    id: String,
    socket: UnixStream,
    output: BufReader<Frames>,
}

impl Container {
    fn start(house: &House) -> Self {
        let review = house.json(&["server", "show", "odd", "--json"])["servers"][0]["review"].clone();
        let argv: Vec<&str> =
            review["argv"].as_array().into_iter().flatten().filter_map(|word| word.as_str()).collect();
        let label = format!("lazaret.instance={}", house.instance());
        let create =
            ["create", "--interactive", "--network", "none", "--log-driver", "none", "--label", &label, "--entrypoint"];
        let image = review["image_id"].as_str().expect("a reviewed server has an image");
        let (program, rest) = argv.split_first().expect("a reviewed server has a command");
        let id = docker(&[&create[..], &[program, image], rest].concat());
        let mut socket = UnixStream::connect("/var/run/docker.sock").expect("Docker's socket is there");
        let request = format!(
            "POST /containers/{id}/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: docker\r\n\
             Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).expect("Docker reads");
        read_head(&mut socket);
        docker(&["start", &id]);
        let output = BufReader::new(Frames { socket: socket.try_clone().expect("a socket can be cloned"), left: 0 });
        let mut container = Self { id, socket, output };
        container.send("initialize", INITIALIZE);
        container
    }

    fn call(&mut self, params: &str) {
        self.send("tools/call", params);
    }

    fn send(&mut self, method: &str, params: &str) {
        let line = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#) + "\n";
        self.socket.write_all(line.as_bytes()).expect("the server reads");
        let mut answer = String::new();
        self.output.read_line(&mut answer).expect("the server answers");
        assert!(answer.contains("result"), "{method}: {answer}");
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        docker(&["rm", "--force", &self.id]);
    }
}

fn docker(args: &[&str]) -> String {
    let output = Command::new("docker").args(args).output().expect("the docker client can be run");
    assert!(output.status.success(), "docker {args:?}: {}", text(&output.stderr));
    text(&output.stdout).trim().to_owned()
}

fn read_head(socket: &mut UnixStream) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        socket.read_exact(&mut byte).expect("Docker answers");
        head.extend(byte);
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", text(&head));
}

/// Docker's stream of frames: stream number, three zeros, length, then that many bytes.
struct Frames {
    socket: UnixStream,
    left: usize,
}

impl Read for Frames {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.left == 0 {
            let mut head = [0; 8];
            self.socket.read_exact(&mut head)?;
            self.left = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
        }
        let end = buffer.len().min(self.left);
        let count = self.socket.read(&mut buffer[..end])?;
        self.left -= count;
        Ok(count)
    }
}
