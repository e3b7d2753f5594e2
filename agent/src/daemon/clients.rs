//! Keeps the kernel's knowledge of client configs current.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::App;
use crate::kernel::KernelEvent;

/// Bytes of a client's environment that are searched for its HOME.
const MAX_ENVIRONMENT: u64 = 1 << 20;

/// Gives each new scan to the kernel.
pub(super) async fn follow_configs(app: Arc<App>, cancel: CancellationToken) {
    let mut scans = app.clients.subscribe();
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = scans.changed() => if changed.is_err() { return },
        }
        let scan = scans.borrow_and_update().clone();
        match app.shadows.learn(&scan) {
            Ok(entries) => tracing::debug!(entries, "client configs read"),
            Err(e) => tracing::error!("the kernel does not know the newest client configs: {e}"),
        }
    }
}

/// A client that was just started tells by its HOME and working directory which configs it will
/// read: those are known before it has come far enough to start a server.
pub(super) fn learn_from(app: &App, event: &KernelEvent) {
    for home in homes_of(event.pid) {
        app.clients.add_home(&home);
    }
    if event.cwd.is_absolute() {
        app.clients.add_project(&event.cwd);
    }
}

/// `HOME`, and the directory that Claude Code reads instead of it where one is set.
fn homes_of(pid: u32) -> Vec<PathBuf> {
    use std::io::Read;
    let mut environment = Vec::new();
    let read = std::fs::File::open(format!("/proc/{pid}/environ"))
        .and_then(|file| file.take(MAX_ENVIRONMENT).read_to_end(&mut environment));
    if read.is_err() {
        // The process is gone: then it reads no config either.
        return Vec::new();
    }
    environment
        .split(|b| *b == 0)
        .filter_map(|variable| variable.strip_prefix(b"HOME=").or_else(|| variable.strip_prefix(b"CLAUDE_CONFIG_DIR=")))
        .map(|home| PathBuf::from(std::ffi::OsStr::from_bytes(home)))
        .filter(|home| home.is_absolute())
        .collect()
}
