//! OpenCode: `mcp` with `{"type": "local", "command": [..], "environment": {..}}` or `{"type": "remote", "url"}`.

use serde_json::Value;

use super::{Parsed, json_style};

pub(super) fn parse(text: &str) -> Result<Parsed, String> {
    let mut root = json_style::object(text)?;
    let mut parsed = Parsed::default();
    // An entry with nothing but `enabled` switches one of another file.
    if let Some(Value::Object(table)) = root.get_mut("mcp") {
        table.retain(|_, entry| !entry.is_object() || entry.get("command").is_some() || entry.get("url").is_some());
    }
    json_style::servers(root.get("mcp"), "mcp", None, &mut parsed);
    Ok(parsed)
}
