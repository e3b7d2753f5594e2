//! The log itself: append-only, numbered without a gap, and where no crash of the daemon reaches it before it answers.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use tokio::sync::broadcast;

use super::{Entry, Kind, Record};
use crate::config::AuditSync;
use crate::store::{Durability, Store, StoreError};

/// Records that a slow subscriber may be behind before it is told that it lost some.
const SUBSCRIBER_BACKLOG: usize = 1024;

/// Records that are looked through at once.
const LOOK_BACK: u64 = 4096;

#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("cannot write the audit record: {0}; nothing is permitted until the log can be written again")]
    Append(StoreError),
    #[error("cannot write the audit record: it is not JSON ({0}); report this as a bug")]
    Encode(serde_json::Error),
    #[error("cannot read the audit log: {0}")]
    Read(StoreError),
    #[error("cannot read audit record {seq}: {source}; restore a copy of the state")]
    Decode { seq: u64, source: serde_json::Error },
}

pub struct AuditLog {
    store: Arc<Store>,
    live: broadcast::Sender<Arc<Record>>,
    /// Held over append and publish, so that subscribers see the order of the log.
    order: Mutex<()>,
    sync: AuditSync,
}

impl AuditLog {
    pub fn new(store: Arc<Store>) -> Self {
        let live = broadcast::Sender::new(SUBSCRIBER_BACKLOG);
        Self { store, live, order: Mutex::new(()), sync: AuditSync::default() }
    }

    pub fn synced(mut self, sync: AuditSync) -> Self {
        self.sync = sync;
        self
    }

    /// Writes one record and returns its number once no end of the daemon can take it away. What people, the kernel and
    /// the gates that refuse decided is on disk by then, and all that was recorded before; calls and their results are
    /// where [`AuditSync`] says so. On an error the caller must deny what it was about to permit.
    pub fn record(&self, entry: Entry) -> Result<u64, AuditError> {
        let mut record = entry.numbered(0, Timestamp::now());
        let durability = self.durability(record.kind);
        // What is made under the lock cannot fail: what could fail in it is tried before.
        serde_json::to_vec(&record).map_err(AuditError::Encode)?;
        let appended = {
            let _order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
            let appended = self.store.append_log(|seq| {
                record.seq = seq;
                serde_json::to_vec(&record).unwrap_or_default()
            });
            let appended = appended.map_err(AuditError::Append)?;
            // No subscriber is not an error: the log has it.
            let _ = self.live.send(Arc::new(record));
            appended
        };
        // Others may append meanwhile, and share the transaction.
        self.store.settle_log(&appended, durability).map_err(AuditError::Append)?;
        Ok(appended.seq)
    }

    fn durability(&self, kind: Kind) -> Durability {
        match (self.sync, kind) {
            (AuditSync::Batch, Kind::Call | Kind::Result) => Durability::Soon,
            (AuditSync::Batch | AuditSync::Always, _) => Durability::Now,
        }
    }

    /// The last `count` records, oldest first.
    pub fn tail(&self, count: usize) -> Result<Vec<Record>, AuditError> {
        decode(self.store.log_tail(count).map_err(AuditError::Read)?)
    }

    /// Records from number `seq` on, at most `limit`, oldest first.
    pub fn since(&self, seq: u64, limit: usize) -> Result<Vec<Record>, AuditError> {
        decode(self.store.read_log(seq, limit).map_err(AuditError::Read)?)
    }

    /// The records of one call, oldest first: its intent, and what follows. Looks from the end backwards, so that
    /// recent calls are found at once.
    pub fn of_call(&self, call_id: &str) -> Result<Vec<Record>, AuditError> {
        let mut before = self.store.log_tail(1).map_err(AuditError::Read)?.last().map_or(0, |(seq, _)| seq + 1);
        let mut found = Vec::new();
        while before > 1 {
            let first = before.saturating_sub(LOOK_BACK).max(1);
            let rows = self.store.read_log(first, usize::try_from(before - first).unwrap_or(usize::MAX));
            let mut rows = rows.map_err(AuditError::Read)?;
            // Most rows are of other calls: decoding them all would take far longer.
            rows.retain(|(_, bytes)| bytes.windows(call_id.len().max(1)).any(|part| part == call_id.as_bytes()));
            let mut records = decode(rows)?;
            records.retain(|record| record.call_id.as_deref() == Some(call_id));
            found.splice(0..0, records);
            if found.first().is_some_and(|record: &Record| record.kind == super::Kind::Call) {
                break;
            }
            before = first;
        }
        Ok(found)
    }

    /// The record of a session's beginning, which holds its certificate. Looks backwards from record `before`.
    pub fn connected(&self, session: &str, mut before: u64) -> Result<Option<Record>, AuditError> {
        while before > 1 {
            let first = before.saturating_sub(LOOK_BACK).max(1);
            let rows = self.store.read_log(first, usize::try_from(before - first).unwrap_or(usize::MAX));
            let mut rows = rows.map_err(AuditError::Read)?;
            rows.retain(|(_, bytes)| bytes.windows(session.len().max(1)).any(|part| part == session.as_bytes()));
            let begins = |record: &Record| {
                record.kind == super::Kind::Agent
                    && record.detail["session"] == session
                    && record.detail.get("certificate").is_some()
            };
            if let Some(found) = decode(rows)?.into_iter().find(begins) {
                return Ok(Some(found));
            }
            before = first;
        }
        Ok(None)
    }

    /// Every record from now on. A receiver that lags is told how many it missed and can get
    /// them by [`AuditLog::since`].
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Record>> {
        self.live.subscribe()
    }
}

fn decode(rows: Vec<(u64, Vec<u8>)>) -> Result<Vec<Record>, AuditError> {
    rows.into_iter()
        .map(|(seq, bytes)| serde_json::from_slice(&bytes).map_err(|source| AuditError::Decode { seq, source }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Kind, Outcome};
    use serde_json::json;

    fn log() -> (tempfile::TempDir, AuditLog) {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&dir.path().join("state.redb")).unwrap());
        (dir, AuditLog::new(store))
    }

    fn entry(actor: &str) -> Entry {
        Entry::new(Kind::Call, Outcome::Permit, actor)
    }

    #[test]
    fn what_was_recorded_is_read_back_with_number_and_time() {
        let (_dir, log) = log();
        let before = Timestamp::now();
        let entry = entry("a@x.y")
            .agent("a@x.y")
            .server("time")
            .tool("now")
            .call("c1")
            .reason("why")
            .detail(json!({"n": 1.50}));
        assert_eq!(log.record(entry.clone()).unwrap(), 1);
        let records = log.tail(5).unwrap();
        assert_eq!(records.len(), 1);
        assert!(records[0].time >= before);
        assert_eq!(records[0], entry.numbered(1, records[0].time));
    }

    #[test]
    fn what_must_be_on_disk_is_in_the_database_when_it_is_recorded() {
        let (dir, log) = log();
        // The database alone, as it is now.
        let kept = || {
            let copy = tempfile::tempdir().unwrap();
            std::fs::copy(dir.path().join("state.redb"), copy.path().join("state.redb")).unwrap();
            AuditLog::new(Arc::new(Store::open(&copy.path().join("state.redb")).unwrap())).tail(9).unwrap().len()
        };
        log.record(entry("a")).unwrap();
        log.record(Entry::new(Kind::Denial, Outcome::Deny, "a")).unwrap();
        assert_eq!(kept(), 2, "a denial, and what was recorded before it");
        let log = log.synced(AuditSync::Always);
        log.record(entry("a")).unwrap();
        log.record(Entry::new(Kind::Result, Outcome::Ok, "a")).unwrap();
        assert_eq!(kept(), 4);
    }

    #[test]
    fn json_names_are_the_promised_ones() {
        let record = Entry::new(Kind::Denial, Outcome::Deny, "gate").agent("a@x.y").numbered(7, Timestamp::UNIX_EPOCH);
        assert_eq!(
            serde_json::to_string(&record).unwrap(),
            r#"{"seq":7,"time":"1970-01-01T00:00:00Z","kind":"denial","outcome":"deny","actor":"gate","agent":"a@x.y"}"#
        );
        assert_eq!(Kind::Admin.to_string(), "admin");
    }

    #[test]
    fn a_call_is_found_wherever_it_lies_in_the_log() {
        let (_dir, log) = log();
        log.record(entry("a").call("c1")).unwrap();
        for n in 0..50 {
            log.record(entry("a").call(format!("other{n}")).reason("mentions c1")).unwrap();
        }
        log.record(Entry::new(Kind::Result, Outcome::Ok, "a").call("c1")).unwrap();
        let seqs: Vec<u64> = log.of_call("c1").unwrap().iter().map(|record| record.seq).collect();
        assert_eq!(seqs, [1, 52]);
        assert_eq!(log.of_call("c2").unwrap(), []);
        assert_eq!(log.of_call("").unwrap(), []);
    }

    #[test]
    fn tail_and_since_are_oldest_first() {
        let (_dir, log) = log();
        for n in 0..5 {
            log.record(entry(&n.to_string())).unwrap();
        }
        let seqs = |records: Vec<Record>| records.into_iter().map(|r| r.seq).collect::<Vec<_>>();
        assert_eq!(seqs(log.tail(2).unwrap()), [4, 5]);
        assert_eq!(seqs(log.since(2, 2).unwrap()), [2, 3]);
        assert_eq!(seqs(log.since(6, 2).unwrap()), Vec::<u64>::new());
    }

    #[test]
    fn subscribers_see_the_order_of_the_log_from_many_writers() {
        let (_dir, log) = log();
        let mut live = log.subscribe();
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let log = &log;
                scope.spawn(move || (0..10).for_each(|_| assert!(log.record(entry(&writer.to_string())).is_ok())));
            }
        });
        let seen: Vec<u64> = std::iter::from_fn(|| live.try_recv().ok()).map(|r| r.seq).collect();
        assert_eq!(seen, (1..=40).collect::<Vec<u64>>());
    }
}
