use super::*;

fn of(text: &str) -> Vec<&'static str> {
    classes(Some("sql"), text).into_iter().collect()
}

#[test]
fn plain_statements_have_their_class() {
    for (text, class) in [
        ("SELECT 1", "select"),
        ("select a, b from t where c = 'it''s; delete from t' -- drop table t\n", "select"),
        ("(SELECT 1) UNION ALL (SELECT 2);", "select"),
        ("WITH a AS (SELECT 1) SELECT * FROM a", "select"),
        ("VALUES (1, 2)", "select"),
        ("SELECT replace(a, 'x', 'y') FROM t", "select"),
        ("/* why */ EXPLAIN SELECT \"update\" FROM t", "select"),
        ("INSERT INTO t VALUES (1)", "insert"),
        ("REPLACE INTO t VALUES (1)", "insert"),
        ("UPDATE t SET a = 1", "update"),
        ("DELETE FROM t", "delete"),
        ("DROP TABLE t", "ddl"),
        ("CREATE TABLE t (a int)", "ddl"),
        ("PRAGMA writable_schema", "unknown"),
        ("hello", "unknown"),
        ("", "unknown"),
        ("CALL p()", "unknown"),
    ] {
        assert_eq!(of(text), [class], "{text}");
    }
}

/// Each passed for a `select` with somebody's policy.
#[test]
fn no_trick_makes_a_change_look_like_a_select() {
    for trick in [
        "SELECT 1; DELETE FROM t",
        "SELECT 1;;;DELETE FROM t",
        ";DELETE FROM t",
        "SELECT 1 DELETE FROM t",
        "SELECT 1 /*; */ ; /* */ DROP TABLE t",
        "SELECT '\\'; DELETE FROM t; --'",
        "SELECT '\\'; DROP TABLE t; VACUUM FULL; --'",
        "SELECT \"\\\"; DELETE FROM t; --\"",
        "SELECT 1 --1; DELETE FROM t",
        "SELECT 1 # ; \n; DELETE FROM t",
        "SELECT 1 /* /* */ ; DELETE FROM t; -- */",
        "SELECT $$'$$; DELETE FROM t; --'",
        "SELECT $a$ $b$ $a$; DELETE FROM t; --$b$",
        "SELECT E'\\''; DELETE FROM t; --'",
        "SELECT [a'b]; DELETE FROM t; --'",
        "SELECT `a'b`; DELETE FROM t; --'",
        "WITH a AS (DELETE FROM t RETURNING *) SELECT * FROM a",
        "WITH a AS (INSERT INTO t VALUES (1) RETURNING *) SELECT * FROM a",
        "with a as (select 1) update t set b = 1",
        "EXPLAIN ANALYZE DELETE FROM t",
        "/*!50000 DELETE FROM t */",
        "SELECT 1 /*!; DELETE FROM t */",
        "SELECT * INTO t2 FROM t",
        "SELECT 'x' INTO OUTFILE '/tmp/x'",
        "SELECT load_extension('x.so')",
        "SELECT pg_read_file('/etc/shadow')",
        "SELECT query_to_xml('delete from t', true, true, '')",
        "SELECT dblink_exec('delete from t')",
        "EXEC xp_cmdshell 'x'",
        "SELECT 1 EXEC('DELETE FROM t')",
        "DO $$ BEGIN DELETE FROM t; END $$",
        "PREPARE a FROM 'DELETE FROM t'",
        "\u{feff}DELETE FROM t",
        "\u{a0}DELETE FROM t",
        "ＤＥＬＥＴＥ FROM t",
        "de/**/lete from t",
        "DELETE\u{b}FROM t",
        "DELETE\u{0}FROM t",
        "SELECT 1\rDELETE FROM t",
        "-- x\rDELETE FROM t",
        "((((DELETE FROM t))))",
        "TRUNCATE t",
        "ATTACH DATABASE '/etc/x' AS x",
        "SELECT * FROM t FOR UPDATE",
        "\\! rm -rf /",
        ".shell rm",
        "COPY t TO PROGRAM 'sh'",
        "SELECT 1 UNION SELECT 2 INTO DUMPFILE '/x'",
        "BEGIN; SELECT 1",
        "SELECT \"pg_read_file\"('/etc/passwd')",
        "SELECT pg_catalog.\"PG_Read_File\" /* */ ('/etc/passwd')",
        "SELECT U&\"pg_read_f\\0069le\"('/etc/passwd')",
        "SELECT `load_file`('/etc/passwd')",
        "SELECT [load_extension]('x')",
        "SELECT pg_notify('a', 'b')",
        "SELECT utl_http.request('http://x') FROM dual",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM a JOIN \"https://x.example/b.parquet\" USING (id)",
        "SELECT * FROM read_csv('x')",
        "SELECT * FROM url ('http://x/')",
        "SELECT getenv('HOME')",
        "SELECT 'a",
        "FROM t SELECT *",
    ] {
        assert_ne!(of(trick), ["select"], "{trick}");
        assert!(!of(trick).is_empty(), "{trick}");
    }
    for trick in ["SELECT 1; DELETE FROM t", "SELECT '\\'; DELETE FROM t; --'", "SELECT 1 --1; DELETE FROM t"] {
        assert!(of(trick).contains(&"multi") && of(trick).contains(&"delete"), "{trick}: {:?}", of(trick));
    }
}

#[test]
fn prose_is_no_sql_unless_it_stands_where_sql_stands() {
    for text in ["Delete the old notes, please", "select", "update me", "a; b", "with love", "/etc/passwd", "it's"] {
        assert!(classes(Some("text"), text).is_empty(), "{text}: {:?}", classes(Some("text"), text));
        assert!(!classes(Some("sql"), text).is_empty(), "{text}");
    }
    assert!(classes(Some("query"), "cheap flights to Rome").is_empty());
    assert_eq!(classes(Some("query"), "delete everything").first(), Some(&"delete"));
    for text in ["1; DROP TABLE users", "x'; DELETE FROM t WHERE 1=1 --", "SELECT * FROM t"] {
        assert!(!classes(Some("id"), text).is_empty(), "{text}");
        assert!(!classes(None, text).is_empty(), "{text}");
    }
}

#[test]
fn a_text_that_is_too_long_is_not_passed_over() {
    let long = format!("SELECT 1 /* {} */", "x".repeat(MOST_BYTES));
    assert_eq!(of(&long), ["unknown"]);
    assert!(classes(Some("id"), &format!("{}; DROP TABLE t", "x y ".repeat(MOST_BYTES))).contains("unknown"));
}

proptest::proptest! {
    #[test]
    fn a_change_before_any_text_is_never_a_select(tail in ".{0,80}") {
        for change in ["DELETE FROM t ", "INSERT INTO t ", "UPDATE t SET ", "DROP TABLE t "] {
            let found = classes(Some("sql"), &format!("{change}{tail}"));
            proptest::prop_assert!(!found.contains("select") || found.len() > 1);
        }
    }

    #[test]
    fn a_stacked_change_is_seen_behind_any_whole_select(name in "[a-z]{1,8}", quoted in "[^'\\\\$\\[`#*\"/-]{0,20}") {
        let found = classes(Some("sql"), &format!("SELECT {name} FROM t WHERE a = '{quoted}'; DELETE FROM t"));
        proptest::prop_assert!(found.contains("delete") && found.contains("multi"));
    }

    #[test]
    fn any_text_below_sql_has_a_class(text in "(\\PC|[;'\"`$#\\\\\\[\\]/*-]){0,80}") {
        proptest::prop_assert!(!classes(Some("sql"), &text).is_empty());
    }
}
