//! The floor: eBPF on exec, on the MCP handshake and on connect.
//!
//! Owns everything that knows aya: loading, proving, maps and events. The verdict is made in the
//! kernel and never waits for this module; what comes out here is news and the state of the guard.
//! Nothing is reported as active that was not seen firing.

mod btf;
pub mod candidates;
mod catalogue;
mod door;
pub mod endpoints;
mod entries;
mod event;
mod events;
mod fmod_ret;
mod guard;
#[cfg(test)]
mod handshake_tests;
pub mod hold;
mod hooks;
#[cfg(test)]
mod http_tests;
mod load;
mod maps;
mod offsets;
mod pin;
mod protect;
mod prove;
mod report;
mod running;
mod scope;
pub mod shadow;
mod sys;
pub mod tree;
mod trust;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

pub use crate::config::{Evidence, Mode, Scope};
pub use door::OpenDoor;
pub use event::{Action, Ancestor, EventKind, KernelEvent};
pub use events::Batch;
pub use guard::Guard;
pub use pin::detach_pinned;
pub use protect::protect_self;
pub use report::{Hook, KernelReport};
pub(crate) use sys::boot_clock;

/// What a guard is started with.
#[derive(Debug, Clone)]
pub struct KernelSettings {
    pub mode: Mode,
    /// A mode for one kind of evidence that differs from `mode`.
    pub evidence: BTreeMap<Evidence, Mode>,
    /// What happens to connects of processes below an MCP client that nothing convicts.
    pub connect_below_clients: Mode,
    /// Sockets of container engines, beside those that are known.
    pub engines: Vec<PathBuf>,
    pub scope: Scope,
    /// Directory in a bpffs where links and maps are pinned.
    pub bpf_dir: PathBuf,
    pub pin: bool,
    /// Executables whose processes count as the door while they run: the lazaret binary, and Docker's,
    /// where they belong to root. Paths that do not exist are skipped.
    pub trusted: Vec<PathBuf>,
}

/// How strong the guard is, by what fired when it was proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// Exec, handshake, and a synchronous deny on connect. Linux 5.17, `bpf` in the LSM list.
    Lsm,
    /// The same by changing what kernel functions return; a kill on connect where that cannot be. Linux 5.17.
    Tracing,
    /// Exec, connects by cgroup, handshakes by tracepoints: in pipes only while a candidate is open.
    Tracepoint,
    /// Nothing is attached.
    ObserveOnly,
}

impl std::fmt::Display for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Backend::Lsm => "lsm",
            Backend::Tracing => "tracing",
            Backend::Tracepoint => "tracepoint",
            Backend::ObserveOnly => "observe-only",
        })
    }
}

/// One stdio entry of a client config that is not the connector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigEntry {
    pub id: u64,
    pub command: String,
    pub args: Vec<String>,
    /// Whose processes it convicts; `None`: everybody's.
    pub uid: Option<u32>,
}

#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error(
        "cannot use the scope {scope}: {reason}; name a directory of the cgroup v2 hierarchy that exists, a uid, or host"
    )]
    Scope { scope: String, reason: String },
    #[error("cannot pin kernel objects at {path}: {reason}; mount a bpffs there or set [kernel] pin = false")]
    Pin { path: PathBuf, reason: String },
    #[error(
        "cannot guard with {path}: another daemon does; stop that one, or give this one its own --run-dir and LAZARET_BPF_DIR"
    )]
    InUse { path: PathBuf },
    #[error("cannot write the kernel map {map}: {source}; `lazaret doctor` shows the state of the guard")]
    Map { map: &'static str, source: std::io::Error },
    #[error("the kernel cannot hold {count} config entries, at most {max} fit; remove entries from client configs")]
    TooManyEntries { count: usize, max: usize },
    #[error("cannot signal process {pid}: {source}; it may have ended")]
    Signal { pid: u32, source: std::io::Error },
    #[error("cannot have the kernel judge what runs already: {source}; `lazaret doctor` shows the state of the guard")]
    Judge { source: std::io::Error },
    #[error("cannot {action}: no kernel programs are loaded ({reason}); `lazaret doctor` says how to mend it")]
    NotLoaded { action: &'static str, reason: String },
    #[error("the built-in launcher catalogue is wrong: {0}; this is a fault of this build")]
    Catalogue(String),
}

/// The fuzz target of the event decoder.
#[cfg(any(test, fuzzing))]
pub fn fuzz_event(bytes: &[u8]) {
    let Ok(event) = event::decode(bytes, jiff::Timestamp::UNIX_EPOCH) else { return };
    // Bytes that are no text are shown as one sign of three bytes each.
    let words: usize = event.argv.iter().map(|word| word.len() + 1).sum();
    assert!(words <= 3 * bytes.len() + 1);
    assert!(event.argv.iter().chain([&event.comm]).all(|word| !word.contains('\0')));
    for path in [&event.exe, &event.cwd] {
        let text = path.to_string_lossy();
        assert!(text.is_empty() || text.starts_with('/') || text.starts_with('…'), "{text:?}");
        assert!(!text.contains('\0') && text.len() <= 3 * bytes.len());
    }
    assert!(event.ancestors.len() <= lazaret_common::event::ANCESTORS && event.evidence.len() <= 4);
    // A door on loopback is no excuse for anything but a connect that was let go.
    if event.is_use_of(Some(std::net::SocketAddr::from(([127, 0, 0, 1], 7717)))) {
        assert!(event.kind == EventKind::Connect && event.action == Action::Observed && event.evidence.len() == 1);
    }
}
