//! Edits of a JSON text that leave every byte alone that they do not have to change.
//!
//! Texts are strict JSON, and no object names a member twice: the client that reads the file
//! must see what we see.

use std::collections::HashSet;

use jsonc_parser::ast::{Object, Value as Node};
use jsonc_parser::{CollectOptions, ParseOptions, ParseResult};
use serde::{Deserialize, Serialize};

use crate::config::line_column;
use crate::proxy::json::Json;

/// Deeper than any client's config.
const MAX_DEPTH: usize = 128;

/// Where a text is not what it has to be.
#[derive(Debug)]
pub(super) struct Syntax {
    pub line: usize,
    pub column: usize,
    pub message: String,
}

/// A member that was taken out, with the bytes that went with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// The objects above it, from the root.
    pub path: Vec<String>,
    pub name: String,
    /// Its value as it was written.
    pub value: String,
    /// Its place among its siblings.
    pub index: usize,
    /// Everything that was taken out: comma, blanks, name and value.
    pub text: String,
    pub side: Side,
}

/// Where `Cut::text` has its comma.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// At its end: another member followed.
    End,
    /// At its start: it was the last of several.
    Start,
    /// Nowhere: it was the only one.
    Only,
}

/// An object, or where and why it is none.
pub(super) fn check(text: &str) -> Result<Json, Syntax> {
    let parsed = parse(text)?;
    if let Some((at, name)) = parsed.value.as_ref().and_then(doubled) {
        let (line, column) = line_column(text, at);
        return Err(Syntax { line, column, message: format!("the member {name:?} stands twice in one object") });
    }
    match Json::parse(text, MAX_DEPTH) {
        Ok(json @ Json::Object(_)) => Ok(json),
        Ok(_) => Err(Syntax { line: 1, column: 1, message: "it is no JSON object".into() }),
        Err(e) => Err(Syntax { line: 1, column: 1, message: e.to_string() }),
    }
}

/// Where an object names a member a second time, and which.
fn doubled(node: &Node<'_>) -> Option<(usize, String)> {
    match node {
        Node::Object(object) => {
            let mut seen = HashSet::new();
            object.properties.iter().find_map(|member| {
                let name = member.name.as_str();
                if seen.insert(name) { doubled(&member.value) } else { Some((member.range.start, name.to_owned())) }
            })
        }
        Node::Array(array) => array.elements.iter().find_map(doubled),
        _ => None,
    }
}

fn parse(text: &str) -> Result<ParseResult<'_>, Syntax> {
    let strict = ParseOptions {
        allow_comments: false,
        allow_loose_object_property_names: false,
        allow_trailing_commas: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    };
    jsonc_parser::parse_to_ast(text, &CollectOptions::default(), &strict).map_err(|e| Syntax {
        line: e.line_display(),
        column: e.column_display(),
        message: e.kind().to_string(),
    })
}

/// Gives the object at `path` to `f`; `None` where there is none.
pub(super) fn at<T>(text: &str, path: &[String], f: impl FnOnce(&Object<'_>) -> Option<T>) -> Option<T> {
    let parsed = parse(text).ok()?;
    let Some(Node::Object(root)) = &parsed.value else { return None };
    let mut object = root;
    for name in path {
        object = object.get_object(name)?;
    }
    f(object)
}

/// Takes the member `name` of the object at `path` out. `None` where there is no such member.
pub(super) fn cut(text: &str, path: &[String], name: &str) -> Option<(String, Cut)> {
    at(text, path, |object| {
        let members = &object.properties;
        let index = members.iter().position(|member| member.name.as_str() == name)?;
        let own = &members[index].range;
        let (range, side) = match (index.checked_sub(1).map(|before| &members[before]), members.get(index + 1)) {
            (_, Some(next)) => (own.start..next.range.start, Side::End),
            (Some(before), None) => (before.range.end..own.end, Side::Start),
            (None, None) => (object.range.start + 1..object.range.end - 1, Side::Only),
        };
        let cut = Cut {
            path: path.to_vec(),
            name: name.into(),
            value: text.get(jsonc_parser::common::Ranged::range(&members[index].value).start..own.end)?.into(),
            index,
            text: text.get(range.clone())?.into(),
            side,
        };
        Some(([text.get(..range.start)?, text.get(range.end..)?].concat(), cut))
    })
}

/// Puts a member back, byte for byte where its surroundings still are what they were. `None`
/// where another member has its name now, or the objects above it are gone.
pub(super) fn put_back(text: &str, cut: &Cut) -> Option<String> {
    let exact = at(text, &cut.path, |object| {
        let members = &object.properties;
        if members.iter().any(|member| member.name.as_str() == cut.name) {
            return Some(None);
        }
        let place = match cut.side {
            Side::End => members.get(cut.index)?.range.start,
            Side::Start if members.len() == cut.index => members.last()?.range.end,
            Side::Only if members.is_empty() => {
                let (start, end) = (object.range.start + 1, object.range.end - 1);
                return Some(Some([text.get(..start)?, &cut.text, text.get(end..)?].concat()));
            }
            _ => return None,
        };
        Some(Some([text.get(..place)?, &cut.text, text.get(place..)?].concat()))
    });
    match exact {
        Some(done) => done,
        None => append(text, &cut.path, &cut.name, &cut.value),
    }
}

/// Sets the member `name` of the object at `path`; objects on the way are made.
pub(super) fn put(text: &str, path: &[String], name: &str, value: &serde_json::Value) -> Option<String> {
    let missing = at(text, path, |_| Some(())).is_none();
    if let Some((last, above)) = path.split_last().filter(|_| missing) {
        let made = put(text, above, last, &serde_json::json!({}))?;
        return append_value(&made, path, name, value);
    }
    let range = at(text, path, |object| {
        let member = object.properties.iter().find(|member| member.name.as_str() == name)?;
        Some(jsonc_parser::common::Ranged::range(&member.value))
    });
    match range {
        Some(range) => {
            let written = Style::of(text).write(value, path.len() + 1);
            Some([text.get(..range.start)?, &written, text.get(range.end..)?].concat())
        }
        None => append_value(text, path, name, value),
    }
}

fn append_value(text: &str, path: &[String], name: &str, value: &serde_json::Value) -> Option<String> {
    let written = Style::of(text).write(value, path.len() + 1);
    append(text, path, name, &written)
}

/// A new last member, in the style of the file.
fn append(text: &str, path: &[String], name: &str, written: &str) -> Option<String> {
    let style = Style::of(text);
    at(text, path, |object| {
        let member = format!("{}{}{written}", Json::string(name).to_text(), if style.pretty { ": " } else { ":" });
        let inside = style.line(path.len() + 1);
        let (range, new) = match object.properties.last() {
            Some(last) => (last.range.end..last.range.end, format!(",{inside}{member}")),
            None => {
                (object.range.start + 1..object.range.end - 1, format!("{inside}{member}{}", style.line(path.len())))
            }
        };
        Some([text.get(..range.start)?, &new, text.get(range.end..)?].concat())
    })
}

/// How a file is laid out, seen from its first member.
pub(super) struct Style {
    pretty: bool,
    newline: &'static str,
    indent: String,
}

impl Style {
    pub(super) fn of(text: &str) -> Self {
        let first = at(text, &[], |root| {
            let first = root.properties.first()?;
            text.get(root.range.start + 1..first.range.start).map(str::to_owned)
        });
        let newline = if text.contains("\r\n") { "\r\n" } else { "\n" };
        match first {
            None => Self { pretty: true, newline, indent: "  ".into() },
            Some(blank) => Self {
                pretty: blank.contains('\n'),
                newline,
                indent: blank.rsplit('\n').next().unwrap_or_default().to_owned(),
            },
        }
    }

    /// A line break and the indentation at `depth`.
    pub(super) fn line(&self, depth: usize) -> String {
        if self.pretty { format!("{}{}", self.newline, self.indent.repeat(depth)) } else { String::new() }
    }

    pub(super) fn write(&self, value: &serde_json::Value, depth: usize) -> String {
        if !self.pretty {
            return value.to_string();
        }
        let mut out = Vec::new();
        let format = serde_json::ser::PrettyFormatter::with_indent(self.indent.as_bytes());
        // Writing JSON into memory does not fail.
        let _ = serde::Serialize::serialize(value, &mut serde_json::Serializer::with_formatter(&mut out, format));
        String::from_utf8_lossy(&out).replace('\n', &self.line(depth))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn path(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).into()).collect()
    }

    #[test]
    fn a_member_is_added_in_the_style_of_the_file() {
        let add = |text: &str| {
            put(text, &path(&["mcpServers"]), "lazaret", &json!({"command": "/l", "args": ["c"]})).unwrap()
        };
        assert_eq!(
            add("{\n  \"a\": 1.0,\n  \"mcpServers\": {}\n}\n"),
            "{\n  \"a\": 1.0,\n  \"mcpServers\": {\n    \"lazaret\": {\n      \"command\": \"/l\",\n      \"args\": [\n        \"c\"\n      ]\n    }\n  }\n}\n"
        );
        assert_eq!(
            add(r#"{"a":1,"mcpServers":{"x":{}}}"#),
            r#"{"a":1,"mcpServers":{"x":{},"lazaret":{"command":"/l","args":["c"]}}}"#
        );
        assert!(add("{\r\n\t\"a\": 1\r\n}").ends_with(",\r\n\t\"mcpServers\": {\r\n\t\t\"lazaret\": {\r\n\t\t\t\"command\": \"/l\",\r\n\t\t\t\"args\": [\r\n\t\t\t\t\"c\"\r\n\t\t\t]\r\n\t\t}\r\n\t}\r\n}"));
        assert!(add("{}\n").starts_with("{\n  \"mcpServers\": {\n    \"lazaret\""));
    }

    #[test]
    fn anything_but_strict_json_without_doubled_members_is_refused_with_its_place() {
        for (text, line, column) in [
            ("{\n \"a\": 1, // no\n}", 2, 10),
            ("{\n \"a\": 1,\n}", 2, 8),
            ("{\"a\":1,\n\"a\":2}", 2, 1),
            ("[]", 1, 1),
            ("", 1, 1),
            ("{'a':1}", 1, 2),
        ] {
            let error = check(text).unwrap_err();
            assert_eq!((error.line, error.column), (line, column), "{text}: {}", error.message);
        }
        assert!(check("{\"a\": {\"b\": [1, null]}}").is_ok());
    }

    #[test]
    fn a_member_comes_back_where_the_file_changed_around_it() {
        let text = "{\n  \"s\": {\n    \"a\": {\"x\":  1},\n    \"b\": 2\n  }\n}";
        let (without, a) = cut(text, &path(&["s"]), "a").unwrap();
        let (empty, _) = cut(&without, &path(&["s"]), "b").unwrap();
        assert_eq!(empty, "{\n  \"s\": {}\n}");
        assert_eq!(put_back(&empty, &a).unwrap(), "{\n  \"s\": {\n    \"a\": {\"x\":  1}\n  }\n}");
        assert_eq!(put_back(text, &a), None, "the name is taken");
        assert_eq!(put_back("{}", &a), None, "the object is gone");
    }

    /// Objects in two levels, laid out in several ways.
    fn file() -> impl Strategy<Value = (String, Vec<String>)> {
        let names = prop::collection::btree_set("[a-dé\"\\\\ ]{1,4}", 1..5);
        (names, 0..3usize).prop_map(|(names, layout)| {
            let names: Vec<String> = names.into_iter().collect();
            let members: serde_json::Map<String, Value> =
                names.iter().map(|name| (name.clone(), json!({"command": name, "n": [1, {"x": null}]}))).collect();
            let value = json!({"first": 1, "s": members, "last": "}"});
            let text = match layout {
                0 => value.to_string(),
                1 => serde_json::to_string_pretty(&value).unwrap() + "\n",
                _ => serde_json::to_string_pretty(&value).unwrap().replace('\n', "\r\n"),
            };
            (text, names)
        })
    }

    proptest! {
        #[test]
        fn what_is_cut_and_put_back_is_the_same_text((text, names) in file(), picks in prop::collection::vec(any::<prop::sample::Index>(), 0..5)) {
            let (mut now, mut cuts) = (text.clone(), Vec::new());
            for pick in picks {
                if let Some((without, cut)) = cut(&now, &path(&["s"]), pick.get(&names).as_str()) {
                    prop_assert!(check(&without).is_ok(), "{}", without);
                    (now, _) = (without, cuts.push(cut));
                }
            }
            while let Some(cut) = cuts.pop() {
                now = put_back(&now, &cut).unwrap();
            }
            prop_assert_eq!(now, text);
        }

        #[test]
        fn what_is_put_and_cut_leaves_the_text((text, _) in file()) {
            let added = put(&text, &path(&["s"]), "lazaret", &json!({"a": [1]})).unwrap();
            let mut expected: Value = serde_json::from_str(&text).unwrap();
            expected["s"]["lazaret"] = json!({"a": [1]});
            prop_assert_eq!(serde_json::from_str::<Value>(&added).unwrap(), expected);
            prop_assert_eq!(cut(&added, &path(&["s"]), "lazaret").unwrap().0, text);
        }

        #[test]
        fn no_text_makes_it_panic(text in "[\\[\\]{}:,\"a-c0-9\\n .\\\\é-]{0,40}") {
            let _ = check(&text);
            let _ = cut(&text, &path(&["a"]), "b");
            let _ = put(&text, &path(&["a"]), "b", &json!(1));
        }
    }
}
