//! How a guest reports: one line per check, read by the host (`qemu.rs`).

use std::io::Write as _;

use super::place;

/// `Err` says why a check did not pass.
pub type Check = Result<(), String>;

/// `Err(why)` unless `holds`.
pub fn ensure(holds: bool, why: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(why()) }
}

pub struct Report {
    sessions: Vec<String>,
    checks: Vec<String>,
    failures: usize,
    /// The last backend that a daemon named.
    backend: String,
}

impl Report {
    /// `lazaret.only=a,b` on the command line leaves only some: the names of sessions choose sessions, any other
    /// word the checks whose name contains it. Says which kernel this is.
    pub fn from_cmdline(sessions: &[&str]) -> Self {
        let cmdline = place::command_line();
        let only = cmdline.split_whitespace().find_map(|word| word.strip_prefix("lazaret.only=")).unwrap_or_default();
        let words = only.split(',').filter(|word| !word.is_empty()).map(str::to_owned);
        let (sessions, checks) = words.partition(|word| sessions.contains(&word.as_str()));
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        line(&format!("@@kernel {}", kernel.trim()));
        Self { sessions, checks, failures: 0, backend: String::new() }
    }

    pub fn wants_session(&self, name: &str) -> bool {
        self.sessions.is_empty() || self.sessions.iter().any(|session| session == name)
    }

    fn wants(&self, name: &str) -> bool {
        self.checks.is_empty() || self.checks.iter().any(|part| name.contains(part))
    }

    pub fn check(&mut self, name: &str, check: impl FnOnce() -> Check) {
        if !self.wants(name) {
            return;
        }
        match check() {
            Ok(()) => line(&format!("@@ok {name}")),
            Err(why) => self.failed(name, &why),
        }
    }

    /// A check that this machine cannot carry out.
    pub fn skip(&self, name: &str, why: &str) {
        if self.wants(name) {
            line(&format!("@@skip {name}: {}", one_line(why)));
        }
    }

    pub fn failed(&mut self, name: &str, why: &str) {
        self.failures += 1;
        line(&format!("@@fail {name}: {}", one_line(why)));
    }

    /// The backend that a session's daemon found.
    pub fn backend(&mut self, backend: &str) {
        if self.backend != backend {
            line(&format!("@@backend {backend}"));
            backend.clone_into(&mut self.backend);
        }
    }

    pub fn failures(&self) -> usize {
        self.failures
    }

    /// One figure of a measurement.
    pub fn figure(&self, figure: &serde_json::Value) {
        line(&format!("@@figure {figure}"));
    }

    /// Text for the log of the boot, not a result.
    pub fn log(&self, text: &str) {
        text.lines().for_each(|text| line(&format!("@@log {text}")));
    }

    pub fn end(&self) {
        line("@@end");
    }
}

fn line(text: &str) {
    let mut stdout = std::io::stdout().lock();
    // Where the result port is gone, nobody is left to tell.
    let _ = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " | ")
}
