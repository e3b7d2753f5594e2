//! The audit log's rows: those in the database, and behind them those that wait in the journal.

use redb::{ReadableDatabase, ReadableTable, TableError};

use super::frames::Written;
use super::journal::Taken;
use super::{Durability, LOG, Store, StoreError};

/// An entry and its number.
pub type LogRow = (u64, Vec<u8>);
type LogTable = redb::ReadOnlyTable<u64, &'static [u8]>;

/// An entry that has its number, and may not be on disk yet.
pub struct Appended {
    pub seq: u64,
    position: u64,
}

impl Store {
    /// Appends an entry to the audit log; `make` gets the sequence number, the first is 1. It outlives this process when
    /// this returns, and is on disk when [`Store::settle_log`] has returned with [`Durability::Now`].
    pub fn append_log(&self, make: impl FnOnce(u64) -> Vec<u8>) -> Result<Appended, StoreError> {
        let mut number = 0;
        let (position, _) = self.core.append(|seq| {
            number = seq;
            Written::Log { seq, bytes: make(seq) }
        })?;
        Ok(Appended { seq: number, position })
    }

    /// Waits for as much as is asked for. On an error the entry may yet come to be on disk.
    pub fn settle_log(&self, entry: &Appended, durability: Durability) -> Result<(), StoreError> {
        match durability {
            Durability::Soon => Ok(()),
            Durability::Now => self.core.flush(entry.position),
        }
    }

    /// Log entries from `first` on, at most `limit`, oldest first.
    pub fn read_log(&self, first: u64, limit: usize) -> Result<Vec<LogRow>, StoreError> {
        let mut rows = self.scan_log(first, |log| {
            let rows = log.range(first..)?.take(limit);
            rows.map(|row| row.map(|(k, v)| (k.value(), v.value().to_vec()))).collect()
        })?;
        rows.truncate(limit);
        Ok(rows)
    }

    /// The last `count` log entries, oldest first.
    pub fn log_tail(&self, count: usize) -> Result<Vec<LogRow>, StoreError> {
        let mut rows = self.scan_log(0, |log| {
            let rows = log.iter()?.rev().take(count);
            let mut rows =
                rows.map(|row| row.map(|(k, v)| (k.value(), v.value().to_vec()))).collect::<Result<Vec<_>, _>>()?;
            rows.reverse();
            Ok(rows)
        })?;
        Ok(rows.split_off(rows.len().saturating_sub(count)))
    }

    /// What `scan` finds in the database, oldest first, and what waits in the journal behind that, from number `first` on.
    fn scan_log(
        &self,
        first: u64,
        scan: impl FnOnce(&LogTable) -> Result<Vec<LogRow>, redb::StorageError>,
    ) -> Result<Vec<LogRow>, StoreError> {
        // First the journal: what leaves it meanwhile is in the database, and found twice rather than never.
        let waiting = self.core.journal.log_from(first);
        let read = self.core.db.begin_read()?;
        let log = match read.open_table(LOG) {
            Ok(log) => log,
            Err(TableError::TableDoesNotExist(_)) => return Ok(behind(0, waiting).collect()),
            Err(e) => return Err(e.into()),
        };
        let mut rows = scan(&log)?;
        rows.extend(behind(log.last()?.map_or(0, |(last, _)| last.value()), waiting));
        Ok(rows)
    }
}

/// What waits with a higher number than the database's `last`.
fn behind(last: u64, waiting: Vec<Taken>) -> impl Iterator<Item = LogRow> {
    waiting.into_iter().filter_map(move |(_, written)| match &*written {
        Written::Log { seq, bytes } if *seq > last => Some((*seq, bytes.clone())),
        _ => None,
    })
}
