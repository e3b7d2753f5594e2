//! Putting `admin.sock` where it belongs without losing anything that is there.

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use tokio::net::UnixListener;

use super::peer::GROUP;
use super::users;

#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error(
        "cannot open the operators' socket {path}: {what} is there already, and nothing was changed; move it away, or choose another --run-dir"
    )]
    Foreign { path: PathBuf, what: &'static str },
    #[error(
        "cannot open the operators' socket {path}: another daemon answers on it; stop that one, or give this one its own --run-dir"
    )]
    InUse { path: PathBuf },
    #[error(
        "cannot open the operators' socket {path}: {source}; check that the directory exists and is writable, and that the path is shorter than 100 bytes"
    )]
    Io { path: PathBuf, source: std::io::Error },
}

/// Listens at `path`: `0660 root:lazaret` where the group exists, `0600` otherwise. A socket that
/// nobody answers on is what a dead daemon left and is replaced; anything else is left alone.
pub fn listen(path: &Path) -> Result<UnixListener, SocketError> {
    let io = |source| SocketError::Io { path: path.into(), source };
    clear(path)?;
    // Bound under another name and renamed, so that nobody meets it before its mode is right.
    let fresh = path.with_extension(format!("sock.{}", std::process::id()));
    remove_if_there(&fresh).map_err(io)?;
    let listener = UnixListener::bind(&fresh).map_err(io)?;
    let placed = restrict(&fresh).and_then(|()| std::fs::rename(&fresh, path));
    if let Err(e) = placed {
        remove_if_there(&fresh).map_err(io)?;
        return Err(io(e));
    }
    Ok(listener)
}

/// Takes away a dead socket; refuses to take away anything else.
fn clear(path: &Path) -> Result<(), SocketError> {
    let io = |source| SocketError::Io { path: path.into(), source };
    let kind = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta.file_type(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(io(e)),
    };
    let foreign = |what| Err(SocketError::Foreign { path: path.into(), what });
    if kind.is_dir() {
        return foreign("a directory");
    }
    if kind.is_symlink() {
        return foreign("a symbolic link");
    }
    if !kind.is_socket() {
        return foreign("a file that is no socket");
    }
    match answer(path) {
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => remove_if_there(path).map_err(io),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Ok(()) => Err(SocketError::InUse { path: path.into() }),
        // A datagram socket, or one that is not ours to touch.
        Err(_) => foreign("a socket of something else"),
    }
}

/// Whether somebody listens. One whose queue is full does, although it never answers.
fn answer(path: &Path) -> std::io::Result<()> {
    let (tell, told) = mpsc::channel();
    let path = path.to_owned();
    std::thread::spawn(move || tell.send(UnixStream::connect(path).map(drop)));
    told.recv_timeout(Duration::from_secs(2)).unwrap_or(Ok(()))
}

fn restrict(path: &Path) -> std::io::Result<()> {
    let mode = match users::group(GROUP) {
        Some(group) => match std::os::unix::fs::chown(path, None, Some(group.gid)) {
            Ok(()) => 0o660,
            Err(e) => {
                tracing::warn!(
                    "only root reaches the operators' socket: it cannot be given to the group {GROUP} ({e})"
                );
                0o600
            }
        },
        None => 0o600,
    };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

pub(super) fn remove_if_there(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_not_ours_at_the_socket_path_keeps_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        std::fs::write(&path, "letters").unwrap();
        let error = listen(&path).unwrap_err();
        assert!(matches!(error, SocketError::Foreign { .. }), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "letters");
        std::fs::remove_file(&path).unwrap();

        std::fs::create_dir(&path).unwrap();
        assert!(matches!(listen(&path), Err(SocketError::Foreign { .. })));
        std::fs::remove_dir(&path).unwrap();

        std::os::unix::fs::symlink("/nowhere", &path).unwrap();
        assert!(matches!(listen(&path), Err(SocketError::Foreign { .. })));
        std::fs::remove_file(&path).unwrap();

        let _datagram = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        assert!(matches!(listen(&path), Err(SocketError::Foreign { .. })));
        assert!(path.exists());
    }

    #[tokio::test]
    async fn a_socket_that_somebody_answers_on_is_refused_and_a_dead_one_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let first = listen(&path).unwrap();
        assert!(matches!(listen(&path), Err(SocketError::InUse { .. })));
        drop(first);
        let again = listen(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert!(mode == 0o600 || mode == 0o660, "{mode:o}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        drop(again);
    }
}
