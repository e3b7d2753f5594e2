//! Config evidence while configs change: however a file is written, its entries are known, and whoever wrote is named.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::bench::{SOON, install_tracer};
use super::daemon::Daemon;
use super::enforce::judged;
use super::report::{Check, Report, ensure};
use crate::poll;

/// A client takes longer than this from its start to its first server. (Without KVM a millisecond of a host is
/// twenty.)
const A_CLIENT_STARTS: Duration = Duration::from_millis(400);

pub fn checks(report: &mut Report, daemon: &Daemon) {
    report.check("an_entry_in_a_file_that_is_renamed_into_place_is_known_before_a_client_starts", || {
        let path = "/root/.cursor/mcp.json";
        fs::create_dir_all("/root/.cursor").map_err(|e| e.to_string())?;
        fs::write(path, config("renamed-before")).map_err(|e| e.to_string())?;
        known("renamed-before", SOON)?;
        for round in 0..3 {
            let name = format!("renamed-{round}");
            fs::write("/root/.cursor/mcp.json.tmp", config(&name)).map_err(|e| e.to_string())?;
            fs::rename("/root/.cursor/mcp.json.tmp", path).map_err(|e| e.to_string())?;
            known(&name, A_CLIENT_STARTS)?;
        }
        Ok(())
    });
    report.check("an_entry_in_a_file_that_is_written_in_place_is_known_before_a_client_starts", || {
        for round in 0..3 {
            let name = format!("in-place-{round}");
            fs::write("/root/.cursor/mcp.json", config(&name)).map_err(|e| e.to_string())?;
            known(&name, A_CLIENT_STARTS)?;
        }
        Ok(())
    });
    report.check("an_entry_in_a_file_behind_a_link_is_learned", || {
        for dir in ["/srv/dotfiles", "/root/.codeium/windsurf"] {
            fs::create_dir_all(dir).map_err(|e| e.to_string())?;
        }
        fs::write("/srv/dotfiles/windsurf.json", "{}").map_err(|e| e.to_string())?;
        symlink("/srv/dotfiles/windsurf.json", "/root/.codeium/windsurf/mcp_config.json").map_err(|e| e.to_string())?;
        fs::write("/srv/dotfiles/windsurf.json", config("linked-first")).map_err(|e| e.to_string())?;
        known("linked-first", SOON)?;
        fs::write("/srv/dotfiles/windsurf.json", config("linked")).map_err(|e| e.to_string())?;
        known("linked", SOON)
    });
    report.check("an_entry_in_a_directory_that_is_made_later_is_learned", || {
        fs::create_dir_all("/root/.kiro/settings").map_err(|e| e.to_string())?;
        fs::write("/root/.kiro/settings/mcp.json", config("later")).map_err(|e| e.to_string())?;
        known("later", SOON)?;
        fs::remove_dir_all("/root/.kiro").map_err(|e| e.to_string())?;
        fs::create_dir_all("/root/.kiro/settings").map_err(|e| e.to_string())?;
        fs::write("/root/.kiro/settings/mcp.json", config("later-again")).map_err(|e| e.to_string())?;
        known("later-again", SOON)
    });
    report.check("a_file_that_cannot_be_parsed_forgets_nothing", || {
        fs::write("/root/.kiro/settings/mcp.json", "{\"mcpServers\": {").map_err(|e| e.to_string())?;
        let told = || changes(daemon).ok()?.iter().any(|change| change["error"].is_string()).then_some(());
        poll(SOON, told).ok_or("the broken file was not told")?;
        judged("none").run(&start("later-again"))?.stopped()
    });
    report.check("a_rewritten_entry_names_the_process_that_wrote_it_and_its_parents", || {
        let path = "/root/.cursor/mcp.json";
        fs::create_dir_all("/root/.cursor")
            .and_then(|()| fs::write(path, config("named-before")))
            .map_err(|e| e.to_string())?;
        known("named-before", SOON)?;
        let mut writer = Writer::start(path, &config("named"))?;
        let found = poll(SOON, || {
            let all = changes(daemon).ok()?;
            let to_named = |entry: &Value| entry["new"]["command"] == "/opt/bin/named";
            all.into_iter().find(|change| change["entries"].as_array().is_some_and(|all| all.iter().any(to_named)))
        });
        let pid = writer.0.id();
        writer.end();
        let change = found.ok_or("no change was told")?;
        // Writes that follow each other closely are told as one change, and all who wrote are named.
        let by = change["writers"].as_array().and_then(|all| all.iter().find(|writer| writer["pid"] == pid));
        let entry = change["entries"].as_array().and_then(|all| all.iter().find(|entry| entry["what"] == "rewritten"));
        let named = by.is_some_and(|by| {
            by["uid"] == 0 && by["exe"].is_string() && by["parents"].to_string().contains("kernel-guest")
        });
        let complete = named
            && change["path"] == path
            && entry.is_some_and(|entry| {
                entry["name"] == "server"
                    // The change before may be told with this one.
                    && entry["old"]["command"].as_str().is_some_and(|old| old.starts_with("/opt/bin/"))
            });
        ensure(complete, || format!("the writer was {pid}: {change}"))?;
        let audit = daemon.cli(&["audit", "tail", "-n", "50", "--jsonl"])?;
        let recorded = audit.lines().any(|line| line.contains("\"config\"") && line.contains("/opt/bin/named\""));
        ensure(recorded, || format!("the audit log does not have it: {audit}"))
    });
}

/// A config with one entry.
fn config(name: &str) -> String {
    json!({"mcpServers": {"server": {"command": format!("/opt/bin/{name}"), "args": ["--serve"]}}}).to_string()
}

fn start(name: &str) -> [String; 2] {
    [format!("/opt/bin/{name}"), "--serve".to_owned()]
}

/// Whether the server is stopped within `patience` from now. Outside of the judged cgroup it runs.
fn known(name: &str, patience: Duration) -> Check {
    install_tracer(&format!("/opt/bin/{name}"), name)?;
    let begin = Instant::now();
    poll(patience, || judged("none").run(&start(name)).ok()?.stopped().ok())
        .ok_or_else(|| format!("{name} still runs {:?} after its entry was written", begin.elapsed()))
}

fn changes(daemon: &Daemon) -> Result<Vec<Value>, String> {
    let status = daemon.json(&["status", "--json"])?;
    status["config_changes"].as_array().cloned().ok_or_else(|| format!("the status tells no changes: {status}"))
}

/// A shell that writes a file and lives on.
struct Writer(Child);

impl Writer {
    fn start(path: &str, text: &str) -> Result<Self, String> {
        let script = "printf '%s' \"$1\" > \"$2\"; read wait";
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script, "sh", text, path]).stdin(Stdio::piped());
        command.spawn().map(Self).map_err(|e| format!("cannot start a shell: {e}"))
    }

    fn end(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait(); // it has nothing to say
    }
}
