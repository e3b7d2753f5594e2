//! What was accepted and is not in the database yet: in two files, and in memory for who reads.
//!
//! Invariant: what [`Journal::append`] took is in a file of the page cache before it returns, so that it outlives this
//! process however it ends, and is in one of the two files until the database has it on disk. Files are never shortened and
//! never synced: stale frames have lower positions or another id, and only the database promises anything after a power cut.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::frames::{self, Written};

/// Bytes that may wait for the database; beyond, who appends waits too.
const MOST_WAITING: usize = 16 << 20;

/// What was taken, by its position; shared with who reads.
pub(super) type Taken = (u64, Arc<Written>);

pub(super) struct Journal {
    id: u64,
    files: [File; 2],
    state: Mutex<State>,
    /// Something waits, or the end has come.
    work: Condvar,
    /// The end has come.
    end: Condvar,
}

struct State {
    /// The file that is written to, and how far each is used; the other one is free where that is nothing.
    active: usize,
    used: [u64; 2],
    /// Position of the next frame, from 1.
    next: u64,
    next_seq: u64,
    waiting: VecDeque<Taken>,
    waiting_bytes: usize,
    waiting_rows: usize,
    ended: bool,
}

/// What waited at one moment. Once it is in the database, [`Journal::settle`] lets it go.
pub(super) struct Batch {
    pub taken: Vec<Taken>,
    pub last: u64,
}

fn path(database: &Path, which: usize) -> PathBuf {
    database.with_extension(format!("journal.{which}"))
}

/// What the two files of the journal `id` hold beyond what the database has, oldest first, and how many frames are there
/// that cannot be taken over because one before them is lost.
pub(super) fn recover(database: &Path, id: u64, settled: u64) -> std::io::Result<(Vec<Written>, usize)> {
    let mut found = Vec::new();
    for which in 0..2 {
        match std::fs::read(path(database, which)) {
            Ok(bytes) => found.extend(frames::read(id, &bytes)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    found.retain(|(position, _)| *position > settled);
    found.sort_by_key(|(position, _)| *position);
    let all = found.len();
    let whole = found.into_iter().zip(settled + 1..).take_while(|((position, _), wanted)| position == wanted);
    let whole: Vec<Written> = whole.map(|((_, written), _)| written).collect();
    let lost = all - whole.len();
    Ok((whole, lost))
}

impl Journal {
    /// An empty journal. The database has `id` on disk already: no frame of an earlier one counts any more.
    pub fn start(database: &Path, id: u64, next_seq: u64) -> std::io::Result<Self> {
        let open =
            |which| File::options().write(true).create(true).truncate(false).mode(0o600).open(path(database, which));
        let state = State {
            active: 0,
            used: [0; 2],
            next: 1,
            next_seq,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            waiting_rows: 0,
            ended: false,
        };
        let files = [open(0)?, open(1)?];
        Ok(Self { id, files, state: Mutex::new(state), work: Condvar::new(), end: Condvar::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether so much waits that who appends should wait for the database first.
    pub fn is_full(&self) -> bool {
        self.state().waiting_bytes >= MOST_WAITING
    }

    /// Takes what `make` makes of the next number of the log.
    pub fn append(&self, make: impl FnOnce(u64) -> Written) -> std::io::Result<Taken> {
        let mut state = self.state();
        let written = make(state.next_seq);
        let too_long = || std::io::Error::other("it is longer than any record may be");
        let frame = written.frame(self.id, state.next).ok_or_else(too_long)?;
        let active = state.active;
        // A frame that was written in part is overwritten by the next one.
        self.files[active].write_all_at(&frame, state.used[active])?;
        state.used[active] += frame.len() as u64;
        let taken = (state.next, Arc::new(written));
        state.next += 1;
        match &*taken.1 {
            Written::Log { seq, .. } => state.next_seq = seq + 1,
            Written::Row { .. } => state.waiting_rows += 1,
        }
        state.waiting_bytes += frame.len();
        if state.waiting.is_empty() {
            self.work.notify_one();
        }
        state.waiting.push_back(taken.clone());
        Ok(taken)
    }

    /// All that waits. From now on the other file is written to, if it is free.
    pub fn cut(&self) -> Batch {
        let mut state = self.state();
        let other = 1 - state.active;
        if state.used[other] == 0 {
            state.active = other;
        }
        Batch { taken: state.waiting.iter().cloned().collect(), last: state.next - 1 }
    }

    /// The database has `batch` on disk. To be called for each batch in the order of the cuts.
    pub fn settle(&self, batch: &Batch) {
        let mut state = self.state();
        while state.waiting.front().is_some_and(|(position, _)| *position <= batch.last) {
            if let Some((_, written)) = state.waiting.pop_front() {
                state.waiting_rows -= usize::from(matches!(*written, Written::Row { .. }));
            }
        }
        // What came after the cut is in the active file: since this cut, or since one whose batch did not get through.
        let active = state.active;
        state.used[1 - active] = 0;
        if state.waiting.is_empty() {
            state.used[active] = 0;
        }
        state.waiting_bytes = usize::try_from(state.used[active]).unwrap_or(usize::MAX);
    }

    /// The position up to which the database has everything.
    pub fn settled(&self) -> u64 {
        let state = self.state();
        state.waiting.front().map_or(state.next, |(position, _)| *position) - 1
    }

    /// The position of the last frame.
    pub fn last(&self) -> u64 {
        self.state().next - 1
    }

    /// Whether a row of that table waits.
    pub fn has_rows_of(&self, wanted: &str) -> bool {
        let state = self.state();
        state.waiting_rows > 0
            && state.waiting.iter().any(|(_, one)| matches!(&**one, Written::Row { table, .. } if table == wanted))
    }

    /// Entries of the log that wait, from number `first` on.
    pub fn log_from(&self, first: u64) -> Vec<Taken> {
        let is_wanted = |one: &Taken| matches!(&*one.1, Written::Log { seq, .. } if *seq >= first);
        self.state().waiting.iter().filter(|one| is_wanted(one)).cloned().collect()
    }

    /// Returns when something waits, and has for so long that others may have joined it. `false` at the end.
    pub fn wait_for_work(&self, pause: Duration) -> bool {
        let idle = |state: &mut State| state.waiting.is_empty() && !state.ended;
        let state = self.work.wait_while(self.state(), idle).unwrap_or_else(PoisonError::into_inner);
        let paused = self.end.wait_timeout_while(state, pause, |state| !state.ended);
        !paused.unwrap_or_else(PoisonError::into_inner).0.ended
    }

    pub fn end(&self) {
        self.state().ended = true;
        self.work.notify_all();
        self.end.notify_all();
    }
}
