//! VS Code: `mcp.json` with `servers`, and `mcp` in the settings (nested or as dotted keys).

use serde_json::Value;

use super::{Parsed, json_style};

pub(super) fn parse_mcp(text: &str) -> Result<Parsed, String> {
    let root = json_style::object(text)?;
    let mut parsed = Parsed::default();
    json_style::servers(root.get("servers"), "servers", None, &mut parsed);
    // Files that were copied from another client.
    json_style::servers(root.get("mcpServers"), "mcpServers", None, &mut parsed);
    Ok(parsed)
}

pub(super) fn parse_settings(text: &str) -> Result<Parsed, String> {
    let root = json_style::object(text)?;
    let mut parsed = Parsed::default();
    json_style::servers(root.get("mcp").and_then(|mcp| mcp.get("servers")), "mcp.servers", None, &mut parsed);
    json_style::servers(root.get("mcp.servers"), "\"mcp.servers\"", None, &mut parsed);
    Ok(parsed)
}

/// The folder of a `workspace.json` in VS Code's workspace storage.
pub(super) fn parse_workspace(text: &str) -> Result<Parsed, String> {
    let root = json_style::object(text)?;
    let path = root.get("folder").and_then(Value::as_str).and_then(|uri| uri.strip_prefix("file://"));
    let plain = path.filter(|path| path.starts_with('/') && !path.contains('%'));
    Ok(Parsed { projects: plain.map(Into::into).into_iter().collect(), ..Parsed::default() })
}
