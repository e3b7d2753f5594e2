//! The tools of the scenarios: programs that leave traces, the client that starts them, and what came of it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::report::{Check, Report, ensure};
use crate::host::elf;

/// Traces of what ran: one file per program and step.
const TRACES: &str = "/tmp/traces";
/// Where clients and their servers work.
pub const CWD: &str = "/home/dev";

/// Makes what the scenarios expect to find.
pub fn prepare() -> Result<(), String> {
    for dir in [TRACES, "/opt/bin", "/tmp/log"] {
        fs::create_dir_all(dir).map_err(|e| format!("cannot make {dir}: {e}"))?;
    }
    fs::set_permissions(TRACES, fs::Permissions::from_mode(0o1777))
        .map_err(|e| format!("cannot open {TRACES}: {e}"))?;
    write_client_config(&CONFIGURED, 1)
}

/// Stdio entries of the guest's client config, each a command and its arguments. Every check has its own.
pub const CONFIGURED: [&[&str]; 22] = [
    &["/opt/bin/configured", "--serve"],
    &["/opt/bin/configured-recorded", "--serve"],
    &["configured-by-name", "--serve"],
    &["/opt/bin/configured-elsewhere", "--serve"],
    &["/opt/bin/configured-orphan", "--serve"],
    &["/opt/bin/configured-released", "--serve"],
    &["/opt/bin/configured-killed", "--serve"],
    &["/opt/bin/configured-observed", "--serve"],
    &["/opt/bin/configured-user", "--serve"],
    &["/opt/bin/configured-continued", "--serve"],
    &["/opt/bin/configured-orphaned", "--serve"],
    &["/opt/bin/configured-forgotten", "--serve"],
    &["/opt/bin/configured-while-away", "--serve"],
    &["/opt/bin/configured-again", "--serve"],
    &["/opt/bin/configured-leaving", "--serve"],
    &["/opt/bin/configured-running", "--serve"],
    &["/opt/bin/configured-storm", "--serve"],
    &["/opt/bin/configured-tampered", "--serve"],
    &["/opt/bin/configured-versions", "--serve"],
    &[
        "/opt/bin/configured-linked",
        "--started",
        "/tmp/traces/configured-linked.started",
        "--read",
        "/tmp/traces/configured-linked.read",
        "--by",
        "read",
    ],
    &["/opt/bin/configured-connector", "--job", "/tmp/connect.job"],
    &["/opt/bin/configured-thief", "--connect", "/var/run/docker.sock", "--connected", "/tmp/traces/thief.connected"],
];

/// Writes /root/.claude.json as Claude Code does, with so many projects in it.
pub fn write_client_config(commands: &[&[&str]], projects: usize) -> Result<(), String> {
    let projects: serde_json::Map<String, Value> =
        (0..projects).map(|i| (format!("/root/project-{i}"), json!({"allowedTools": [], "mcpServers": {}}))).collect();
    let servers: serde_json::Map<String, Value> = commands
        .iter()
        .enumerate()
        .map(|(i, words)| {
            (format!("server-{i}"), json!({"type": "stdio", "command": words[0], "args": words[1..], "env": {}}))
        })
        .collect();
    let text = json!({"numStartups": 1, "mcpServers": servers, "projects": projects}).to_string();
    // As clients do: a new file in the old one's place.
    fs::write("/root/.claude.json.new", text)
        .and_then(|()| fs::rename("/root/.claude.json.new", "/root/.claude.json"))
        .map_err(|e| format!("cannot write the client config: {e}"))
}

pub fn trace(name: &str) -> String {
    format!("{TRACES}/{name}")
}

pub fn traced(name: &str) -> bool {
    Path::new(&trace(name)).exists()
}

/// Installs an executable whose *first* instructions make the trace `name`; then it exits with 0.
pub fn install_tracer(path: &str, name: &str) -> Result<(), String> {
    install(path, &elf::image(Path::new(&trace(name))))
}

/// A new file, so that a process which still runs the old one keeps it.
pub fn install(path: &str, content: &[u8]) -> Result<(), String> {
    let parent = Path::new(path).parent().unwrap_or(Path::new("/"));
    let _ = fs::remove_file(path); // most are new
    fs::create_dir_all(parent)
        .and_then(|()| fs::write(path, content))
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
        .map_err(|e| format!("cannot install {path}: {e}"))
}

/// Installs the MCP server under a name of its own, which no record of another check bears.
pub fn install_shadow(name: &str) -> Result<Shadow, String> {
    let path = format!("/opt/bin/{name}");
    install(&path, &fs::read("/bin/shadow-server").map_err(|e| format!("cannot read the shadow server: {e}"))?)?;
    Ok(Shadow { path, name: name.to_owned() })
}

/// An MCP server that nothing on this machine names: no client config, no catalogue.
pub struct Shadow {
    pub path: String,
    name: String,
}

impl Shadow {
    /// `by` is the system call that reads: see `bin/shadow-server.rs`.
    pub fn command(&self, by: &str) -> Vec<String> {
        let (started, read) = (trace(&format!("{}.started", self.name)), trace(&format!("{}.read", self.name)));
        [&self.path, "--started", &started, "--read", &read, "--by", by].map(str::to_owned).to_vec()
    }

    pub fn started(&self) -> bool {
        traced(&format!("{}.started", self.name))
    }

    pub fn has_read(&self) -> bool {
        traced(&format!("{}.read", self.name))
    }
}

/// One start of a server by a client.
#[derive(Clone)]
pub struct Start<'a> {
    pub socketpair: bool,
    /// Another shape of stdio, and a way of writing: see `stdio.rs`.
    pub io: &'a str,
    pub by: &'a str,
    pub send: &'a str,
    pub cgroup: Option<&'a str>,
    pub uid: Option<u32>,
}

impl Start<'_> {
    pub fn sending(send: &str) -> Start<'_> {
        Start { socketpair: false, io: "pipe", by: "whole", send, cgroup: None, uid: None }
    }

    /// Only starts the program: it needs no message to be what it is.
    pub fn silent() -> Start<'static> {
        Start::sending("none")
    }

    /// Starts `command` and returns at once.
    pub fn begin<S: AsRef<str>>(&self, command: &[S]) -> Result<Running, String> {
        let mut client = Command::new("/bin/sh");
        let enter = self.cgroup.map(|dir| format!("echo 0 > {dir}/cgroup.procs && "));
        client.arg("-c").arg(format!("{}exec \"$@\"", enter.unwrap_or_default())).arg("sh");
        client.args(["/bin/mcp-client", "--send", self.send]);
        client.args(["--io", if self.socketpair { "socketpair" } else { self.io }, "--by", self.by]);
        client.arg("--").args(command.iter().map(AsRef::as_ref));
        if let Some(uid) = self.uid {
            client.uid(uid);
        }
        client.current_dir(CWD).env("HOME", "/root").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        client.spawn().map(Running).map_err(|e| format!("cannot start the client: {e}"))
    }

    pub fn run<S: AsRef<str>>(&self, command: &[S]) -> Result<Ended, String> {
        self.begin(command)?.end()
    }
}

pub struct Running(Child);

impl Running {
    pub fn end(self) -> Result<Ended, String> {
        let output = self.0.wait_with_output().map_err(|e| format!("cannot wait for the client: {e}"))?;
        Ended::parse(&output)
    }
}

/// What the client saw: the report of `bin/mcp-client.rs`.
pub struct Ended(Value);

impl Ended {
    /// What a client has printed.
    pub fn parse(output: &Output) -> Result<Self, String> {
        serde_json::from_slice(&output.stdout).map(Self).map_err(|e| {
            let stderr = String::from_utf8_lossy(&output.stderr);
            format!("the client ended with {} and no report ({e}): {}", output.status, stderr.trim())
        })
    }

    /// Killed, or refused by exec: what enforcement leaves behind.
    pub fn stopped(&self) -> Check {
        let refused = self.0["error"].as_str().is_some_and(|error| error.contains("Operation not permitted"));
        ensure(self.0["answer"].is_null() && (self.0["signal"] == 9 || refused), || {
            format!("it was not killed or refused: {}", self.0)
        })
    }

    /// Nobody answered the client, and it did not have to wait for that.
    pub fn unanswered(&self) -> Check {
        ensure(self.0["answer"].is_null() && self.0["timed_out"] == false, || format!("it went on: {}", self.0))
    }

    pub fn answered(&self) -> Check {
        ensure(self.0["answer"].is_string(), || format!("it did not answer: {}", self.0))
    }

    /// The first words of the answer.
    pub fn said(&self, words: &str) -> bool {
        self.0["answer"].as_str().is_some_and(|answer| answer.starts_with(words))
    }

    /// Ran to its own end.
    pub fn left_alone(&self) -> Check {
        ensure(self.0["exit_code"] == 0, || format!("it did not run to its own end: {}", self.0))
    }
}

/// The process that runs `exe`, once it is there and in `state` (a letter of /proc/PID/stat).
pub fn process(exe: &str, state: &str) -> Option<u32> {
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let is = stat.rsplit_once(')')?.1.trim_start().starts_with(state);
        (is && fs::read_link(entry.path().join("exe")).ok()? == Path::new(exe)).then_some(pid)
    })
}

/// How long the daemon may take to hear of something that the kernel did, on a slow machine.
pub const SOON: Duration = Duration::from_secs(60);

/// What must hold before any daemon: the programs do what the other checks take their absence for.
pub fn bare(report: &mut Report) {
    report.check("without_a_daemon_every_server_answers", || {
        install_tracer("/opt/bin/bare-tracer", "bare-tracer")?;
        Start::silent().run(&["/opt/bin/bare-tracer"])?.left_alone()?;
        ensure(traced("bare-tracer"), || "the tracer left no trace".into())?;
        for (by, socketpair) in [("read", false), ("byte", false), ("readv", false), ("read", true), ("recv", true)] {
            let shadow = install_shadow(&format!("bare-{by}-{socketpair}"))?;
            Start { socketpair, ..Start::sending("initialize") }.run(&shadow.command(by))?.answered()?;
            ensure(shadow.started() && shadow.has_read(), || format!("no traces by {by}"))?;
        }
        for send in MCP_MESSAGES {
            let shadow = install_shadow(&format!("bare-{send}"))?;
            Start::sending(send)
                .run(&shadow.command("read"))?
                .answered()
                .map_err(|_| format!("no answer to {send}"))?;
        }
        for (send, server) in BENIGN {
            Start::sending(send).run(server)?.answered().map_err(|_| format!("no answer to {send}"))?;
        }
        Ok(())
    });
}

/// Every way to open an MCP session that must be recognised.
pub const MCP_MESSAGES: [&str; 10] = [
    "initialize",
    "initialize-reordered",
    "initialize-string-id",
    "initialize-spaced",
    "initialize-escaped",
    "initialize-long",
    "initialize-second",
    "initialize-framed",
    "discover",
    "tools-list-2026",
];

/// What looks like it and is not: message and server.
pub const BENIGN: [(&str, &[&str]); 4] = [
    ("lsp", &["/bin/benign-server", "lsp"]),
    ("dap", &["/bin/benign-server", "lsp"]),
    ("acp", &["/bin/benign-server", "acp"]),
    ("codex", &["/bin/benign-server", "acp"]),
];
