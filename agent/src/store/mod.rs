//! The database. Nothing else in the house knows redb.
//!
//! A [`Record`] is one JSON value under one string key in the table of its kind. Every write is
//! one transaction with two-phase commit (redb's own advice where an attacker shapes the input):
//! it is on disk when the call returns, or it never happened.

mod open;

use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableError};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The layout of what is stored; a newer number is refused, an older one is migrated.
const SCHEMA: u64 = 1;
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("audit");

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
    db: Database,
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
        open::open(path).map(|db| Self { db })
    }

    pub fn get<R: Record>(&self, key: &str) -> Result<Option<R>, StoreError> {
        let read = self.db.begin_read()?;
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
        let read = self.db.begin_read()?;
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
        let write = self.begin_write()?;
        {
            let mut table = write.open_table(table::<R>())?;
            for record in records {
                table.insert(record.key().as_str(), encode(record)?.as_slice())?;
            }
        }
        Ok(write.commit()?)
    }

    /// Whether there was one.
    pub fn delete<R: Record>(&self, key: &str) -> Result<bool, StoreError> {
        let write = self.begin_write()?;
        let found = {
            let mut table = write.open_table(table::<R>())?;
            table.remove(key)?.is_some()
        };
        write.commit()?;
        Ok(found)
    }

    /// Reads, changes and writes one record with nothing in between. `change` returns the record
    /// to write (`None` leaves it as it is) and an answer; its error leaves everything as it was.
    pub fn update<R: Record, T, E: From<StoreError>>(
        &self,
        key: &str,
        change: impl FnOnce(Option<R>) -> Result<(Option<R>, T), E>,
    ) -> Result<T, E> {
        let write = self.begin_write().map_err(E::from)?;
        let answer = {
            let mut table = write.open_table(table::<R>()).map_err(StoreError::from)?;
            let before = match table.get(key).map_err(StoreError::from)? {
                Some(value) => Some(decode(key, value.value())?),
                None => None,
            };
            let (after, answer) = change(before)?;
            if let Some(after) = after {
                table.insert(after.key().as_str(), encode(&after)?.as_slice()).map_err(StoreError::from)?;
            }
            answer
        };
        write.commit().map_err(StoreError::from)?;
        Ok(answer)
    }

    /// As [`Store::update`] with several records, in one transaction: `change` gets each key of `keys` in turn.
    pub fn update_all<R: Record, E: From<StoreError>>(
        &self,
        keys: &[String],
        mut change: impl FnMut(usize, Option<R>) -> Result<R, E>,
    ) -> Result<(), E> {
        let write = self.begin_write().map_err(E::from)?;
        {
            let mut table = write.open_table(table::<R>()).map_err(StoreError::from)?;
            for (i, key) in keys.iter().enumerate() {
                let before = match table.get(key.as_str()).map_err(StoreError::from)? {
                    Some(value) => Some(decode(key, value.value())?),
                    None => None,
                };
                let after = change(i, before)?;
                table.insert(after.key().as_str(), encode(&after)?.as_slice()).map_err(StoreError::from)?;
            }
        }
        write.commit().map_err(StoreError::from)?;
        Ok(())
    }

    /// Appends entries to the audit log; `make` gets the sequence number, the first is 1.
    pub fn append_log(&self, make: impl FnOnce(u64) -> Vec<u8>) -> Result<u64, StoreError> {
        let write = self.begin_write()?;
        let seq = {
            let mut log = write.open_table(LOG)?;
            let seq = log.last()?.map_or(1, |(last, _)| last.value() + 1);
            log.insert(seq, make(seq).as_slice())?;
            seq
        };
        write.commit()?;
        Ok(seq)
    }

    /// Log entries from `first` on, at most `limit`, oldest first.
    pub fn read_log(&self, first: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        self.scan_log(|log| {
            let rows = log.range(first..)?.take(limit);
            rows.map(|row| row.map(|(k, v)| (k.value(), v.value().to_vec()))).collect()
        })
    }

    /// The last `count` log entries, oldest first.
    pub fn log_tail(&self, count: usize) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        let mut rows = self.scan_log(|log| {
            let rows = log.iter()?.rev().take(count);
            rows.map(|row| row.map(|(k, v)| (k.value(), v.value().to_vec()))).collect::<Result<Vec<_>, _>>()
        })?;
        rows.reverse();
        Ok(rows)
    }

    fn scan_log(
        &self,
        scan: impl FnOnce(&redb::ReadOnlyTable<u64, &'static [u8]>) -> Result<Vec<(u64, Vec<u8>)>, redb::StorageError>,
    ) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        let read = self.db.begin_read()?;
        match read.open_table(LOG) {
            Ok(log) => Ok(scan(&log)?),
            Err(TableError::TableDoesNotExist(_)) => Ok(Vec::new()),
            Err(e) => Err(e.into()),
        }
    }

    fn begin_write(&self) -> Result<redb::WriteTransaction, StoreError> {
        let mut write = self.db.begin_write()?;
        write.set_two_phase_commit(true);
        Ok(write)
    }
}

#[cfg(test)]
mod tests;
