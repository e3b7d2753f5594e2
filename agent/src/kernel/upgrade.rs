//! Notices that a trusted executable is replaced: an upgrade puts another file under the same name.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use notify::event::{AccessKind, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Guard;

/// Looks again whenever something happens under the name of a trusted executable.
pub async fn follow_upgrades(guard: Arc<Guard>, cancel: CancellationToken) {
    let (sender, mut changes) = mpsc::channel(1);
    let watcher = watch(guard.trusted_paths(), sender);
    let _watcher = match watcher {
        Ok(watcher) => watcher,
        Err(e) => {
            return tracing::error!(
                "cannot see when Lazaret or Docker is upgraded: {e}; restart the daemon after every upgrade"
            );
        }
    };
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = changes.recv() => if changed.is_none() { return },
        }
        let guard = guard.clone();
        let refreshed = tokio::task::spawn_blocking(move || guard.refresh_trusted()).await;
        if let Ok(Err(e)) = refreshed {
            tracing::error!("an executable was replaced, and the kernel does not know the new one: {e}");
        }
    }
}

fn watch(paths: &[PathBuf], sender: mpsc::Sender<()>) -> notify::Result<RecommendedWatcher> {
    let names: HashSet<PathBuf> = paths.iter().filter_map(|path| path.file_name()).map(PathBuf::from).collect();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| matters(&event, &names)) {
            // One that waits already stands for all.
            let _ = sender.try_send(());
        }
    })?;
    let dirs: HashSet<&Path> = paths.iter().filter_map(|path| path.parent()).filter(|dir| dir.is_dir()).collect();
    for dir in dirs {
        watcher.watch(dir, RecursiveMode::NonRecursive)?;
    }
    Ok(watcher)
}

fn matters(event: &notify::Event, names: &HashSet<PathBuf>) -> bool {
    let read = matches!(event.kind, EventKind::Access(kind) if !matches!(kind, AccessKind::Close(_)));
    // An event without paths says that others were lost.
    !read
        && (event.paths.is_empty()
            || event.paths.iter().any(|path| path.file_name().is_some_and(|name| names.contains(Path::new(name)))))
}
