//! Claude Code's own CLI in a house: what it configures, what it starts, and what it says of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::House;

/// What `claude mcp list` says of one configured server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    Connected,
    Failed,
}

impl House {
    pub fn claude_config(&self) -> PathBuf {
        self.home().join(".claude.json")
    }

    /// Writes `~/.claude.json` with stdio servers: name, command, arguments.
    pub fn configure_claude(&self, servers: &[(&str, &Path, &[&str])]) {
        let entry = |command: &Path, args: &[&str]| json!({"type": "stdio", "command": command, "args": args});
        let servers: serde_json::Map<String, Value> =
            servers.iter().map(|(name, command, args)| ((*name).to_owned(), entry(command, args))).collect();
        let config = json!({"numStartups": 7, "mcpServers": servers, "keptByTests": 1.50});
        let text = serde_json::to_string_pretty(&config).expect("a config is JSON");
        std::fs::write(self.claude_config(), text).expect("the home directory is writable");
    }

    /// Runs `claude mcp list` in the scope: it starts every configured server and shakes hands with it.
    pub fn claude_mcp_list(&self) -> BTreeMap<String, Health> {
        let binary = super::tools().join("claude/node_modules/@anthropic-ai/claude-code-linux-x64/claude");
        let output = self
            .in_scope(&binary)
            .args(["mcp", "list"])
            .env_remove("CLAUDE_CONFIG_DIR")
            .env_remove("ANTHROPIC_API_KEY")
            .env("DISABLE_AUTOUPDATER", "1")
            .env("DISABLE_TELEMETRY", "1")
            .env("DISABLE_ERROR_REPORTING", "1")
            .env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")
            .stdin(std::process::Stdio::null())
            .output()
            .expect("Claude Code can be run");
        let said = super::text(&output.stdout);
        assert!(output.status.success(), "claude mcp list failed: {said}{}", super::text(&output.stderr));
        let health = healths(&said);
        assert!(!health.is_empty(), "claude mcp list names no server:\n{said}\n{}", super::text(&output.stderr));
        eprintln!("{said}");
        health
    }
}

/// Lines are `NAME: COMMAND - MARK Connected` or `NAME: COMMAND - MARK Failed to connect ...`.
fn healths(said: &str) -> BTreeMap<String, Health> {
    let line = |line: &str| {
        let (name, rest) = line.split_once(": ")?;
        let (_, verdict) = rest.rsplit_once(" - ").or_else(|| rest.split_once(" - "))?;
        let connected = verdict.trim().ends_with("Connected");
        Some((name.to_owned(), if connected { Health::Connected } else { Health::Failed }))
    };
    said.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_verdicts_are_told_apart() {
        let said = "Checking MCP server health…\n\na: node /x/index.js - ✔ Connected\n\
                    b: /bin/false  - ✘ Failed to connect — CONNECTION_CLOSED: Connection closed\n";
        let expected = [("a".to_owned(), Health::Connected), ("b".to_owned(), Health::Failed)];
        assert_eq!(healths(said), BTreeMap::from(expected));
    }
}
