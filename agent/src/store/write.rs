//! The one way to write: through a transaction that takes along what waits in the journal.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use redb::{Database, TableDefinition, WriteTransaction};

use super::frames::Written;
use super::journal::{Journal, Taken};
use super::{LOG, META, PAUSE, SETTLED, StoreError};

/// How long to wait after a transaction that failed.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

pub(super) struct Core {
    path: PathBuf,
    pub db: Database,
    pub journal: Journal,
    /// Held over a transaction and what the journal learns of it.
    pub writing: Mutex<()>,
    /// The last transaction did not get through.
    failed: AtomicBool,
}

impl Core {
    pub fn new(path: &Path, db: Database, journal: Journal) -> Self {
        Self { path: path.into(), db, journal, writing: Mutex::default(), failed: AtomicBool::new(false) }
    }

    /// Takes it into the journal. Where the database failed last, or too much waits for it, that comes first.
    pub fn append(&self, make: impl FnOnce(u64) -> Written) -> Result<Taken, StoreError> {
        if self.failed.load(Ordering::Relaxed) || self.journal.is_full() {
            self.flush(self.journal.last())?;
        }
        self.journal.append(make).map_err(|source| StoreError::Journal { path: self.path.clone(), source })
    }

    /// Returns once the database has everything up to that position on disk. Who waits for another's transaction may
    /// find its own write in it.
    pub fn flush(&self, upto: u64) -> Result<(), StoreError> {
        let _order = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.journal.settled() >= upto { Ok(()) } else { self.commit(|_| Ok(())) }
    }

    /// What waits of that table is in the database when this returns.
    pub fn flush_rows_of(&self, table: &str) -> Result<(), StoreError> {
        if self.journal.has_rows_of(table) { self.flush(self.journal.last()) } else { Ok(()) }
    }

    pub fn transact<T, E: From<StoreError>>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, E>,
    ) -> Result<T, E> {
        let _order = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.commit(work)
    }

    /// The caller holds `writing`.
    fn commit<T, E: From<StoreError>>(&self, work: impl FnOnce(&WriteTransaction) -> Result<T, E>) -> Result<T, E> {
        let failed = |e: StoreError| {
            self.failed.store(true, Ordering::Relaxed);
            E::from(e)
        };
        let write = begin(&self.db).map_err(failed)?;
        let batch = self.journal.cut();
        let taken = batch.taken.iter().map(|(_, written)| &**written);
        apply(&write, taken, batch.last).map_err(failed)?;
        let answer = work(&write)?;
        write.commit().map_err(|e| failed(e.into()))?;
        self.journal.settle(&batch);
        self.failed.store(false, Ordering::Relaxed);
        Ok(answer)
    }

    /// A thread that brings what waits in the journal into the database, until the journal ends.
    pub fn start_flushing(core: &Arc<Self>) -> Result<JoinHandle<()>, StoreError> {
        let flusher = core.clone();
        let thread = std::thread::Builder::new().name("journal".into()).spawn(move || flusher.keep_flushing());
        thread.map_err(|source| StoreError::Journal { path: core.path.clone(), source })
    }

    fn keep_flushing(&self) {
        let mut pause = PAUSE;
        loop {
            let goes_on = self.journal.wait_for_work(pause);
            pause = match self.flush(self.journal.last()) {
                Ok(()) => PAUSE,
                Err(e) => {
                    // What is permitted next fails by it, and says so to who asked.
                    tracing::error!("what waits in the journal cannot be brought into the database: {e}");
                    PAUSE_AFTER_FAILURE
                }
            };
            if !goes_on {
                return;
            }
        }
    }
}

pub(super) fn begin(db: &Database) -> Result<WriteTransaction, StoreError> {
    let mut write = db.begin_write()?;
    write.set_two_phase_commit(true);
    Ok(write)
}

/// Writes what waited in the journal, and that the database has the journal up to the position `upto` with it.
pub(super) fn apply<'a>(
    write: &WriteTransaction,
    taken: impl IntoIterator<Item = &'a Written>,
    upto: u64,
) -> Result<(), StoreError> {
    let mut taken = taken.into_iter().peekable();
    if taken.peek().is_none() {
        return Ok(());
    }
    let mut log = write.open_table(LOG)?;
    for written in taken {
        match written {
            Written::Log { seq, bytes } => drop(log.insert(seq, bytes.as_slice())?),
            Written::Row { table, key, bytes } => {
                let mut table = write.open_table(TableDefinition::<&str, &[u8]>::new(table))?;
                table.insert(key.as_str(), bytes.as_slice())?;
            }
        }
    }
    write.open_table(META)?.insert(SETTLED, upto)?;
    Ok(())
}
