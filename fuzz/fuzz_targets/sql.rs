//! SQL has a class, and a change before any text is never a mere select.
#![no_main]

use lazaret::policy::derive::sql_classes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    assert!(!sql_classes("sql", text).is_empty());
    let changed = sql_classes("sql", &format!("DELETE FROM t {text}"));
    assert!(changed.len() > 1 || !changed.contains("select"));
});
