//! What `/proc` still knows of a process that the kernel reported.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::super::{Action, KernelEvent, tree};
use super::{SeenProcess, ShadowSpawn};

/// Executables larger than this are not hashed.
const MAX_EXE_BYTES: u64 = 1 << 30;
/// Digests that are remembered.
const MAX_DIGESTS: usize = 1024;

/// What `/proc` says of the event's process. One that started after the event has only its pid.
pub(super) fn seen(event: &KernelEvent) -> SeenProcess {
    let started = started(event.pid).filter(|ticks| started_before(*ticks, event.at));
    SeenProcess { pid: event.pid, started, held: event.action == Action::Held, shadow: event.shadow }
}

fn started_before(ticks: u64, at: Timestamp) -> bool {
    // USER_HZ is 100 on every architecture that this is built for (proc(5)).
    let Some(uptime) = std::fs::read_to_string("/proc/uptime")
        .ok()
        .and_then(|text| text.split_ascii_whitespace().next()?.parse::<f64>().ok())
    else {
        return false;
    };
    let age = uptime - ticks as f64 / 100.0;
    let since_event = Timestamp::now().duration_since(at).as_secs_f64();
    // Both clocks are read to hundredths of a second.
    age + 0.05 >= since_event
}

/// The record's processes that still run and are still the same.
pub(super) fn alive(shadow: &ShadowSpawn) -> impl Iterator<Item = &SeenProcess> {
    shadow.processes.iter().filter(|p| p.started.is_some() && started(p.pid) == p.started)
}

/// Clock ticks since boot, unless the process is a zombie.
fn started(pid: u32) -> Option<u64> {
    tree::stat(pid).filter(|stat| !matches!(stat.state, 'Z' | 'X')).map(|stat| stat.process.started)
}

/// Digests of executables by what tells one content of a file from another.
#[derive(Default)]
pub(super) struct Digests {
    /// Held while hashing, so that a burst of starts of one executable hashes it once.
    known: Mutex<HashMap<FileVersion, String>>,
}

/// Device, inode, size, and the times of the last change of content and of metadata.
type FileVersion = (u64, u64, u64, i64, i64, i64, i64);

impl Digests {
    /// SHA-256 of the executable, if the file at its path still is the one that was started.
    pub(super) fn of(&self, event: &KernelEvent) -> Option<String> {
        // Whatever stands at the path by now, opening it must not wait for a writer.
        let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&event.exe).ok()?;
        let meta = file.metadata().ok()?;
        if meta.ino() != event.exe_inode || !meta.is_file() || meta.len() > MAX_EXE_BYTES {
            return None;
        }
        let version =
            (meta.dev(), meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec());
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(digest) = known.get(&version) {
            return Some(digest.clone());
        }
        let digest = sha256(&mut file)?;
        if known.len() >= MAX_DIGESTS {
            known.clear();
        }
        known.insert(version, digest.clone());
        Some(digest)
    }
}

fn sha256(file: &mut std::fs::File) -> Option<String> {
    let mut hash = Sha256::new();
    let mut chunk = vec![0; 1 << 16];
    loop {
        match file.read(&mut chunk).ok()? {
            0 => return Some(format!("sha256:{}", hex::encode(hash.finalize()))),
            n => hash.update(&chunk[..n]),
        }
    }
}

pub(super) fn user_name(uid: u32) -> Option<String> {
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}
