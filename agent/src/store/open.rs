//! Opening the database without harming it: redb repairs in place, so whatever needs a repair
//! is first proven readable, and a file that cannot be repaired keeps its bytes.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError};

use super::frames::Written;
use super::journal::{self, Journal};
use super::{JOURNAL, LOG, META, Recovered, SCHEMA, SETTLED, StoreError, write};

pub(super) fn open(path: &Path) -> Result<(Database, Journal, Recovered), StoreError> {
    if !path.exists() {
        create(path)?;
    }
    let db = open_file(path)?;
    check_schema(&db, path)?;
    let (journal, recovered) = take_over_journal(&db, path)?;
    Ok((db, journal, recovered))
}

/// Brings what an earlier process left in its journal into the database, and begins a new one: in one transaction, so
/// that nothing is taken over twice and nothing of the earlier one counts afterwards.
fn take_over_journal(db: &Database, path: &Path) -> Result<(Journal, Recovered), StoreError> {
    let failed = |source| StoreError::Journal { path: path.into(), source };
    let mut id = [0; 8];
    getrandom::fill(&mut id).map_err(StoreError::Randomness)?;
    let id = u64::from_le_bytes(id);
    let write = write::begin(db)?;
    let (former, settled) = {
        let meta = write.open_table(META)?;
        let number = |name| meta.get(name).map(|value| value.map(|value| value.value()));
        (number(JOURNAL)?, number(SETTLED)?.unwrap_or_default())
    };
    let (mut found, lost) = match former {
        Some(former) => journal::recover(path, former, settled).map_err(failed)?,
        None => (Vec::new(), 0),
    };
    let mut next_seq = write.open_table(LOG)?.last()?.map_or(1, |(last, _)| last.value() + 1);
    let whole = found.iter().take_while(|written| match written {
        Written::Log { seq, .. } if *seq == next_seq => {
            next_seq += 1;
            true
        }
        Written::Log { .. } => false,
        Written::Row { .. } => true,
    });
    let whole = whole.count();
    let recovered = Recovered { taken_over: whole, lost: lost + found.len() - whole };
    found.truncate(whole);
    write::apply(&write, &found, 0)?;
    {
        let mut meta = write.open_table(META)?;
        meta.insert(JOURNAL, id)?;
        meta.insert(SETTLED, 0)?;
    }
    write.commit()?;
    Ok((Journal::start(path, id, next_seq).map_err(failed)?, recovered))
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
