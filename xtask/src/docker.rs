//! A Docker daemon to work with: the one that runs, or one that we start and stop.
//!
//! Invariant: a dockerd that was running before is left alone; one that we started is ended by its pid,
//! and has gone when the handle is dropped.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

const SOCKET: &str = "/var/run/docker.sock";
/// A first start makes its storage and its bridge; on a slow disk that takes a while.
const START: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

pub struct Docker {
    ours: Option<Child>,
}

impl Docker {
    pub fn socket(&self) -> &Path {
        Path::new(SOCKET)
    }
}

pub fn find_or_start(root: &Path) -> Result<Docker> {
    if answers() {
        return Ok(Docker { ours: None });
    }
    let log_path = root.join("target/dockerd.log");
    std::fs::create_dir_all(root.join("target")).context("cannot make target/")?;
    let log = File::create(&log_path).with_context(|| format!("cannot write {}", log_path.display()))?;
    let dockerd = crate::sh::find("dockerd").context("cannot start Docker: there is no dockerd; install docker.io")?;
    eprintln!("starting dockerd (its log is {}; it is stopped at the end)", log_path.display());
    let child = Command::new(dockerd)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Its own group: Ctrl-C is for the daemon, whose last act is to remove its containers.
        .process_group(0)
        .spawn()
        .context("cannot start dockerd")?;
    let mut docker = Docker { ours: Some(child) };
    docker.wait_until_ready(&log_path)?;
    Ok(docker)
}

impl Docker {
    fn wait_until_ready(&mut self, log: &Path) -> Result<()> {
        let deadline = Instant::now() + START;
        while !answers() {
            let ended = self.ours.as_mut().map(Child::try_wait).transpose()?.flatten();
            if let Some(status) = ended {
                self.ours = None;
                bail!("dockerd ended at its start ({status}); the end of {}:\n{}", log.display(), tail(log));
            }
            if Instant::now() > deadline {
                bail!(
                    "dockerd did not answer within {} s; the end of {}:\n{}",
                    START.as_secs(),
                    log.display(),
                    tail(log)
                );
            }
            pause();
        }
        Ok(())
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let Some(mut child) = self.ours.take() else { return };
        let pid = rustix::process::Pid::from_child(&child);
        eprintln!("stopping the dockerd that this run started (pid {pid})");
        if let Err(e) = rustix::process::kill_process(pid, rustix::process::Signal::TERM) {
            eprintln!("cannot stop dockerd: {e}; end process {pid} yourself");
            return;
        }
        if let Err(e) = child.wait() {
            eprintln!("cannot wait for dockerd: {e}");
        }
    }
}

/// Docker's own way to ask whether it is ready.
fn answers() -> bool {
    let ping = || -> std::io::Result<bool> {
        let mut socket = UnixStream::connect(SOCKET)?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        socket.write_all(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")?;
        let mut answer = String::new();
        socket.take(4096).read_to_string(&mut answer)?;
        Ok(answer.lines().next().is_some_and(|status| status.contains(" 200 ")))
    };
    // No socket, or one that nobody listens on: Docker is not there.
    ping().unwrap_or(false)
}

#[expect(clippy::disallowed_methods, reason = "dockerd tells nobody when it is ready")]
fn pause() {
    std::thread::sleep(LOOK_AGAIN);
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(4)..].join("\n")
}
