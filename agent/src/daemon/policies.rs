//! Reads the policies again when their files change.
//!
//! Invariant: a set of files that is not whole is never in force. The directory must have been quiet
//! for a second, so that files which are copied one after the other are read together; a set that
//! does not load changes nothing and is told of once.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::App;
use super::dir_watch::DirWatch;

/// Silence after which the files are taken to be whole.
const QUIET: Duration = Duration::from_secs(1);
/// Without a watch the directory is looked at this often.
const LOOK: Duration = Duration::from_secs(10);

pub(super) async fn follow(app: Arc<App>, cancel: CancellationToken) {
    let dir = app.paths.policy_dir.clone();
    let watch = DirWatch::new()
        .inspect_err(|e| tracing::warn!("the policies are looked at every {} s: {e}", LOOK.as_secs()))
        .ok();
    let mut last = fingerprint(&dir);
    loop {
        // A directory that came, or came back, has no watch yet.
        watch_both(watch.as_ref(), &dir);
        tokio::select! {
            () = cancel.cancelled() => return,
            () = heard(watch.as_ref()) => {}
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

/// The directory, and the one above, where it may come to be.
fn watch_both(watch: Option<&DirWatch>, dir: &Path) {
    let Some(watch) = watch else { return };
    for dir in [Some(dir), dir.parent()].into_iter().flatten() {
        if let Err(e) = watch.add(dir) {
            tracing::debug!(dir = %dir.display(), "not watched: {e}");
        }
    }
}

/// Never without a watch: then only the clock says when to look.
async fn heard(watch: Option<&DirWatch>) {
    let Some(watch) = watch else { return std::future::pending().await };
    if let Err(e) = watch.changed().await {
        tracing::warn!("the policies are looked at every {} s: {e}", LOOK.as_secs());
        std::future::pending::<()>().await;
    }
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
