//! Reads the policies again when their files change.
//!
//! Invariant: a set of files that is not whole is never in force. The directory must have been quiet
//! for a second, so that files which are copied one after the other are read together; a set that
//! does not load changes nothing and is told of once.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, Event, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::App;

/// Silence after which the files are taken to be whole.
const QUIET: Duration = Duration::from_secs(1);
/// Without a watch the directory is looked at this often.
const LOOK: Duration = Duration::from_secs(10);

pub(super) async fn follow(app: Arc<App>, cancel: CancellationToken) {
    let dir = app.paths.policy_dir.clone();
    let (news, mut heard) = mpsc::channel(1);
    let mut watch = watch(&dir, news.clone());
    let mut last = fingerprint(&dir);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = heard.recv() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
        let mut now = fingerprint(&dir);
        if now == last {
            continue;
        }
        // Until two looks, a second apart, see the same.
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(QUIET) => {}
            }
            let again = fingerprint(&dir);
            if again == now {
                break;
            }
            now = again;
        }
        last = now;
        // A directory that came, or came back, has no watch yet.
        watch = self::watch(&dir, news.clone()).or(watch);
        let reloaded = tokio::task::spawn_blocking({
            let app = app.clone();
            move || reload(&app)
        });
        if let Err(e) = reloaded.await {
            tracing::error!("reading the policies again failed: {e}");
        }
    }
}

/// The daemon's one way to read them again.
pub(super) fn reload(app: &App) {
    match app.gates.reload() {
        Ok(()) => tracing::info!(dir = %app.paths.policy_dir.display(), "policies reloaded"),
        Err(e) => tracing::error!("the policies were not reloaded, the former ones stay in force: {e}"),
    }
}

/// Of the directory and the one above, where it may come to be. `None` where nothing can be watched.
fn watch(dir: &Path, news: mpsc::Sender<()>) -> Option<RecommendedWatcher> {
    let heard = move |event: notify::Result<Event>| {
        // A look opens the directory and the files, and would be followed by the next one for ever.
        if event.is_ok_and(|event| is_only_read(&event.kind)) {
            return;
        }
        // One word waits at most: what it says is only "look".
        let _ = news.try_send(());
    };
    let mut watcher = notify::recommended_watcher(heard)
        .inspect_err(|e| tracing::warn!("the policies are looked at every {} s: {e}", LOOK.as_secs()))
        .ok()?;
    for dir in [Some(dir), dir.parent()].into_iter().flatten() {
        if let Err(e) = watcher.watch(dir, RecursiveMode::NonRecursive) {
            tracing::debug!(dir = %dir.display(), "not watched: {e}");
        }
    }
    Some(watcher)
}

fn is_only_read(kind: &EventKind) -> bool {
    matches!(kind, EventKind::Access(access) if *access != AccessKind::Close(AccessMode::Write))
}

/// Names, modes and contents of the policy files.
fn fingerprint(dir: &Path) -> Option<[u8; 32]> {
    use std::os::unix::fs::MetadataExt as _;
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir).ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "cedar"));
    files.sort();
    let mut digest = Sha256::new();
    for path in files {
        let mode = std::fs::metadata(&path).map(|meta| (meta.mode(), meta.len())).unwrap_or_default();
        digest.update(path.as_os_str().as_encoded_bytes());
        digest.update(format!("\0{mode:?}\0"));
        // What cannot be read, or is too long to be a policy, is the loader's to tell.
        if mode.1 <= 1 << 20 {
            digest.update(Sha256::digest(std::fs::read(&path).unwrap_or_default()));
        }
    }
    Some(digest.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_is_no_news_and_a_change_is() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.cedar"), "permit").unwrap();
        let (sender, events) = std::sync::mpsc::channel();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let _the_test_has_ended = sender.send(event.unwrap());
        })
        .unwrap();
        watcher.watch(dir.path(), RecursiveMode::NonRecursive).unwrap();
        let next = || events.recv_timeout(Duration::from_secs(30)).unwrap();
        fingerprint(dir.path());
        std::fs::write(dir.path().join("b.cedar"), "forbid").unwrap();
        let change = loop {
            let event = next();
            if event.paths.iter().any(|path| path.ends_with("b.cedar")) {
                break event;
            }
            assert!(is_only_read(&event.kind), "the daemon would look for ever: {event:?}");
        };
        assert!(!is_only_read(&change.kind), "{change:?}");
    }

    #[test]
    fn any_change_of_a_policy_file_is_seen_and_no_other_file_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.cedar");
        let mut seen = vec![fingerprint(&dir.path().join("missing")), fingerprint(dir.path())];
        std::fs::write(&path, "permit").unwrap();
        seen.push(fingerprint(dir.path()));
        std::fs::write(&path, "forbid").unwrap();
        seen.push(fingerprint(dir.path()));
        std::fs::rename(&path, dir.path().join("b.cedar")).unwrap();
        seen.push(fingerprint(dir.path()));
        let count = seen.len();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), count);
        let before = fingerprint(dir.path());
        std::fs::write(dir.path().join("notes.txt"), "x").unwrap();
        assert_eq!(fingerprint(dir.path()), before);
    }
}
