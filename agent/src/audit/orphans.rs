//! Calls whose end nobody wrote down, because the daemon itself ended first.

use std::collections::{HashMap, HashSet};

use serde_json::json;

use super::{AuditError, AuditLog, Entry, Kind, Outcome};

/// Records that are looked through: what is in flight lies among the last ones.
const LOOK_BACK: usize = 10_000;

/// Writes an `unknown` result for every intent that has none, and returns how many there were. To be
/// called when the daemon starts, before it takes calls: until then nothing is in flight.
pub fn close_orphans(audit: &AuditLog) -> Result<usize, AuditError> {
    let records = audit.tail(LOOK_BACK)?;
    let ended: HashSet<&str> =
        records.iter().filter(|record| record.kind == Kind::Result).filter_map(|r| r.call_id.as_deref()).collect();
    let mut open = HashMap::new();
    for record in records.iter().filter(|record| record.kind == Kind::Call && record.outcome == Outcome::Permit) {
        if let Some(call) = record.call_id.as_deref().filter(|call| !ended.contains(call)) {
            open.insert(call, record);
        }
    }
    let mut open: Vec<_> = open.into_iter().collect();
    open.sort_by_key(|(_, intent)| intent.seq);
    for (call, intent) in &open {
        let mut entry = Entry::new(Kind::Result, Outcome::Unknown, "daemon")
            .call(*call)
            .reason("the daemon ended before the call did")
            .detail(json!({ "intent_seq": intent.seq }));
        (entry.agent, entry.server, entry.tool) = (intent.agent.clone(), intent.server.clone(), intent.tool.clone());
        audit.record(entry)?;
    }
    Ok(open.len())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::Store;

    #[test]
    fn an_intent_without_an_end_gets_one_and_only_once() {
        let dir = tempfile::tempdir().unwrap();
        let log = AuditLog::new(Arc::new(Store::open(&dir.path().join("s")).unwrap()));
        let intent =
            |call: &str| Entry::new(Kind::Call, Outcome::Permit, "a@x.y").agent("a@x.y").server("s").call(call);
        log.record(intent("c1")).unwrap();
        let seq = log.record(intent("c2")).unwrap();
        log.record(Entry::new(Kind::Result, Outcome::Ok, "a@x.y").call("c1")).unwrap();
        assert_eq!(close_orphans(&log).unwrap(), 1);
        let last = log.tail(1).unwrap().remove(0);
        assert_eq!((last.kind, last.outcome, last.call_id.as_deref()), (Kind::Result, Outcome::Unknown, Some("c2")));
        assert_eq!((last.agent.as_deref(), &last.detail["intent_seq"]), (Some("a@x.y"), &json!(seq)));
        assert_eq!(close_orphans(&log).unwrap(), 0);
    }
}
