//! The words that say what a statement does, in lower case.

/// First words of statements that read.
pub(super) const READS: [&str; 8] = ["select", "with", "values", "table", "explain", "describe", "desc", "show"];

/// Words that change rows, wherever they stand.
pub(super) const CHANGES: [(&str, &str); 6] = [
    ("insert", "insert"),
    ("replace", "insert"),
    ("upsert", "insert"),
    ("update", "update"),
    ("merge", "update"),
    ("delete", "delete"),
];

/// Words that change what there is beside rows.
pub(super) const DEFINES: [&str; 14] = [
    "create", "alter", "drop", "truncate", "rename", "grant", "revoke", "attach", "detach", "reindex", "vacuum",
    "cluster", "refresh", "reassign",
];

/// Words after which nobody can tell from the text what happens: stored code, files, settings.
pub(super) const OPAQUE: [&str; 22] = [
    "into",
    "outfile",
    "dumpfile",
    "exec",
    "execute",
    "call",
    "copy",
    "load",
    "infile",
    "pragma",
    "prepare",
    "do",
    "declare",
    "begin",
    "handler",
    "install",
    "import",
    "unload",
    "shutdown",
    "waitfor",
    "openrowset",
    "opendatasource",
];

/// Statements that neither read nor change rows, or that a client program acts on.
pub(super) const OPAQUE_FIRST: [&str; 18] = [
    "set",
    "reset",
    "use",
    "start",
    "commit",
    "rollback",
    "savepoint",
    "release",
    "lock",
    "unlock",
    "kill",
    "listen",
    "notify",
    "comment",
    "analyze",
    "go",
    "delimiter",
    "from",
];

/// Functions that reach files, hosts, other sessions, or run text as SQL. `*` stands for the rest of a name.
pub(super) const ACTING_FUNCTIONS: [&str; 43] = [
    "xp_*",
    "sp_*",
    "dblink*",
    "lo_*",
    "pg_read_*",
    "pg_ls_*",
    "pg_terminate_*",
    "pg_cancel_*",
    "pg_reload_*",
    "pg_sleep*",
    "pg_advisory_*",
    "pg_switch_*",
    "pg_write_*",
    "pg_file_*",
    "pg_logical_*",
    "pg_replication_*",
    "pg_create_*",
    "pg_drop_*",
    "pg_copy_*",
    "pg_import_*",
    "pg_rotate_*",
    "pg_promote",
    "pg_notify",
    "pg_execute_*",
    "dbms_*",
    "utl_*",
    "fts3_tokenizer",
    "pg_stat_reset*",
    "query_to_xml*",
    "cursor_to_xml*",
    "database_to_xml*",
    "setval",
    "nextval",
    "set_config",
    "load_extension",
    "load_file",
    "readfile",
    "writefile",
    "edit",
    "sleep",
    "benchmark",
    "sys_exec",
    "sys_eval",
];

/// The same, of names that columns have too: they count only where they are called.
pub(super) const ACTING_CALLS: [&str; 22] = [
    "read_*",
    "sniff_*",
    "parquet_scan",
    "iceberg_scan",
    "delta_scan",
    "sqlite_scan",
    "sqlite_attach",
    "mysql*",
    "postgres*",
    "mongodb",
    "redis",
    "jdbc",
    "odbc",
    "url*",
    "file",
    "s3*",
    "hdfs*",
    "remote*",
    "executable*",
    "openquery",
    "getenv",
    "get_lock",
];

/// Ends of the names of files that a query can be made from.
pub(super) const FILES: [&str; 8] = [".csv", ".tsv", ".txt", ".json", ".parquet", ".db", ".sqlite", ".duckdb"];

/// Members that hold SQL, by their letters and digits; every name with `sql` in it does too.
pub(super) const SQL_KEYS: [&str; 6] = ["statement", "statements", "stmt", "stmts", "ddl", "dml"];

/// Members that hold SQL, or a search.
pub(super) const QUERY_KEYS: [&str; 4] = ["query", "queries", "q", "command"];

/// First words that make the text of such a member SQL.
pub(super) const FIRST_IN_QUERIES: [&str; 28] = [
    "select", "insert", "update", "delete", "merge", "replace", "with", "values", "create", "alter", "drop",
    "truncate", "grant", "revoke", "pragma", "attach", "detach", "vacuum", "reindex", "exec", "execute", "call",
    "copy", "explain", "begin", "declare", "upsert", "load",
];

/// Anywhere else the first word must have a second one beside it: prose starts with `delete` too.
pub(super) const ANY_KEY_SECOND: [(&str, &[&str]); 18] = [
    ("select", &["from", "union", "where"]),
    ("with", &["select", "insert", "update", "delete"]),
    ("insert", &["into", "values", "select"]),
    ("replace", &["into", "values"]),
    ("upsert", &["into", "values"]),
    ("update", &["set"]),
    ("delete", &["from", "where"]),
    ("merge", &["into", "using"]),
    ("truncate", &["table"]),
    ("create", OBJECTS),
    ("alter", OBJECTS),
    ("drop", OBJECTS),
    ("grant", &["on", "to"]),
    ("revoke", &["on", "from"]),
    ("attach", &["database", "as"]),
    ("exec", &["xp_cmdshell", "sp_executesql"]),
    ("execute", &["immediate"]),
    ("copy", &["program", "stdin", "stdout"]),
];

const OBJECTS: &[&str] = &[
    "table",
    "database",
    "schema",
    "view",
    "index",
    "user",
    "role",
    "function",
    "procedure",
    "trigger",
    "extension",
    "type",
    "sequence",
    "column",
    "temp",
    "temporary",
    "unique",
    "materialized",
    "virtual",
    "owned",
];
