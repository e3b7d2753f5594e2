//! `cargo xtask run`: from a bare host to a daemon in the foreground, with its state below the checkout.
//!
//! Invariant: the daemon gets every signal that asks us to end, and we outlive it, so that a dockerd that
//! we started is still there when it removes its containers.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};

use anyhow::{Context as _, Result, ensure};
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::{docker, ebpf, images, needs, sh};

pub fn run(root: &Path, yes: bool, flags: &[String]) -> Result<ExitCode> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "cannot run the daemon: eBPF needs root; run `sudo -E env PATH=$PATH cargo xtask run`"
    );
    needs::install(&needs::for_running(), yes)?;
    ebpf::build(root)?;
    let daemon = build(root)?;
    let docker = docker::find_or_start(root)?;
    images::base_image(root, docker.socket())?;
    foreground(&daemon, root, flags)
}

fn build(root: &Path) -> Result<PathBuf> {
    eprintln!("building lazaret (the first time takes minutes)");
    // The whole workspace decides on features, as in `cargo xtask test`, so that nothing is built twice.
    sh::run(sh::cargo().current_dir(root).args(["build", "--workspace", "--bin", "lazaret"]))?;
    Ok(root.join("target/debug/lazaret"))
}

fn foreground(daemon: &Path, root: &Path, flags: &[String]) -> Result<ExitCode> {
    // Before the start: a signal that comes in between must not leave a daemon behind.
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGCHLD]).context("cannot catch signals")?;
    let mut child = Command::new(daemon)
        .current_dir(root)
        .arg("daemon")
        .arg("--state-dir")
        .arg(root.join("state/lib"))
        .arg("--run-dir")
        .arg(root.join("state/run"))
        .arg("--detach-on-exit")
        .args(flags)
        .spawn()
        .with_context(|| format!("cannot start {}", daemon.display()))?;
    for signal in signals.forever() {
        if let Some(status) = child.try_wait().context("cannot wait for the daemon")? {
            let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
            return Ok(ExitCode::from(code));
        }
        // Ctrl-C reaches the daemon by the terminal itself.
        if signal == SIGTERM || (signal == SIGINT && !std::io::stdin().is_terminal()) {
            stop(&child);
        }
    }
    Ok(ExitCode::FAILURE)
}

fn stop(child: &Child) {
    let pid = rustix::process::Pid::from_child(child);
    if let Err(e) = rustix::process::kill_process(pid, rustix::process::Signal::TERM) {
        eprintln!("cannot pass the signal on to the daemon (pid {pid}): {e}");
    }
}
