//! Zed: `context_servers` in its settings, in its older shape (`command` is an object with
//! `path`) and its newer one.

use serde_json::Value;

use super::{Parsed, json_style};

pub(super) fn parse(text: &str) -> Result<Parsed, String> {
    let mut root = json_style::object(text)?;
    let mut parsed = Parsed::default();
    // Extensions bring servers whose entries have settings only: there is no command to know.
    if let Some(Value::Object(table)) = root.get_mut("context_servers") {
        table.retain(|_, entry| entry.get("command").is_some() || entry.get("url").is_some());
    }
    json_style::servers(root.get("context_servers"), "context_servers", None, &mut parsed);
    Ok(parsed)
}
