//! Clients that keep their servers in YAML: Goose (`extensions`) and Continue (`mcpServers`, a list).
//!
//! Anchors that multiply and documents without an end are refused by the reader's own budget.

use serde_json::{Map, Value, json};

use super::{Parsed, json_style};

/// Goose: `extensions: {NAME: {type, cmd, args, envs} | {type, uri}}`. Extensions that are part of Goose have neither.
pub(super) fn parse_goose(text: &str) -> Result<Parsed, String> {
    let root = read(text)?;
    let mut parsed = Parsed::default();
    match root.get("extensions") {
        None | Some(Value::Null) => {}
        Some(Value::Object(extensions)) => {
            let servers: Map<String, Value> =
                extensions.iter().filter(|(_, entry)| starts_something(entry)).map(renamed).collect();
            json_style::servers(Some(&Value::Object(servers)), "extensions", None, &mut parsed);
        }
        Some(_) => json_style::complain(&mut parsed, "extensions is no mapping".into()),
    }
    Ok(parsed)
}

fn starts_something(entry: &Value) -> bool {
    !entry.is_object() || entry.get("cmd").is_some() || entry.get("uri").is_some()
}

/// An entry under the names that most clients have for its members.
fn renamed((name, entry): (&String, &Value)) -> (String, Value) {
    let Some(entry) = entry.as_object() else { return (name.clone(), entry.clone()) };
    let ours = |key: &str| match key {
        "cmd" => Some("command".to_owned()),
        "envs" => Some("env".to_owned()),
        "uri" => Some("url".to_owned()),
        // Goose does not read these: they must not stand in the place of what it does read.
        "command" | "env" | "environment" | "url" | "httpUrl" | "serverUrl" | "disabled" => None,
        _ => Some(key.to_owned()),
    };
    let members = entry.iter().filter_map(|(key, value)| Some((ours(key)?, value.clone())));
    (name.clone(), Value::Object(members.collect()))
}

/// Continue: `mcpServers: [{name, command, args, env} | {name, url}]`; as a mapping in files that were copied from other
/// clients.
pub(super) fn parse_continue(text: &str) -> Result<Parsed, String> {
    let root = read(text)?;
    let mut parsed = Parsed::default();
    named_list(root.get("mcpServers"), "mcpServers", &mut parsed);
    Ok(parsed)
}

/// A list of servers that say their names themselves; also as a table of them.
pub(super) fn named_list(servers: Option<&Value>, place: &str, parsed: &mut Parsed) {
    let Some(Value::Array(list)) = servers else {
        return json_style::servers(servers, place, None, parsed);
    };
    for (i, entry) in list.iter().enumerate() {
        let name = entry["name"].as_str().map_or_else(|| i.to_string(), str::to_owned);
        // One by one: two of one name are two servers.
        json_style::servers(Some(&json!({ name: entry })), place, None, parsed);
    }
}

/// The mapping that the file is.
fn read(text: &str) -> Result<Map<String, Value>, String> {
    if text.trim().is_empty() {
        return Err("line 1, column 1: the file is empty".into());
    }
    match serde_saphyr::from_str::<Value>(text) {
        Ok(Value::Object(root)) => Ok(root),
        Ok(_) => Err("line 1, column 1: the file is no YAML mapping".into()),
        Err(e) => {
            let (line, column) = e.location().map_or((1, 1), |at| (at.line().max(1), at.column().max(1)));
            let what = e.without_snippet().to_string().replace('\n', ", ");
            Err(format!("line {line}, column {column}: {what}"))
        }
    }
}
