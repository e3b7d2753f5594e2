//! Claude Code's plugins: where each is installed, and the servers that it brings.
//!
//! `~/.claude/plugins/installed_plugins.json` names their directories. A plugin's `.mcp.json` is a table of servers,
//! with `mcpServers` around it or without; its `.claude-plugin/plugin.json` may hold one too.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{ClientServer, Parsed, json_style};

/// Plugins of one home.
const MAX_PLUGINS: usize = 256;

/// What Claude Code puts the plugin's directory in for.
const ROOT: &str = "${CLAUDE_PLUGIN_ROOT}";

pub(super) fn parse_installed(text: &str) -> Result<Parsed, String> {
    let root = json_style::object(text)?;
    let installs = root.get("plugins").and_then(Value::as_object).into_iter().flatten();
    let entries = installs.flat_map(|(_, entries)| match entries {
        Value::Array(entries) => entries.as_slice(),
        one => std::slice::from_ref(one),
    });
    let path = |entry: &Value| entry.get("installPath").and_then(Value::as_str).map(PathBuf::from);
    let plugins = entries.filter_map(path).filter(|path| path.is_absolute()).take(MAX_PLUGINS).collect();
    Ok(Parsed { plugins, ..Parsed::default() })
}

pub(super) fn parse_plugin(text: &str) -> Result<Parsed, String> {
    let root = json_style::object(text)?;
    let mut parsed = Parsed::default();
    match root.get("mcpServers") {
        // A path: that file is looked for under its usual name.
        Some(Value::String(_)) => {}
        Some(table) => json_style::servers(Some(table), "mcpServers", None, &mut parsed),
        None => {
            let is_server = |entry: &Value| entry.get("command").is_some() || entry.get("url").is_some();
            let table = root.into_iter().filter(|(_, entry)| is_server(entry)).collect();
            json_style::servers(Some(&Value::Object(table)), "the file", None, &mut parsed);
        }
    }
    Ok(parsed)
}

/// Fills the plugin's directory in.
pub(super) fn place(server: &mut ClientServer, plugin: &Path) {
    let Some(plugin) = plugin.to_str() else { return };
    for word in server.command.iter_mut().chain(&mut server.args).chain(server.env.values_mut()) {
        if word.contains(ROOT) {
            *word = word.replace(ROOT, plugin);
        }
    }
}
