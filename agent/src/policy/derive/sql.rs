//! What a text would do to a database, in every way that databases read it.
//!
//! Invariant: the answer errs towards more. Databases disagree on what is a string and what a
//! comment (`'\'; DELETE FROM t; --'` is one string to MySQL and two statements to the others), so
//! the text is cut by the rules of each, and what any of them would do is in the set. A word that
//! changes something counts wherever it stands outside of quotes, not only as the first one.
//! `select` alone means: in no reading anything else. What is not understood is `unknown`.

mod lex;
mod words;

use std::collections::BTreeSet;

use self::lex::{Cut, DIALECTS, Token};
use self::words::{
    ACTING_CALLS, ACTING_FUNCTIONS, ANY_KEY_SECOND, CHANGES, DEFINES, FILES, FIRST_IN_QUERIES, OPAQUE, OPAQUE_FIRST,
    QUERY_KEYS, READS, SQL_KEYS,
};

pub type Classes = BTreeSet<&'static str>;

/// Longest text that is cut; a longer one is `unknown` where it could be SQL at all.
const MOST_BYTES: usize = 1 << 20;

/// The classes of a text below `key`; empty where it is no SQL: `select`, `insert`, `update`,
/// `delete`, `ddl`, `multi` (more than one statement) and `unknown`.
pub(super) fn classes(key: Option<&str>, text: &str) -> Classes {
    let place = Place::of(key);
    let mut found = Classes::new();
    if place == Place::Anywhere && !text.bytes().any(|b| b.is_ascii_whitespace() || b == b'/') {
        return found;
    }
    if text.len() > MOST_BYTES {
        let head = &text[..text.floor_char_boundary(4096)];
        if place == Place::Sql || !classes(key, head).is_empty() || text.contains(';') {
            found.insert("unknown");
        }
        return found;
    }
    let cuts: Vec<Cut> = DIALECTS.iter().map(|dialect| lex::cut(text, dialect)).collect();
    let is_sql = place == Place::Sql || cuts.iter().any(|cut| cut.statements().any(|s| place.takes_for_sql(s)));
    if !is_sql {
        // A quote that was left open may end somebody else's: `x'; DELETE FROM t --`.
        let pieces = lex::cut(text, &lex::UNQUOTED);
        let behind = pieces.statements().skip(1).filter(|piece| Place::Anywhere.takes_for_sql(piece));
        for piece in behind {
            found.extend(["multi", "unknown"]);
            classify(piece, &mut found);
        }
        return found;
    }
    let whole = cuts.iter().any(|cut| cut.whole);
    for cut in &cuts {
        let statements: Vec<&[Token]> = cut.statements().collect();
        // What no database could read to its end is an error there, unless it ran the first statements before.
        if whole && !cut.whole && statements.len() < 2 {
            continue;
        }
        if statements.len() > 1 {
            found.insert("multi");
        }
        if cut.executable_comment || !cut.whole || statements.is_empty() {
            found.insert("unknown");
        }
        statements.iter().for_each(|statement| classify(statement, &mut found));
    }
    found
}

/// Where a text stands says how readily it is taken for SQL.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A member that is called `sql`.
    Sql,
    /// A member that is called `query`: SQL, or what somebody looks for.
    Query,
    Anywhere,
}

impl Place {
    fn of(key: Option<&str>) -> Self {
        let Some(key) = key.filter(|key| key.len() <= 64) else { return Place::Anywhere };
        let plain: String = key.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
        match plain.as_str() {
            key if SQL_KEYS.contains(&key) || key.contains("sql") => Place::Sql,
            key if QUERY_KEYS.contains(&key) => Place::Query,
            _ => Place::Anywhere,
        }
    }

    fn takes_for_sql(self, statement: &[Token]) -> bool {
        let mut words = statement.iter().filter_map(Token::word);
        let Some(first) = words.next() else { return false };
        let seconds = ANY_KEY_SECOND.iter().find(|(word, _)| *word == first).map(|(_, seconds)| *seconds);
        let confirmed = seconds.is_some_and(|seconds| words.any(|word| seconds.contains(&word)));
        let listed =
            first == "select" && statement.iter().skip(1).any(|token| matches!(token, Token::Other | Token::Quoted(_)));
        // `DO $$...$$` is SQL, and "do you know" is not.
        let odd =
            statement.iter().skip(1).any(|token| matches!(token, Token::Other | Token::Quoted(_) | Token::Strange));
        let command = odd && (OPAQUE.contains(&first) || OPAQUE_FIRST.contains(&first) || DEFINES.contains(&first));
        confirmed || listed || (self == Place::Query && (command || FIRST_IN_QUERIES.contains(&first)))
    }
}

fn classify(statement: &[Token], found: &mut Classes) {
    let words: Vec<&str> = statement.iter().filter_map(Token::word).collect();
    let first = words.first().copied().unwrap_or_default();
    let before = found.len();
    let mut acts = false;
    for (at, token) in statement.iter().enumerate() {
        let calls = matches!(statement.get(at + 1), Some(Token::Open));
        // A function's name may be quoted: `"pg_read_file"('/etc/passwd')`.
        let called = token.word().or_else(|| token.quoted().filter(|_| calls));
        let reaches = called.is_some_and(|name| is_one_of(&ACTING_FUNCTIONS, name))
            || called.is_some_and(|name| calls && is_one_of(&ACTING_CALLS, name))
            || token.quoted().is_some_and(|text| at > 0 && reads_a_file(&statement[at - 1], text));
        if reaches {
            found.insert("unknown");
            acts = true;
        }
        let Some(word) = token.word() else { continue };
        // `replace(x, 'a', 'b')` and `insert(x, 1, 1, 'b')` are functions on strings.
        if matches!(word, "replace" | "insert") && calls && word != first {
            continue;
        }
        if let Some((_, class)) = CHANGES.iter().find(|(name, _)| *name == word) {
            found.insert(class);
            acts = true;
        }
        if DEFINES.contains(&word) && (word == first || !calls) {
            found.insert("ddl");
            acts = true;
        }
        if word == "truncate" {
            found.insert("delete");
        }
        if OPAQUE.contains(&word) && (word != "into" || !into_is_a_change_s(&words)) {
            found.insert("unknown");
            acts = true;
        }
    }
    if statement.iter().any(|token| matches!(token, Token::Strange)) || OPAQUE_FIRST.contains(&first) {
        found.insert("unknown");
        acts = true;
    }
    if READS.contains(&first) && !acts {
        found.insert("select");
    } else if found.len() == before && !acts {
        found.insert("unknown");
    }
}

fn is_one_of(names: &[&str], word: &str) -> bool {
    names.iter().any(|name| name.strip_suffix('*').map_or(*name == word, |head| word.starts_with(head)))
}

/// `FROM '/etc/passwd'`: some databases take a file or a URL for a table.
fn reads_a_file(before: &Token, text: &str) -> bool {
    matches!(before.word(), Some("from" | "join"))
        && (text.contains(['/', '\\']) || FILES.iter().any(|end| text.ends_with(end)))
}

/// `INSERT INTO` and the like; any other `INTO` makes a table or a file.
fn into_is_a_change_s(words: &[&str]) -> bool {
    let count = |names: &[&str]| words.iter().filter(|word| names.contains(word)).count();
    count(&["into"]) <= count(&["insert", "replace", "upsert", "merge"])
}

#[cfg(test)]
mod tests;
