//! Notices that a trusted executable is replaced: an upgrade puts another file under the same name.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::dir_watch::{Changed, DirWatch};
use crate::kernel::Guard;

/// Looks again whenever something happens under the name of a trusted executable.
pub(super) async fn follow(guard: Arc<Guard>, cancel: CancellationToken) {
    let paths = guard.trusted_paths();
    let names: HashSet<&OsStr> = paths.iter().filter_map(|path| path.file_name()).collect();
    let watch = match watch(paths) {
        Ok(watch) => watch,
        Err(e) => return blind(&e),
    };
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            changes = watch.changed() => match changes {
                Ok(changes) if !matters(&changes, &names) => continue,
                Ok(_) => {}
                Err(e) => return blind(&e),
            },
        }
        let guard = guard.clone();
        let refreshed = tokio::task::spawn_blocking(move || guard.refresh_trusted()).await;
        if let Ok(Err(e)) = refreshed {
            tracing::error!("an executable was replaced, and the kernel does not know the new one: {e}");
        }
    }
}

fn blind(e: &io::Error) {
    tracing::error!("cannot see when Lazaret or Docker is upgraded: {e}; restart the daemon after every upgrade");
}

fn watch(paths: &[PathBuf]) -> io::Result<DirWatch> {
    let watch = DirWatch::new()?;
    let dirs: HashSet<&Path> = paths.iter().filter_map(|path| path.parent()).filter(|dir| dir.is_dir()).collect();
    for dir in dirs {
        watch.add(dir)?;
    }
    Ok(watch)
}

fn matters(changes: &[Changed], names: &HashSet<&OsStr>) -> bool {
    changes.iter().any(|name| name.as_deref().is_none_or(|name| names.contains(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trusted_name_and_what_was_lost_matter_and_other_names_do_not() {
        let names = HashSet::from([OsStr::new("lazaret"), OsStr::new("dockerd")]);
        assert!(!matters(&[Some("sleep".into()), Some("flock".into())], &names));
        assert!(matters(&[Some("sleep".into()), Some("dockerd".into())], &names));
        assert!(matters(&[None], &names));
    }
}
