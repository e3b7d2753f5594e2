//! What servers wrote to their standard error, the last that ended included.
//!
//! The words of containers that are gone lie in files too, one for each server, and are there again after a restart
//! of the daemon. Invariant: a file is whole, root's alone, never longer than what is kept, and has no secret of the
//! server's definition in it.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Hub;
use super::slots::{Holder, Key};
use crate::sandbox::StderrLog;

/// Containers of a server that are remembered after their end, and bytes of each one's words.
const KEPT: usize = 2;
const KEPT_BYTES: usize = 16 << 10;
/// No file is longer: each byte of a log may need six in JSON.
const FILE_BYTES: u64 = (KEPT * KEPT_BYTES * 6 + (64 << 10)) as u64;

/// The end of what one container's server wrote to its standard error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerLog {
    pub container: String,
    /// The agent, or its session, that had it for itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
    pub running: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
    /// Oldest first.
    pub lines: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    pub at: Timestamp,
    pub why: String,
}

struct Past {
    holder: Option<String>,
    container: String,
    stderr: StderrLog,
    ended: Ended,
}

impl Past {
    fn shown(&self, lines: usize) -> ContainerLog {
        ContainerLog {
            container: self.container.clone(),
            holder: self.holder.clone(),
            running: false,
            ended: Some(self.ended.clone()),
            lines: self.stderr.tail(lines),
        }
    }
}

/// A server's part as it lies in its file.
#[derive(Serialize, Deserialize)]
struct Kept {
    server: String,
    containers: Vec<ContainerLog>,
}

/// The words of containers that are gone.
#[derive(Default)]
pub(super) struct Logs {
    past: Mutex<HashMap<String, VecDeque<Past>>>,
    dir: OnceLock<PathBuf>,
}

impl Logs {
    fn past(&self) -> MutexGuard<'_, HashMap<String, VecDeque<Past>>> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what lies in `dir`, and writes there from now on.
    fn keep_in(&self, dir: &Path) -> io::Result<()> {
        match std::fs::DirBuilder::new().mode(0o700).create(dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            match read(&path) {
                Ok(kept) => {
                    let of_log = |log: ContainerLog| {
                        let stderr = StderrLog::of_lines(&log.lines);
                        Some(Past { holder: log.holder, container: log.container, stderr, ended: log.ended? })
                    };
                    self.past().insert(kept.server, kept.containers.into_iter().filter_map(of_log).collect());
                }
                Err(e) => {
                    tracing::warn!(file = %path.display(), "a server's old log cannot be read and is removed: {e}");
                    std::fs::remove_file(&path)?;
                }
            }
        }
        let _first_wins = self.dir.set(dir.to_path_buf());
        Ok(())
    }

    /// For a container that is gone: its words take little memory, and outlive the daemon.
    pub fn settle(&self, server: &str, stderr: &StderrLog) {
        stderr.shrink(KEPT_BYTES);
        let Some(dir) = self.dir.get() else { return };
        let past = self.past();
        let Some(of_server) = past.get(server) else { return };
        let containers = of_server.iter().map(|past| past.shown(usize::MAX)).collect();
        if let Err(e) = write(&file(dir, server), &Kept { server: server.into(), containers }) {
            tracing::warn!(server, "its log is lost when the daemon ends: {e}");
        }
    }

    /// Remembers a container that ends. What it still writes is seen too, until [`Logs::settle`].
    pub fn keep(&self, key: &Key, container: &str, stderr: &StderrLog, why: String) {
        let mut past = self.past();
        let of_server = past.entry(key.server.clone()).or_default();
        let ended = Ended { at: Timestamp::now(), why };
        let container = container.to_owned();
        of_server.push_back(Past { holder: shown(&key.holder), container, stderr: stderr.clone(), ended });
        while of_server.len() > KEPT {
            of_server.pop_front();
        }
    }

    pub fn forget(&self, server: &str) {
        self.past().remove(server);
        if let Some(dir) = self.dir.get() {
            // There may never have been one.
            let _ = std::fs::remove_file(file(dir, server));
        }
    }
}

/// Names of servers are an operator's words, names of files are not.
fn file(dir: &Path, server: &str) -> PathBuf {
    dir.join(format!("{}.json", hex::encode(&Sha256::digest(server)[..16])))
}

fn read(path: &Path) -> io::Result<Kept> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(FILE_BYTES).read_to_string(&mut text)?;
    Ok(serde_json::from_str(&text)?)
}

fn write(path: &Path, kept: &Kept) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = std::fs::File::options().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
    file.write_all(&serde_json::to_vec(kept)?)?;
    std::fs::rename(&new, path)
}

fn shown(holder: &Holder) -> Option<String> {
    (*holder != Holder::Everybody).then(|| holder.to_string())
}

impl Hub {
    /// Keeps the words of containers that are gone in files of this directory, and knows those that lie there.
    pub fn keep_logs_in(&self, dir: &Path) -> io::Result<()> {
        self.logs.keep_in(dir)
    }

    /// Remembers what a container said that its review ended, as if it had served.
    pub fn keep_words_of_review(&self, server: &str, container: &str, stderr: &StderrLog, why: String) {
        self.logs.keep(&Key { server: server.into(), holder: Holder::Everybody }, container, stderr, why);
        self.logs.settle(server, stderr);
    }

    /// The last lines of a server's containers: of those that ended last, then of those that run.
    pub fn logs(&self, server: &str, lines: usize) -> Vec<ContainerLog> {
        let of_past = |past: &Past| past.shown(lines);
        let mut logs: Vec<ContainerLog> = self.logs.past().get(server).into_iter().flatten().map(of_past).collect();
        for slot in self.slots.of_server(server) {
            if let Some(running) = &slot.state().running {
                logs.push(ContainerLog {
                    container: running.upstream.container_id().to_owned(),
                    holder: shown(&slot.key.holder),
                    running: true,
                    ended: None,
                    lines: running.upstream.stderr().tail(lines),
                });
            }
        }
        logs
    }
}
