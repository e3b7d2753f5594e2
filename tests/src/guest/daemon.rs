//! The real daemon in the guest, and its CLI.

use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::bench::SOON;
use super::place;
use super::report::{Check, Report, ensure};
use crate::poll;

pub const RUN_DIR: &str = "/run/lazaret";
pub const BPF_DIR: &str = "/sys/fs/bpf/lazaret";
const NOTIFY: &str = "/run/notify";

/// A debug build loads and proves its programs within this, without KVM.
const START: Duration = Duration::from_secs(240);

pub struct Options<'a> {
    pub name: &'a str,
    pub mode: &'a str,
    pub scope: &'a str,
    /// `config.toml`, if not the defaults.
    pub config: Option<&'a str>,
}

pub struct Daemon {
    child: Child,
    name: String,
    state_dir: String,
    ready: UnixDatagram,
}

/// Runs `checks` with a daemon of its own, then ends it and takes its programs out of the kernel.
pub fn session(report: &mut Report, options: &Options<'_>, checks: impl FnOnce(&mut Report, &mut Daemon)) {
    let failures = report.failures();
    match Daemon::start(options) {
        Ok(mut daemon) => {
            match daemon.backend() {
                Ok(backend) => report.backend(&backend),
                Err(why) => report.failed(&format!("the_{}_daemon_names_its_backend", options.name), &why),
            }
            checks(report, &mut daemon);
            if let Err(why) = daemon.stop().and_then(|()| daemon.detach()) {
                report.failed(&format!("the_{}_daemon_ends", options.name), &why);
            }
        }
        Err(why) => report.failed(&format!("the_{}_daemon_starts", options.name), &why),
    }
    if report.failures() > failures {
        report.log(&tail(&log(options.name), 80));
        let _ = fs::remove_dir_all(BPF_DIR); // the next session must not suffer from this one
    }
}

impl Daemon {
    pub fn start(options: &Options<'_>) -> Result<Self, String> {
        let mut daemon = Self::launch(options)?;
        daemon.wait_ready()?;
        Ok(daemon)
    }

    /// Starts it and does not wait.
    pub fn launch(options: &Options<'_>) -> Result<Self, String> {
        let scope = place::scope(options.scope)?;
        let _ = fs::remove_file(NOTIFY); // the last daemon's
        let ready = UnixDatagram::bind(NOTIFY).map_err(|e| format!("cannot listen on {NOTIFY}: {e}"))?;
        let state_dir = format!("/tmp/state-{}", options.name);
        let mut command = Command::new("/bin/lazaret");
        command.args(["daemon", "--mode", options.mode, "--scope", &scope]);
        command.args(["--state-dir", &state_dir, "--run-dir", RUN_DIR]);
        if let Some(config) = options.config {
            let path = format!("/tmp/{}.toml", options.name);
            fs::write(&path, config).map_err(|e| format!("cannot write {path}: {e}"))?;
            command.args(["--config", &path]);
        }
        let path = log(options.name);
        let stderr =
            File::options().create(true).append(true).open(&path).map_err(|e| format!("cannot open {path}: {e}"))?;
        let stdout = stderr.try_clone().map_err(|e| format!("cannot share {path}: {e}"))?;
        command.env("HOME", "/root").env("NOTIFY_SOCKET", NOTIFY).env("RUST_BACKTRACE", "1");
        let child = command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn();
        let child = child.map_err(|e| format!("cannot run lazaret: {e}"))?;
        Ok(Self { child, name: options.name.into(), state_dir, ready })
    }

    /// Waits for systemd's READY=1. `false` while it is still starting after `patience`.
    pub fn is_ready(&mut self, patience: Duration) -> Result<bool, String> {
        let end = Instant::now() + patience;
        self.ready
            .set_read_timeout(Some(Duration::from_millis(50)))
            .map_err(|e| format!("cannot wait on {NOTIFY}: {e}"))?;
        loop {
            let mut buffer = [0; 512];
            if let Ok(count) = self.ready.recv(&mut buffer)
                && String::from_utf8_lossy(&buffer[..count]).lines().any(|line| line == "READY=1")
            {
                return Ok(true);
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("the daemon ended at start with {status}: {}", tail(&log(&self.name), 12)));
            }
            if Instant::now() >= end {
                return Ok(false);
            }
        }
    }

    fn wait_ready(&mut self) -> Result<(), String> {
        if self.is_ready(START)? {
            return Ok(());
        }
        let _ = self.child.kill(); // it may have ended just now
        let _ = self.child.wait();
        Err(format!("the daemon was not ready (READY=1) after {START:?}: {}", tail(&log(&self.name), 12)))
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: &str) -> Check {
        let sent = Command::new("kill").args([&format!("-{signal}"), &self.child.id().to_string()]).status();
        ensure(sent.is_ok_and(|status| status.success()), || format!("the daemon got no SIG{signal}"))
    }

    /// Removes all that it remembers. It must have ended.
    pub fn forget(&self) -> Check {
        fs::remove_dir_all(&self.state_dir).map_err(|e| format!("cannot remove {}: {e}", self.state_dir))
    }

    pub fn kill_9(&mut self) -> Result<(), String> {
        self.child.kill().and_then(|()| self.child.wait()).map_err(|e| format!("cannot kill the daemon: {e}"))?;
        Ok(())
    }

    /// Ends it as systemd does, if it still runs. What it pinned stays.
    pub fn stop(&mut self) -> Check {
        if let Ok(Some(_)) = self.child.try_wait() {
            return Ok(());
        }
        let sent = Command::new("kill").arg(self.child.id().to_string()).status();
        ensure(sent.is_ok_and(|status| status.success()), || "it was gone before SIGTERM".into())?;
        let Some(status) = poll(SOON, || self.child.try_wait().ok().flatten()) else {
            self.kill_9()?;
            return Err(format!("it still ran {SOON:?} after SIGTERM"));
        };
        ensure(status.success(), || format!("it ended with {status}"))
    }

    /// `lazaret daemon --detach` takes everything out of the kernel again.
    pub fn detach(&self) -> Check {
        self.cli(&["daemon", "--detach"])?;
        let left: Vec<_> = fs::read_dir(BPF_DIR).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        ensure(left.is_empty(), || format!("after `daemon --detach` there still is {left:?}"))
    }

    /// Runs a verb; its stdout, whatever the verdict (exit code 1) is.
    pub fn cli(&self, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new("/bin/lazaret")
            .args(arguments)
            .args(["--state-dir", &self.state_dir, "--run-dir", RUN_DIR])
            .env("HOME", "/root")
            .stdin(Stdio::null())
            .output()
            .map_err(|e| format!("cannot run lazaret: {e}"))?;
        match output.status.code() {
            Some(0 | 1) => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            _ => Err(format!(
                "lazaret {} ended with {}: {}",
                arguments.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            )),
        }
    }

    pub fn json(&self, arguments: &[&str]) -> Result<Value, String> {
        let text = self.cli(arguments)?;
        serde_json::from_str(&text)
            .map_err(|e| format!("lazaret {} printed no JSON ({e}): {text}", arguments.join(" ")))
    }

    /// The backend that it found this kernel to carry.
    pub fn backend(&self) -> Result<String, String> {
        let status = self.json(&["status", "--json"])?;
        let backend = status["kernel"]["backend"].as_str();
        backend.map(str::to_owned).ok_or_else(|| format!("the status names no backend: {status}"))
    }

    /// The record of the shadow spawn of `exe`, as soon as it is there.
    pub fn shadow(&self, exe: &str) -> Result<Shadow, String> {
        let mut last = String::new();
        poll(SOON, || match self.find_shadow(exe) {
            Ok(found) => found,
            Err(why) => {
                last = why;
                None
            }
        })
        .ok_or_else(|| format!("`shadow list` shows no record of {exe} {last}"))
    }

    pub fn find_shadow(&self, exe: &str) -> Result<Option<Shadow>, String> {
        let list = self.json(&["shadow", "list", "--json"])?;
        let records = list.as_object().and_then(|object| object.values().find_map(Value::as_array));
        let records = records.ok_or_else(|| format!("`shadow list --json` has no array: {list}"))?;
        Ok(records.iter().find(|record| names(record, exe)).map(|record| Shadow(record.clone())))
    }
}

/// Whether the record is of `exe`, as the executable or a word of its argv (interpreters run what they are given).
fn names(record: &Value, exe: &str) -> bool {
    record["exe"] == exe || record["argv"].as_array().is_some_and(|argv| argv.iter().any(|word| word == exe))
}

/// One record of `shadow list --json`.
#[derive(Debug)]
pub struct Shadow(pub Value);

impl Shadow {
    pub fn id(&self) -> Result<&str, String> {
        self.0["id"].as_str().ok_or_else(|| format!("the record has no id: {}", self.0))
    }

    pub fn has_evidence(&self, evidence: &str) -> Check {
        ensure(self.0["evidence"].to_string().contains(&format!("\"{evidence}\"")), || {
            format!("its evidence does not name {evidence:?}: {}", self.0)
        })
    }

    /// `part` of what the kernel did: `kill` and `den` are in `killed` and `denied`.
    pub fn has_action(&self, parts: &[&str]) -> Check {
        let action = self.0["action"].to_string().to_lowercase();
        ensure(parts.iter().any(|part| action.contains(part)), || format!("its action is not {parts:?}: {}", self.0))
    }
}

fn log(name: &str) -> String {
    format!("/tmp/log/{name}.log")
}

fn tail(path: &str, lines: usize) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
