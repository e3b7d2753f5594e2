//! TOML: Codex with `[mcp_servers.NAME]` and the projects that it trusts, Mistral Vibe with `[[mcp_servers]]`.

use std::path::PathBuf;

use super::{Parsed, json_style, yaml};

fn read(text: &str) -> Result<toml::Table, String> {
    toml::from_str(text).map_err(|e| {
        let (line, column) = e.span().map_or((1, 1), |span| crate::config::line_column(text, span.start));
        format!("line {line}, column {column}: {}", e.message().trim().replace('\n', ", "))
    })
}

pub(super) fn parse_vibe(text: &str) -> Result<Parsed, String> {
    let root = read(text)?;
    let mut parsed = Parsed::default();
    if let Some(list) = root.get("mcp_servers") {
        match serde_json::to_value(list) {
            Ok(list) => yaml::named_list(Some(&list), "mcp_servers", &mut parsed),
            Err(e) => json_style::complain(&mut parsed, format!("mcp_servers: {e}")),
        }
    }
    Ok(parsed)
}

pub(super) fn parse(text: &str) -> Result<Parsed, String> {
    let root = read(text)?;
    let mut parsed = Parsed::default();
    if let Some(table) = root.get("mcp_servers") {
        // Dates have no JSON form; none of them belongs into a server's entry.
        match serde_json::to_value(table) {
            Ok(table) => json_style::servers(Some(&table), "mcp_servers", None, &mut parsed),
            Err(e) => json_style::complain(&mut parsed, format!("mcp_servers: {e}")),
        }
    }
    if let Some(projects) = root.get("projects").and_then(toml::Value::as_table) {
        parsed.projects.extend(projects.keys().filter(|path| path.starts_with('/')).take(2048).map(PathBuf::from));
    }
    Ok(parsed)
}
