//! Keeps the kernel's knowledge of client configs current, and writes down who changes them.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::App;
use crate::admission::{ClientWatch, ConfigChange};
use crate::audit::{Entry, Flood, Kind, Outcome};
use crate::cli::out;
use crate::kernel::KernelEvent;
use crate::kernel::shadow::Shadows;

/// Bytes of a client's environment that are searched for its HOME.
const MAX_ENVIRONMENT: u64 = 1 << 20;

/// Records of changes of one file in a minute; more are counted.
const MOST_CHANGES: u32 = 30;

/// Gives the kernel each scan, from now on.
pub(super) fn teach(clients: &ClientWatch, shadows: &Arc<Shadows>) {
    let shadows = shadows.clone();
    // What one user's config says must not keep the daemon from guarding everybody else.
    clients.on_scan(move |scan| match shadows.learn(scan) {
        Ok(entries) => tracing::debug!(entries, "client configs read"),
        Err(e) => tracing::error!("the kernel does not know the newest client configs: {e}"),
    });
}

/// Writes down who changed which entry.
pub(super) async fn follow_changes(app: Arc<App>, cancel: CancellationToken) {
    let mut changes = app.clients.changes();
    let written = Arc::new(Flood::new(MOST_CHANGES));
    let earlier = app.clients.recent_changes();
    for change in &earlier {
        write_down(&app, &written, change.clone()).await;
    }
    loop {
        let change = tokio::select! {
            () = cancel.cancelled() => return,
            change = changes.recv() => change,
        };
        match change {
            Ok(change) if earlier.iter().any(|known| Arc::ptr_eq(known, &change)) => {}
            Ok(change) => write_down(&app, &written, change).await,
            Err(RecvError::Lagged(count)) => {
                tracing::error!("{count} changes of client configs came too fast to be written down");
            }
            Err(RecvError::Closed) => return,
        }
    }
}

async fn write_down(app: &Arc<App>, written: &Arc<Flood<PathBuf>>, change: Arc<ConfigChange>) {
    let Some(unwritten) = written.admit(change.path.clone(), Instant::now()) else { return };
    if unwritten > 0 {
        tracing::warn!("{unwritten} earlier changes of {} were not written down", change.path.display());
    }
    let audit = app.audit.clone();
    let done = tokio::task::spawn_blocking(move || {
        let what = out::visible(&change.to_string());
        if change.past_the_door {
            tracing::error!("AN ENTRY THAT LED THROUGH THE DOOR LEADS PAST IT NOW: {what}");
        } else {
            tracing::warn!("{what}");
        }
        let uid = change.writers.last().and_then(|writer| writer.uid);
        let actor = uid.map_or_else(|| "unknown".to_owned(), |uid| format!("uid:{uid}"));
        let detail = serde_json::to_value(&*change).unwrap_or_default();
        audit.record(Entry::new(Kind::Config, Outcome::Observed, actor).reason(what).detail(detail))
    })
    .await;
    match done {
        Ok(Ok(_)) => {}
        Ok(Err(e)) => tracing::error!("a change of a client config could not be written down: {e}"),
        Err(e) => tracing::error!("writing down a change of a client config failed: {e}"),
    }
}

/// A client that was just started tells by its HOME and working directory which configs it will
/// read: those are known before it has come far enough to start a server.
pub(super) fn learn_from(app: &App, event: &KernelEvent) {
    let project = event.cwd.is_absolute().then_some(event.cwd.as_path());
    app.clients.client_started(&homes_of(event.pid), project);
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
