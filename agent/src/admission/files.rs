//! Reading files that somebody else may have put there to harm the reader.
//!
//! Invariant: only regular files are opened for good, never waited on, and never read beyond the limit.

use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

/// The largest client config that is read.
pub(super) const MAX_BYTES: u64 = 8 << 20;

/// Tells one state of a file from the next without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// `None` where there is no file. Links are followed: people keep their configs in other places.
pub(super) fn stamp(path: &Path) -> Option<Result<Stamp, String>> {
    match std::fs::metadata(path) {
        Ok(meta) => Some(of(&meta)),
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => None,
        Err(e) => Some(Err(format!("cannot be looked at: {e}"))),
    }
}

fn of(meta: &std::fs::Metadata) -> Result<Stamp, String> {
    if !meta.is_file() {
        return Err("is not a regular file; remove it or put the config there".into());
    }
    if meta.len() > MAX_BYTES {
        return Err(format!("has {} bytes, more than the {MAX_BYTES} that are read; make it smaller", meta.len()));
    }
    Ok(Stamp {
        device: meta.dev(),
        inode: meta.ino(),
        size: meta.len(),
        modified: (meta.mtime(), meta.mtime_nsec()),
        changed: (meta.ctime(), meta.ctime_nsec()),
    })
}

/// A regular file; whatever else stands there is an error, and never waited for.
pub(super) fn open(path: &Path) -> std::io::Result<std::fs::File> {
    // A plain open of a FIFO would block for ever.
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC)
        .open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(std::io::Error::other("it is no regular file")) }
}

/// The text of a regular file of at most [`MAX_BYTES`], or why not.
pub(super) fn read(path: &Path) -> Result<String, String> {
    let unreadable = |e: std::io::Error| format!("cannot be read: {e}");
    let file = open(path).map_err(unreadable)?;
    of(&file.metadata().map_err(unreadable)?)?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!("grew beyond the {MAX_BYTES} bytes that are read; make it smaller"));
    }
    let text = String::from_utf8(bytes).map_err(|e| {
        let valid = e.utf8_error().valid_up_to();
        let before = String::from_utf8_lossy(&e.as_bytes()[..valid]).into_owned();
        let (line, column) = crate::config::line_column(&before, before.len());
        format!("line {line}, column {column}: not UTF-8 text")
    })?;
    Ok(text.strip_prefix('\u{feff}').map_or(text.clone(), str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifo_a_directory_and_a_huge_file_are_refused_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let huge = dir.path().join("huge");
        std::fs::File::create(&huge).unwrap().set_len(MAX_BYTES + 1).unwrap();
        for path in [fifo.as_path(), &huge, dir.path()] {
            assert!(stamp(path).unwrap().is_err(), "{}", path.display());
            assert!(read(path).is_err(), "{}", path.display());
            assert!(open(path).is_err() || path == huge, "{}", path.display());
        }
        assert!(read(Path::new("/dev/zero")).is_err());
        assert!(stamp(&dir.path().join("none")).is_none());
    }

    #[test]
    fn a_byte_that_is_no_text_is_reported_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, b"{\n \"a\": \xff }").unwrap();
        assert_eq!(read(&path).unwrap_err(), "line 2, column 7: not UTF-8 text");
    }
}
