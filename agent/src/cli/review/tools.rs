//! A tool as a person reads it: its title, hints and parameters in full words, and of the rest of
//! its descriptor, which the pin covers too, at least that it is there.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use crate::admission::model::denied_before;
use crate::api::types::ToolView;
use crate::cli::out;

/// Levels of a schema that are written out; deeper ones are only counted.
const MAX_DEPTH: usize = 6;
/// Characters of one default, list of choices or annotation; the whole is in the descriptor.
const MAX_VALUE: usize = 300;

/// The lines of one tool, without a terminal's control characters in them. A bar stands before
/// each line of the server's own prose, so that it cannot pose as one of ours.
pub(in crate::cli) fn lines(tool: &ToolView, full: bool) -> Vec<String> {
    let mut page = vec![format!("  {} [{}]", out::visible(&tool.name), tool.state)];
    let descriptor: Value = serde_json::from_str(&tool.descriptor).unwrap_or_default();
    if let Some(denied) = denied_before(tool.state, &tool.history) {
        let why = format!("denied by {} ({}), and changed since: decide on it by itself", denied.by, denied.why);
        page.push(format!("      {}", out::visible(&why)));
    }
    if let Some(title) = &tool.title {
        page.push(format!("      title: {}", out::visible(title)));
    }
    let description = tool.description.as_deref().unwrap_or("(no description)").trim();
    page.extend(description.lines().map(|line| format!("      | {}", out::visible(line))));
    match descriptor.get("annotations") {
        None | Some(Value::Null) => {}
        Some(Value::Object(hints)) => {
            let hints: Vec<String> = hints.iter().map(|(name, value)| format!("{name}={}", short(value))).collect();
            page.push(format!("      says of itself: {}", out::visible(&hints.join(", "))));
        }
        Some(other) => page.push(format!("      says of itself: {}", short(other))),
    }
    schema("parameters", descriptor.get("inputSchema"), &mut page);
    if let Some(output) = descriptor.get("outputSchema") {
        schema("answers", Some(output), &mut page);
    }
    let told = ["name", "title", "description", "annotations", "inputSchema", "outputSchema"];
    let rest = descriptor.as_object().into_iter().flatten().filter(|(name, _)| !told.contains(&name.as_str()));
    let rest: Vec<String> = rest.map(|(name, value)| format!("{name} ({} bytes)", value.to_string().len())).collect();
    if !rest.is_empty() {
        page.push(format!("      also in its descriptor: {}", out::visible(&rest.join(", "))));
    }
    if full {
        page.push(format!("      digest: {}", tool.digest));
        let pretty = pretty(&tool.descriptor);
        page.extend(pretty.lines().map(|line| format!("      {}", out::visible(line))));
    }
    page
}

/// JSON text for reading; what cannot be read is shown as it is.
pub(in crate::cli) fn pretty(text: &str) -> String {
    serde_json::from_str::<Value>(text)
        .and_then(|value| serde_json::to_string_pretty(&value))
        .unwrap_or_else(|_| text.to_owned())
}

fn schema(label: &str, schema: Option<&Value>, page: &mut Vec<String>) {
    let Some(Value::Object(root)) = schema else {
        page.push(format!("      {label}: {}", schema.map_or_else(|| "no schema".to_owned(), short)));
        return;
    };
    let also = also(root, &["type", "properties", "required", "$schema"]);
    let none = root.get("properties").and_then(Value::as_object).is_none_or(Map::is_empty);
    page.push(format!("      {label}:{}{also}", if none { " none" } else { "" }));
    properties(root, 1, page);
}

fn properties(schema: &Map<String, Value>, depth: usize, page: &mut Vec<String>) {
    let members = schema.get("properties").and_then(Value::as_object);
    let required: Vec<&str> =
        schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, member) in members.into_iter().flatten() {
        property(name, member, required.contains(&name.as_str()), depth, page);
    }
}

fn property(name: &str, member: &Value, required: bool, depth: usize, page: &mut Vec<String>) {
    let indent = " ".repeat(6 + 2 * depth);
    let mut line = format!("{indent}{}", out::visible(name));
    let Value::Object(member) = member else {
        page.push(format!("{line}: {}", short(member)));
        return;
    };
    let _ = write!(line, ": {}", kind(member));
    if required {
        line.push_str(", required");
    }
    for (key, word) in [("const", "always"), ("enum", "one of"), ("default", "default")] {
        if let Some(value) = member.get(key) {
            let _ = write!(line, ", {word} {}", short(value));
        }
    }
    let told = ["type", "description", "const", "enum", "default", "properties", "required", "items", "title"];
    line.push_str(&also(member, &told));
    page.push(line);
    // A title that only repeats the name is what generators write.
    let title = member.get("title").and_then(Value::as_str).filter(|title| !repeats(title, name));
    for text in title.into_iter().chain(member.get("description").and_then(Value::as_str)) {
        page.extend(text.trim().lines().map(|line| format!("{indent}    | {}", out::visible(line))));
    }
    for (key, value) in
        member.iter().filter(|(key, value)| matches!(key.as_str(), "title" | "description") && !value.is_string())
    {
        page.push(format!("{indent}    {key}: {}", short(value)));
    }
    let below = |member: &Map<String, Value>| {
        member.get("properties").and_then(Value::as_object).is_some_and(|members| !members.is_empty())
    };
    if depth >= MAX_DEPTH {
        if below(member) || member.contains_key("items") {
            page.push(format!("{indent}    and further levels; see --full"));
        }
        return;
    }
    properties(member, depth + 1, page);
    if let Some(items) = member.get("items") {
        property("each", items, false, depth + 1, page);
    }
}

fn repeats(title: &str, name: &str) -> bool {
    let plain = |text: &str| -> String {
        text.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
    };
    title.is_ascii() && plain(title) == plain(name)
}

fn kind(schema: &Map<String, Value>) -> String {
    match schema.get("type") {
        Some(Value::String(kind)) => out::visible(kind),
        Some(Value::Array(kinds)) => {
            let kinds: Vec<String> =
                kinds.iter().map(|kind| kind.as_str().map_or_else(|| short(kind), out::visible)).collect();
            kinds.join("|")
        }
        Some(other) => short(other),
        None => "any type".to_owned(),
    }
}

/// The keywords that are not told one by one.
fn also(schema: &Map<String, Value>, told: &[&str]) -> String {
    let rest: Vec<String> = schema
        .iter()
        .filter(|(key, _)| !told.contains(&key.as_str()))
        .map(|(key, value)| format!("{} {}", out::visible(key), short(value)))
        .collect();
    if rest.is_empty() { String::new() } else { format!(" ({})", rest.join("; ")) }
}

/// Compact JSON, and how much of it is not shown.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(MAX_VALUE) {
        Some((cut, _)) => {
            format!("{}… and {} more bytes, see --full", out::visible(&text[..cut]), text.len() - cut)
        }
        None => out::visible(&text),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::admission::AdmissionState;

    fn tool(descriptor: &str) -> ToolView {
        let value: Value = serde_json::from_str(descriptor).unwrap_or_default();
        let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
        ToolView {
            server: "s".into(),
            name: text("name").unwrap_or_default(),
            state: AdmissionState::Quarantined,
            callable: false,
            digest: "sha256:d".into(),
            title: text("title"),
            description: text("description"),
            descriptor: descriptor.into(),
            history: vec![],
        }
    }

    #[test]
    fn a_tool_reads_like_this() {
        let descriptor = r#"{"name":"read","title":"Read","description":"Reads.","annotations":{"readOnlyHint":true},
            "_meta":{"x":1},"outputSchema":{"type":"object","properties":{"text":{"type":"string"}}},
            "inputSchema":{"$schema":"s","type":"object","required":["path"],"additionalProperties":false,"properties":{
              "path":{"type":"string","title":"Path","description":"Which file.\nAny."},
              "mode":{"enum":["a","b"],"default":"a","title":"Tell no one"},
              "edits":{"type":"array","items":{"type":"object","properties":{"old":{"type":["string","null"],"pattern":"^x"}}}}}}}"#;
        insta::assert_snapshot!(lines(&tool(descriptor), false).join("\n"), @r#"
          read [quarantined]
              title: Read
              | Reads.
              says of itself: readOnlyHint=true
              parameters: (additionalProperties false)
                path: string, required
                    | Which file.
                    | Any.
                mode: any type, one of ["a","b"], default "a"
                    | Tell no one
                edits: array
                  each: object
                    old: string|null (pattern "^x")
              answers:
                text: string
              also in its descriptor: _meta (7 bytes)
        "#);
    }

    #[test]
    fn every_word_in_a_schema_is_shown_or_said_to_be_there() {
        let deep = r#"{"name":"t","inputSchema":{"properties":{"a":{"anyOf":[{"description":"SECRET-1"}],"default":"SECRET-2",
            "properties":{"SECRET-3":{"const":"SECRET-4","x-note":"SECRET-5"}}}},"$defs":{"d":"SECRET-6"}},"icons":["SECRET-7"]}"#;
        let text = lines(&tool(deep), false).join("\n");
        for n in 1..=6 {
            assert!(text.contains(&format!("SECRET-{n}")), "{n}: {text}");
        }
        assert!(text.contains("icons (12 bytes)"), "{text}");
        assert!(lines(&tool(deep), true).join("\n").contains("SECRET-7"));
    }

    proptest! {
        #[test]
        fn no_descriptor_reaches_the_terminal_raw(key in "\\PC{0,6}[\u{1b}\r\n\u{202e}]", value in "\\PC{0,6}[\u{1b}\r\u{200b}]") {
            let descriptor = serde_json::json!({"name": value, "title": value, "description": value, key.clone(): value,
                "annotations": {key.clone(): value}, "inputSchema": {key.clone(): value, "required": [key], "properties": {key.clone():
                {"type": value, "title": value, "description": value, "enum": [value], key.clone(): value, "items": {"type": [value, 1], "description": [value]}}}}});
            for line in lines(&tool(&descriptor.to_string()), true) {
                prop_assert!(!line.chars().any(out::is_hidden), "{line:?}");
            }
        }
    }
}
