//! Programs that people really run, under a daemon that enforces the whole host: MCP clients and servers as npm and
//! PyPI ship them, and their honest neighbours - language servers, a debug adapter, an ACP agent, tools over logs.
//!
//! Invariant: the session's last check holds every record of the daemon against the servers that were meant to be
//! caught. A false positive fails it, whoever the victim was.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::daemon::{self, Daemon, Options};
use super::report::{Check, Report, ensure};
use crate::qemu;

/// Written by [`programs`], placed by `real.sh`.
const PROGRAMS: &str = "/real-programs";
/// Far above what the slowest of them takes to answer without KVM.
const PATIENCE_MS: &str = "240000";
const CONFIG: &str = "/root/.claude.json";

/// Where this machine's programs are: a JSON object. `Err` says what is missing.
pub fn programs() -> Result<String, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let node = std::env::split_paths(&path).map(|dir| dir.join("node")).find(|node| node.exists());
    let node = node.ok_or("node is missing: apt-get install nodejs")?;
    let tools = qemu::root().join("target/tools");
    for dir in ["npm", "npm-neighbours", "python-neighbours", "sdk1", "sdk2", "claude"] {
        if !tools.join(dir).join(".installed").exists() {
            return Err(format!("{} is missing: `cargo xtask test` installs it", tools.join(dir).display()));
        }
    }
    Ok(json!({"node": node, "tools": tools, "tests": qemu::root().join("tests")}).to_string())
}

pub fn is_here() -> bool {
    Path::new(PROGRAMS).exists()
}

struct Here {
    node: PathBuf,
    tools: PathBuf,
    tests: PathBuf,
}

impl Here {
    fn find() -> Result<Self, String> {
        let text = fs::read_to_string(PROGRAMS).map_err(|e| format!("cannot read {PROGRAMS}: {e}"))?;
        let paths: Value = serde_json::from_str(&text).map_err(|e| format!("cannot read {PROGRAMS}: {e}"))?;
        let path = |name: &str| paths[name].as_str().map(PathBuf::from).ok_or(format!("{PROGRAMS} has no {name}"));
        Ok(Self { node: path("node")?, tools: path("tools")?, tests: path("tests")? })
    }

    /// A Python of the test tools.
    fn python(&self, venv: &str) -> String {
        text(&self.tools.join(venv).join("bin/python"))
    }

    /// An npm server that the catalogue knows, by its path.
    fn everything(&self) -> String {
        text(&self.tools.join("npm/node_modules/@modelcontextprotocol/server-everything/dist/index.js"))
    }

    /// The same server behind a file that nobody has heard of.
    fn unknown(&self) -> Result<Vec<String>, String> {
        let file = "/opt/bin/start.mjs";
        fs::write(file, format!("await import({:?});\n", self.everything()))
            .map_err(|e| format!("cannot write {file}: {e}"))?;
        Ok(vec![text(&self.node), file.into(), "stdio".into()])
    }

    /// What is no MCP server, the message that its client opens with, and how it is started.
    fn neighbours(&self) -> Vec<(&'static str, Vec<String>)> {
        let npm =
            |script: &str| vec![text(&self.node), text(&self.tools.join("npm-neighbours/node_modules").join(script))];
        let bin = |name: &str| vec![text(&self.tools.join("python-neighbours/bin").join(name))];
        let with = |mut words: Vec<String>, more: &str| {
            words.push(more.into());
            words
        };
        vec![
            ("lsp", with(npm("pyright/langserver.index.js"), "--stdio")),
            ("lsp", with(npm("bash-language-server/out/cli.js"), "start")),
            ("lsp", with(npm("yaml-language-server/bin/yaml-language-server"), "--stdio")),
            ("lsp", bin("pylsp")),
            ("lsp", with(bin("ruff"), "server")),
            ("dap", bin("debugpy-adapter")),
            ("acp", npm("@zed-industries/claude-code-acp/dist/index.js")),
        ]
    }

    /// What Claude Code's own CLI says of its one configured server.
    fn claude_connects(&self) -> Result<bool, String> {
        let entry = json!({"type": "stdio", "command": self.node, "args": [self.everything(), "stdio"]});
        fs::write(CONFIG, json!({"numStartups": 7, "mcpServers": {"everything": entry}}).to_string())
            .map_err(|e| format!("cannot write {CONFIG}: {e}"))?;
        let claude = self.tools.join("claude/node_modules/@anthropic-ai/claude-code-linux-x64/claude");
        let said =
            said(Command::new(claude).args(["mcp", "list"]).env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"))?;
        let line = said.lines().find(|line| line.starts_with("everything: ")).ok_or("it names no server")?;
        Ok(line.trim_end().ends_with("Connected"))
    }

    /// Whether the Python SDK gets a session with a server.
    fn sdk_connects(&self, server: &[String]) -> Result<bool, String> {
        let script = text(&self.tests.join("python/says_hello.py"));
        let said = said(Command::new(self.python("sdk1")).arg(script).args(server))?;
        match said.trim() {
            "connected" => Ok(true),
            "refused" => Ok(false),
            _ => Err(format!("the client says {said:?}")),
        }
    }

    fn neighbours_answer(&self) -> Check {
        for (message, command) in self.neighbours() {
            let mut client = Command::new("/bin/mcp-client");
            client.args(["--send", message, "--timeout-ms", PATIENCE_MS, "--"]).args(&command);
            let report = said(&mut client)?;
            let report: Value = serde_json::from_str(&report).map_err(|e| format!("{command:?}: {e}: {report}"))?;
            ensure(report["answer"].is_string(), || format!("{command:?} did not answer: {report}"))?;
        }
        Ok(())
    }

    fn logs_are_read(&self) -> Check {
        let log = "/tmp/session.log";
        let line = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"processId":1,"capabilities":{}}}"#;
        fs::write(log, format!("{line}\n").repeat(500)).map_err(|e| format!("cannot write {log}: {e}"))?;
        let node = text(&self.node);
        let count = r#"let n=0;require("readline").createInterface({input:process.stdin}).on("line",l=>{JSON.parse(l);n++}).on("close",()=>console.log(String(n)))"#;
        for reader in [
            "grep -c initialize".into(),
            "/usr/bin/python3 -c 'import json,sys; print(sum(1 for line in sys.stdin if json.loads(line)))'".into(),
            format!("{node} -e '{count}'"),
            "wc -l".into(),
        ] {
            let printed = said(Command::new("/bin/sh").args(["-c", &format!("cat {log} | {reader}")]))?;
            ensure(printed.trim() == "500", || format!("{reader}: {printed:?}"))?;
        }
        Ok(())
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// What a program prints, whatever its exit code.
fn said(command: &mut Command) -> Result<String, String> {
    let output = command.current_dir("/home/dev").env("HOME", "/root").stdin(Stdio::null()).output();
    let output = output.map_err(|e| format!("cannot run {command:?}: {e}"))?;
    if output.stdout.is_empty() {
        return Err(format!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

pub fn session(report: &mut Report) {
    let here = match Here::find() {
        Ok(here) => here,
        Err(why) => return report.failed("the_guest_has_this_machines_programs", &why),
    };
    let _ = fs::remove_file("/etc/claude-code/managed-mcp.json"); // the other sessions' servers
    report.check("without_a_daemon_real_clients_connect_to_real_servers", || {
        ensure(here.sdk_connects(&here.unknown()?)?, || "the Python SDK was refused".into())?;
        ensure(here.claude_connects()?, || "Claude Code did not connect".into())
    });
    let _ = fs::remove_file(CONFIG); // the daemon is to learn of it while it runs
    let options = Options { name: "real", mode: "enforce", scope: "host", config: None };
    daemon::session(report, &options, |report, daemon| {
        report.check("a_real_server_that_no_rule_knows_is_stopped_at_its_handshake", || {
            ensure(!here.sdk_connects(&here.unknown()?)?, || "the Python SDK connected".into())?;
            daemon.shadow(&text(&here.node))?.has_evidence("handshake")
        });
        report.check("claude_code_does_not_connect_to_a_server_outside_the_door", || {
            ensure(!here.claude_connects()?, || "it connected".into())
        });
        report.check("language_servers_a_debug_adapter_and_an_acp_agent_answer_under_enforce", || {
            here.neighbours_answer()
        });
        report.check("tools_read_json_rpc_logs_under_enforce", || here.logs_are_read());
        report.check("nothing_real_has_a_record_but_the_servers_outside_the_door", || only_servers(daemon));
    });
}

/// Every record names one of the two servers that were started past the door.
fn only_servers(daemon: &Daemon) -> Check {
    let list = daemon.json(&["shadow", "list", "--json"])?;
    let records = list["shadows"].as_array().ok_or_else(|| format!("no records in {list}"))?;
    let meant = |record: &&Value| {
        let argv = record["argv"].to_string();
        argv.contains("/opt/bin/start.mjs") || argv.contains("server-everything/dist/index.js")
    };
    let others: Vec<&Value> = records.iter().filter(|record| !meant(record)).collect();
    ensure(records.len() >= 2 && others.is_empty(), || {
        format!("{} records, these of others: {others:?}", records.len())
    })
}
