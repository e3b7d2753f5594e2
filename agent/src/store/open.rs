//! Opening the database without harming it: redb repairs in place, so whatever needs a repair
//! is first proven readable, and a file that cannot be repaired keeps its bytes.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use redb::{Database, DatabaseError, ReadableDatabase, StorageError};

use super::{META, SCHEMA, StoreError};

pub(super) fn open(path: &Path) -> Result<Database, StoreError> {
    if !path.exists() {
        create(path)?;
    }
    let db = open_file(path)?;
    check_schema(&db, path)?;
    Ok(db)
}

/// Makes the file under another name first, so that a crash never leaves half a database at `path`.
fn create(path: &Path) -> Result<(), StoreError> {
    let io = |source| StoreError::Io { path: path.into(), source };
    let new = path.with_extension("redb.new");
    match std::fs::remove_file(&new) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io(e)),
        _ => {}
    }
    let db = Database::create(&new).map_err(|e| io(std::io::Error::other(e)))?;
    let write = db.begin_write()?;
    write.open_table(META)?.insert("schema", SCHEMA)?;
    write.commit()?;
    drop(db);
    // It holds what servers are given in their environment.
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).map_err(io)?;
    std::fs::rename(&new, path).map_err(io)
}

fn open_file(path: &Path) -> Result<Database, StoreError> {
    let damaged = |cause: String| StoreError::Damaged { path: path.into(), cause };
    if std::fs::metadata(path).is_ok_and(|meta| meta.len() == 0) {
        return Err(damaged("the file is empty".into()));
    }
    let copy = rescue_copy(path)?;
    // redb asserts on some kinds of damage: a panic while opening is damage too.
    let opened = std::panic::catch_unwind(|| Database::builder().set_cache_size(8 << 20).create(path));
    let failure = match opened {
        Ok(Ok(db)) => {
            drop_copy(&copy);
            return Ok(db);
        }
        Ok(Err(DatabaseError::DatabaseAlreadyOpen)) => {
            drop_copy(&copy);
            return Err(StoreError::InUse { path: path.into() });
        }
        Ok(Err(DatabaseError::Storage(StorageError::Io(e)))) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            drop_copy(&copy);
            return Err(StoreError::Io { path: path.into(), source: e });
        }
        Ok(Err(e)) => e.to_string(),
        Err(_) => "redb cannot make sense of its pages".into(),
    };
    // The attempt may have written to the file: put back the very bytes that were there.
    std::fs::rename(&copy, path).map_err(|source| StoreError::Io { path: path.into(), source })?;
    Err(damaged(failure))
}

/// A byte-for-byte copy beside a database, unless another daemon holds it open.
fn rescue_copy(path: &Path) -> Result<std::path::PathBuf, StoreError> {
    let io = |source| StoreError::Io { path: path.into(), source };
    let file = std::fs::File::open(path).map_err(io)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => return Err(StoreError::InUse { path: path.into() }),
        Err(std::fs::TryLockError::Error(e)) => return Err(io(e)),
    }
    let copy = path.with_extension("redb.opening");
    std::fs::copy(path, &copy).map_err(io)?;
    Ok(copy)
}

fn drop_copy(copy: &Path) {
    if let Err(e) = std::fs::remove_file(copy) {
        tracing::warn!(path = %copy.display(), "cannot remove the copy made while opening the state: {e}");
    }
}

fn check_schema(db: &Database, path: &Path) -> Result<(), StoreError> {
    let read = db.begin_read()?;
    let found = match read.open_table(META) {
        Ok(meta) => meta.get("schema")?.map(|v| v.value()),
        Err(redb::TableError::TableDoesNotExist(_)) => None,
        Err(e) => return Err(e.into()),
    };
    match found {
        Some(SCHEMA) => Ok(()),
        Some(found) => Err(StoreError::Newer { path: path.into(), found }),
        None => Err(StoreError::Damaged { path: path.into(), cause: "it has no layout number".into() }),
    }
}
