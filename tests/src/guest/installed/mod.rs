//! Lazaret as it is installed: its unit below a real systemd, on Debian's disk (`crate::installed`).
//!
//! Invariant: the daemon is started, stopped and asked as an administrator does it, by `systemctl`, `journalctl` and
//! the CLI, with nothing but a config file of its own.

mod rootless;
mod service;

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::docker::{self, shell};
use super::place;
use super::report::{Check, Report, ensure};
use crate::installed::Session;
use crate::poll;

/// An engine or a debug build of the daemon has started within this, without KVM.
const START: Duration = Duration::from_secs(240);
const CONFIG: &str = "/etc/lazaret/config.toml";
const UNIT: &str = "lazaret.service";
/// The guest has no network, and the time that dockerd takes for one is not what is looked at.
const DOCKERD: &str = r#"{"bridge": "none", "iptables": false, "ip6tables": false}"#;

/// The session that this guest was booted for.
pub fn session() -> Option<Session> {
    let line = place::command_line();
    [Session::Service, Session::Rootless].into_iter().find(|session| line.contains(session.word()))
}

/// Ends the guest, or restarts it.
pub fn run(session: Session) {
    let mut report = Report::from_cmdline(&[]);
    let failures = report.failures();
    let more = match session {
        Session::Service => service::session(&mut report),
        Session::Rootless => {
            rootless::session(&mut report);
            false
        }
    };
    if report.failures() > failures {
        report.log(&shell("journalctl --no-pager --boot --output short | tail -n 250").unwrap_or_default());
    }
    if more {
        let _ = shell("systemctl reboot");
    } else {
        report.end();
        let _ = shell("sync; systemctl poweroff --force --force");
    }
}

/// A program of the disk; what it prints on stdout.
fn run_program(words: &[&str]) -> Result<String, String> {
    let output = Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).output();
    let output = output.map_err(|e| format!("cannot run {}: {e}", words[0]))?;
    ensure(output.status.success(), || {
        format!(
            "`{}` ended with {}: {}",
            words.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        )
    })?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn systemctl(words: &[&str]) -> Result<String, String> {
    run_program(&[&["systemctl"], words].concat())
}

/// A property of the unit, as systemd has it.
fn property(name: &str) -> Result<String, String> {
    systemctl(&["show", "--value", "--property", name, UNIT]).map(|text| text.trim().to_owned())
}

/// A verb of the CLI, with nothing said of where the daemon is; whatever the verdict, its stdout.
fn lazaret(words: &[&str]) -> Result<String, String> {
    let output = Command::new("/usr/bin/lazaret").args(words).stdin(Stdio::null()).output();
    let output = output.map_err(|e| format!("cannot run lazaret: {e}"))?;
    ensure(matches!(output.status.code(), Some(0 | 1)), || {
        format!("lazaret {} ended with {}: {}", words.join(" "), output.status, String::from_utf8_lossy(&output.stderr))
    })?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// As [`lazaret`]; a negative verdict is an error too.
fn done(words: &[&str]) -> Check {
    run_program(&[&["/usr/bin/lazaret"], words].concat()).map(drop)
}

fn json(words: &[&str]) -> Result<Value, String> {
    let text = lazaret(words)?;
    serde_json::from_str(&text).map_err(|e| format!("lazaret {} printed no JSON ({e}): {text}", words.join(" ")))
}

fn configure(text: &str) -> Check {
    fs::create_dir_all("/etc/lazaret")
        .and_then(|()| fs::write(CONFIG, text))
        .map_err(|e| format!("cannot write {CONFIG}: {e}"))
}

/// What `lazaret doctor` says under this name: its verdict and its text.
fn doctor(name: &str) -> Result<(String, String), String> {
    let checks = json(&["doctor", "--json"])?;
    let found = checks["checks"].as_array().into_iter().flatten().find(|check| check["name"] == name);
    let found = found.ok_or_else(|| format!("doctor has no {name}: {checks}"))?;
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    Ok((text("verdict"), text("detail")))
}

/// The daemon's process, once systemd calls the service active.
fn active() -> Result<u32, String> {
    let pid = poll(START, || match property("ActiveState").as_deref() {
        Ok("active") => property("MainPID").ok()?.parse().ok(),
        _ => None,
    });
    pid.ok_or_else(|| format!("the service is not active after {START:?}: {:?}", property("ActiveState")))
}

/// An agent's call of a server through the door.
fn answers(server: &str) -> Check {
    let text = docker::call(server, &serde_json::json!({}))?;
    ensure(text == "hello from the cage", || format!("the answer is {text:?}"))
}

fn status_of(pid: u32) -> Result<String, String> {
    fs::read_to_string(format!("/proc/{pid}/status")).map_err(|e| format!("cannot read the state of {pid}: {e}"))
}
