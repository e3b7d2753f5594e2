//! SQL has a class; a change before or behind any text is never a mere select; a name of a database changes nothing.

use lazaret::policy::derive::sql_classes;

fuzz_target!(|text: &str| {
    let classes = sql_classes("sql", text);
    assert!(!classes.is_empty());
    assert_eq!(sql_classes("SQL", text), classes);
    let only_select = |text: &str| sql_classes("sql", text).into_iter().eq(["select"]);
    assert!(!only_select(&format!("DELETE FROM t {text}")));
    assert!(!only_select(&format!("{text}\n; DELETE FROM t")), "whatever was left open hides it from somebody only");
    assert!(!only_select(&format!("WITH x AS (DELETE FROM t RETURNING 1) {text}")));
});
