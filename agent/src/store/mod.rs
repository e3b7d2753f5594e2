//! The database. Nothing else in the house knows redb.
//!
//! A [`Record`] is one JSON value under one string key in the table of its kind. Every write is
//! one transaction with two-phase commit (redb's own advice where an attacker shapes the input):
//! it is on disk when the call returns, or it never happened.
//!
//! What is written [`Soon`](Durability::Soon) goes into the journal first: it outlives this process at once, and a power cut
//! once it is on disk, which is [`PAUSE`] and one transaction later. All writes have one order: a transaction takes along what
//! waits in the journal, so that nothing is on disk without what was written before it.

pub mod frames;
mod journal;
mod log;
mod open;
mod write;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use self::frames::Written;
use self::write::Core;

use redb::{ReadableDatabase, ReadableTable, TableDefinition, TableError};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The layout of what is stored; a newer number is refused, an older one is migrated.
const SCHEMA: u64 = 1;
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("audit");
/// In [`META`]: the id of the journal, and up to which position the database has it.
const JOURNAL: &str = "journal";
const SETTLED: &str = "journal_settled";
/// How long what is written soon may wait for others, to share a transaction with them.
pub const PAUSE: Duration = Duration::from_millis(20);

/// When a write has to be on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Before the call returns.
    Now,
    /// Within [`PAUSE`] and one transaction. Until then it outlives the end of this process, however it comes.
    Soon,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "cannot open the state {path}: another daemon has it open; stop that one, or give this one its own --state-dir"
    )]
    InUse { path: PathBuf },
    #[error(
        "cannot open the state {path}: the file is damaged or cut short ({cause}); nothing in it was changed. Restore a copy, or move the file away to start with an empty state"
    )]
    Damaged { path: PathBuf, cause: String },
    #[error(
        "cannot open the state {path}: it was written by a newer Lazaret (layout {found}, this one knows {SCHEMA}); install that version again"
    )]
    Newer { path: PathBuf, found: u64 },
    #[error("cannot open the state {path}: {source}; check that the directory exists and is writable")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("the database failed: {0}; see the disk's health and free space")]
    Database(#[from] redb::Error),
    #[error("the journal {path} failed: {source}; see the disk's health and free space")]
    Journal { path: PathBuf, source: std::io::Error },
    #[error("the system has no random numbers: {0}")]
    Randomness(getrandom::Error),
    #[error("the record {key} in {table} cannot be read: {source}; restore a copy of the state")]
    Record { table: &'static str, key: String, source: serde_json::Error },
}

macro_rules! from_redb {
    ($($error:ty),*) => {$(
        impl From<$error> for StoreError {
            fn from(e: $error) -> Self {
                StoreError::Database(e.into())
            }
        }
    )*};
}
from_redb!(redb::TransactionError, redb::TableError, redb::StorageError, redb::CommitError, redb::SetDurabilityError);

/// A kind of thing that is stored.
pub trait Record: Serialize + DeserializeOwned {
    /// Name of the table; never changed once released.
    const TABLE: &'static str;
    /// Unique within the table.
    fn key(&self) -> String;
}

pub struct Store {
    core: Arc<Core>,
    flusher: Option<std::thread::JoinHandle<()>>,
    recovered: Recovered,
}

/// What an earlier process left in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovered {
    /// Writes that are in the database now.
    pub taken_over: usize,
    /// Writes that a power cut left without the one before them.
    pub lost: usize,
}

fn table<R: Record>() -> TableDefinition<'static, &'static str, &'static [u8]> {
    TableDefinition::new(R::TABLE)
}

fn decode<R: Record>(key: &str, bytes: &[u8]) -> Result<R, StoreError> {
    serde_json::from_slice(bytes).map_err(|source| StoreError::Record { table: R::TABLE, key: key.into(), source })
}

fn encode<R: Record>(record: &R) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(record).map_err(|source| StoreError::Record { table: R::TABLE, key: record.key(), source })
}

impl Store {
    /// Opens or creates the database at `path`. A damaged file is left as it is.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let (db, journal, recovered) = open::open(path)?;
        let core = Arc::new(Core::new(path, db, journal));
        let flusher = Core::start_flushing(&core)?;
        Ok(Self { core, flusher: Some(flusher), recovered })
    }

    pub fn recovered(&self) -> Recovered {
        self.recovered
    }

    pub fn get<R: Record>(&self, key: &str) -> Result<Option<R>, StoreError> {
        let read = self.read_of::<R>()?;
        match read.open_table(table::<R>()) {
            Ok(table) => table.get(key)?.map(|value| decode(key, value.value())).transpose(),
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// All records of a kind, in key order.
    pub fn list<R: Record>(&self) -> Result<Vec<R>, StoreError> {
        self.list_prefix("")
    }

    /// The records of a kind whose keys begin with `prefix`, in key order; no others are read.
    pub fn list_prefix<R: Record>(&self, prefix: &str) -> Result<Vec<R>, StoreError> {
        let read = self.read_of::<R>()?;
        let table = match read.open_table(table::<R>()) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(e) => return Err(e.into()),
        };
        let mut records = Vec::new();
        for row in table.range(prefix..)? {
            let (key, value) = row?;
            if !key.value().starts_with(prefix) {
                break;
            }
            records.push(decode(key.value(), value.value())?);
        }
        Ok(records)
    }

    pub fn put<R: Record>(&self, record: &R) -> Result<(), StoreError> {
        self.put_all(std::slice::from_ref(record))
    }

    /// Writes all of them or none.
    pub fn put_all<R: Record>(&self, records: &[R]) -> Result<(), StoreError> {
        self.core.transact(|write| {
            let mut table = write.open_table(table::<R>())?;
            for record in records {
                table.insert(record.key().as_str(), encode(record)?.as_slice())?;
            }
            Ok(())
        })
    }

    /// Writes each of them [`Soon`](Durability::Soon).
    pub fn put_soon<R: Record>(&self, records: &[R]) -> Result<(), StoreError> {
        for record in records {
            let row = Written::Row { table: R::TABLE.into(), key: record.key(), bytes: encode(record)? };
            self.core.append(|_| row)?;
        }
        Ok(())
    }

    /// Whether there was one.
    pub fn delete<R: Record>(&self, key: &str) -> Result<bool, StoreError> {
        self.core.transact(|write| Ok(write.open_table(table::<R>())?.remove(key)?.is_some()))
    }

    /// Reads, changes and writes one record with nothing in between. `change` returns the record
    /// to write (`None` leaves it as it is) and an answer; its error leaves everything as it was.
    pub fn update<R: Record, T, E: From<StoreError>>(
        &self,
        key: &str,
        change: impl FnOnce(Option<R>) -> Result<(Option<R>, T), E>,
    ) -> Result<T, E> {
        self.core.transact(|write| {
            let mut table = write.open_table(table::<R>()).map_err(StoreError::from)?;
            let before = match table.get(key).map_err(StoreError::from)? {
                Some(value) => Some(decode(key, value.value())?),
                None => None,
            };
            let (after, answer) = change(before)?;
            if let Some(after) = after {
                table.insert(after.key().as_str(), encode(&after)?.as_slice()).map_err(StoreError::from)?;
            }
            Ok(answer)
        })
    }

    /// As [`Store::update`] with several records, in one transaction: `change` gets each key of `keys` in turn.
    pub fn update_all<R: Record, E: From<StoreError>>(
        &self,
        keys: &[String],
        mut change: impl FnMut(usize, Option<R>) -> Result<R, E>,
    ) -> Result<(), E> {
        self.core.transact(|write| {
            let mut table = write.open_table(table::<R>()).map_err(StoreError::from)?;
            for (i, key) in keys.iter().enumerate() {
                let before = match table.get(key.as_str()).map_err(StoreError::from)? {
                    Some(value) => Some(decode(key, value.value())?),
                    None => None,
                };
                let after = change(i, before)?;
                table.insert(after.key().as_str(), encode(&after)?.as_slice()).map_err(StoreError::from)?;
            }
            Ok(())
        })
    }

    /// To read records of a kind: what of it waits in the journal is in the database first.
    fn read_of<R: Record>(&self) -> Result<redb::ReadTransaction, StoreError> {
        self.core.flush_rows_of(R::TABLE)?;
        Ok(self.core.db.begin_read()?)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.core.journal.end();
        if self.flusher.take().is_some_and(|flusher| flusher.join().is_err()) {
            tracing::error!("what waited for the database is in the journal: its writer failed");
        }
    }
}

#[cfg(test)]
mod tests;
