//! Running other programs: what failed is always named, with its last words.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

/// Runs it with its output on our stderr; fails if it does.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).stdout(std::io::stderr()).status().with_context(|| cannot(command))?;
    ensure!(status.success(), "{} failed ({status}); its own words stand above", shown(command));
    Ok(())
}

/// Like [`run`], but what it prints on stdout is shown on a terminal only.
pub fn run_quietly(command: &mut Command) -> Result<()> {
    if std::io::stderr().is_terminal() {
        return run(command);
    }
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status().with_context(|| cannot(command))?;
    ensure!(status.success(), "{} failed ({status}); its own words stand above", shown(command));
    Ok(())
}

/// Runs it silently and gives what it printed.
pub fn capture(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| cannot(command))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
        let last = lines[lines.len().saturating_sub(10)..].join("\n  ");
        bail!("{} failed ({}):\n  {last}", shown(command), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The cargo that runs us, so that a toolchain override holds for what we build too.
pub fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// The first program of that name in `PATH`, or where root's programs are even if `PATH` leaves them out.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    dirs.map(|dir| dir.join(program)).find(|file| file.is_file())
}

fn cannot(command: &Command) -> String {
    format!("cannot run {}", shown(command))
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let line = words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    format!("`{line}`")
}
