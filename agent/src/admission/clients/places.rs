//! Where clients keep their configs.

use std::path::{Path, PathBuf};

use super::{Client, Format};

/// A file that may be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub client: Client,
    pub format: Format,
    pub path: PathBuf,
    pub home: Option<PathBuf>,
    pub project: Option<PathBuf>,
    /// A file of settings that has servers now and then: without any it says nothing.
    pub shared: bool,
}

type Row = (Client, Format, &'static str);

const OF_HOME: &[Row] = &[
    (Client::ClaudeCode, Format::McpServers, ".claude.json"),
    (Client::ClaudeCode, Format::McpServers, ".claude/.claude.json"),
    (Client::ClaudeCode, Format::McpServers, ".claude/settings.json"),
    (Client::ClaudeDesktop, Format::McpServers, ".config/Claude/claude_desktop_config.json"),
    (Client::Cursor, Format::McpServers, ".cursor/mcp.json"),
    (Client::Vscode, Format::VscodeMcp, ".config/Code/User/mcp.json"),
    (Client::Vscode, Format::VscodeSettings, ".config/Code/User/settings.json"),
    (Client::Vscode, Format::VscodeMcp, ".config/Code - Insiders/User/mcp.json"),
    (Client::Vscode, Format::VscodeSettings, ".config/Code - Insiders/User/settings.json"),
    (Client::Vscode, Format::VscodeMcp, ".config/VSCodium/User/mcp.json"),
    (Client::Vscode, Format::VscodeSettings, ".config/VSCodium/User/settings.json"),
    (Client::Vscode, Format::VscodeMcp, ".vscode-server/data/User/mcp.json"),
    (Client::Vscode, Format::VscodeSettings, ".vscode-server/data/Machine/settings.json"),
    (Client::Windsurf, Format::McpServers, ".codeium/windsurf/mcp_config.json"),
    (Client::Windsurf, Format::McpServers, ".codeium/mcp_config.json"),
    (Client::GeminiCli, Format::McpServers, ".gemini/settings.json"),
    (Client::Codex, Format::Codex, ".codex/config.toml"),
    (Client::Zed, Format::Zed, ".config/zed/settings.json"),
    (Client::QwenCode, Format::McpServers, ".qwen/settings.json"),
    (Client::Opencode, Format::Opencode, ".config/opencode/opencode.json"),
    (Client::Opencode, Format::Opencode, ".config/opencode/opencode.jsonc"),
    (Client::Opencode, Format::Opencode, ".config/opencode/config.json"),
    (Client::CopilotCli, Format::McpServers, ".copilot/mcp-config.json"),
    (
        Client::Cline,
        Format::McpServers,
        ".config/Code/User/globalStorage/saoudrizwan.claude-dev/settings/cline_mcp_settings.json",
    ),
    (Client::Cline, Format::McpServers, ".cline/data/settings/cline_mcp_settings.json"),
    (
        Client::RooCode,
        Format::McpServers,
        ".config/Code/User/globalStorage/rooveterinaryinc.roo-cline/settings/mcp_settings.json",
    ),
    (Client::AmazonQ, Format::McpServers, ".aws/amazonq/mcp.json"),
    (Client::Kiro, Format::McpServers, ".kiro/settings/mcp.json"),
    (Client::LmStudio, Format::McpServers, ".lmstudio/mcp.json"),
    (Client::Vscode, Format::VscodeMcp, ".vscode-server-insiders/data/User/mcp.json"),
    (Client::Vscode, Format::VscodeMcp, ".var/app/com.visualstudio.code/config/Code/User/mcp.json"),
    (Client::Zed, Format::Zed, ".var/app/dev.zed.Zed/config/zed/settings.json"),
    (
        Client::Cline,
        Format::McpServers,
        ".vscode-server/data/User/globalStorage/saoudrizwan.claude-dev/settings/cline_mcp_settings.json",
    ),
    (
        Client::Cline,
        Format::McpServers,
        ".config/Cursor/User/globalStorage/saoudrizwan.claude-dev/settings/cline_mcp_settings.json",
    ),
    (
        Client::RooCode,
        Format::McpServers,
        ".vscode-server/data/User/globalStorage/rooveterinaryinc.roo-cline/settings/mcp_settings.json",
    ),
    (
        Client::KiloCode,
        Format::McpServers,
        ".config/Code/User/globalStorage/kilocode.kilo-code/settings/mcp_settings.json",
    ),
    (Client::Amp, Format::Amp, ".config/amp/settings.json"),
    (Client::Amp, Format::Amp, ".config/amp/settings.jsonc"),
    (Client::Junie, Format::McpServers, ".junie/mcp/mcp.json"),
    (Client::Crush, Format::Opencode, ".config/crush/crush.json"),
    (Client::FactoryDroid, Format::McpServers, ".factory/mcp.json"),
    (Client::Antigravity, Format::McpServers, ".gemini/antigravity/mcp_config.json"),
    (Client::Trae, Format::McpServers, ".config/Trae/User/mcp.json"),
    (Client::ClaudeCode, Format::ClaudePlugins, ".claude/plugins/installed_plugins.json"),
    (Client::Goose, Format::Goose, ".config/goose/config.yaml"),
    (Client::Continue, Format::Continue, ".continue/config.yaml"),
    (Client::Vibe, Format::Vibe, ".vibe/config.toml"),
    (Client::KimiCli, Format::McpServers, ".kimi/mcp.json"),
    (Client::Auggie, Format::McpServers, ".augment/settings.json"),
    (Client::Iflow, Format::McpServers, ".iflow/settings.json"),
];

const OF_PROJECT: &[Row] = &[
    (Client::ClaudeCode, Format::McpServers, ".mcp.json"),
    (Client::Cursor, Format::McpServers, ".cursor/mcp.json"),
    (Client::Vscode, Format::VscodeMcp, ".vscode/mcp.json"),
    (Client::Vscode, Format::VscodeSettings, ".vscode/settings.json"),
    (Client::GeminiCli, Format::McpServers, ".gemini/settings.json"),
    (Client::Codex, Format::Codex, ".codex/config.toml"),
    (Client::Zed, Format::Zed, ".zed/settings.json"),
    (Client::QwenCode, Format::McpServers, ".qwen/settings.json"),
    (Client::Opencode, Format::Opencode, "opencode.json"),
    (Client::Opencode, Format::Opencode, "opencode.jsonc"),
    (Client::Opencode, Format::Opencode, ".opencode/opencode.json"),
    (Client::Opencode, Format::Opencode, ".opencode/opencode.jsonc"),
    (Client::RooCode, Format::McpServers, ".roo/mcp.json"),
    (Client::AmazonQ, Format::McpServers, ".amazonq/mcp.json"),
    (Client::Kiro, Format::McpServers, ".kiro/settings/mcp.json"),
    (Client::KiloCode, Format::McpServers, ".kilocode/mcp.json"),
    (Client::Amp, Format::Amp, ".amp/settings.json"),
    (Client::Junie, Format::McpServers, ".junie/mcp/mcp.json"),
    (Client::Crush, Format::Opencode, "crush.json"),
    (Client::Crush, Format::Opencode, ".crush.json"),
    (Client::FactoryDroid, Format::McpServers, ".factory/mcp.json"),
    (Client::Vibe, Format::Vibe, ".vibe/config.toml"),
    (Client::Iflow, Format::McpServers, ".iflow/settings.json"),
];

const OF_PLUGIN: &[Row] = &[
    (Client::ClaudeCode, Format::ClaudePlugin, ".mcp.json"),
    (Client::ClaudeCode, Format::ClaudePlugin, ".claude-plugin/plugin.json"),
];

/// A profile of VS Code and its kin.
const OF_PROFILE: &[Row] =
    &[(Client::Vscode, Format::VscodeMcp, "mcp.json"), (Client::Vscode, Format::VscodeSettings, "settings.json")];

const OF_HOST: &[Row] = &[
    (Client::ClaudeCode, Format::McpServers, "/etc/claude-code/managed-mcp.json"),
    (Client::ClaudeCode, Format::McpServers, "/etc/claude-code/managed-settings.json"),
    (Client::Codex, Format::Codex, "/etc/codex/config.toml"),
    (Client::Codex, Format::Codex, "/etc/codex/managed_config.toml"),
    (Client::GeminiCli, Format::McpServers, "/etc/gemini-cli/settings.json"),
    (Client::GeminiCli, Format::McpServers, "/etc/gemini-cli/system-defaults.json"),
    (Client::QwenCode, Format::McpServers, "/etc/qwen-code/settings.json"),
    (Client::QwenCode, Format::McpServers, "/etc/qwen-code/system-defaults.json"),
];

fn places(rows: &'static [Row], base: &Path, home: Option<&Path>, project: Option<&Path>) -> Vec<Place> {
    let place = |(client, format, path): &Row| Place {
        client: *client,
        format: *format,
        path: base.join(path),
        home: home.map(Path::to_path_buf),
        project: project.map(Path::to_path_buf),
        shared: matches!(format, Format::VscodeSettings | Format::Amp | Format::ClaudePlugins | Format::Vibe)
            || matches!(client, Client::Auggie | Client::Iflow | Client::Goose | Client::Continue)
            || path.ends_with("plugin.json")
            || (*client == Client::ClaudeCode && path.ends_with("settings.json")),
    };
    rows.iter().map(place).collect()
}

pub(super) fn of_home(home: &Path) -> Vec<Place> {
    places(OF_HOME, home, Some(home), None)
}

pub(super) fn of_project(project: &Path) -> Vec<Place> {
    places(OF_PROJECT, project, None, Some(project))
}

/// A plugin of a client belongs to the home that it is installed for.
pub(super) fn of_plugin(plugin: &Path, home: Option<&Path>) -> Vec<Place> {
    places(OF_PLUGIN, plugin, home, None)
}

pub(super) fn of_profile(profile: &Path, home: &Path) -> Vec<Place> {
    places(OF_PROFILE, profile, Some(home), None)
}

pub(super) fn of_host() -> Vec<Place> {
    places(OF_HOST, Path::new("/"), None, None)
}

/// Directories below a home with a directory for each profile.
pub(super) const PROFILES: &[&str] =
    &[".config/Code/User/profiles", ".config/Code - Insiders/User/profiles", ".config/VSCodium/User/profiles"];

/// Directories below a home that VS Code keeps its recent folders in.
pub(super) const WORKSPACES: &[&str] = &[
    ".config/Code/User/workspaceStorage",
    ".config/Cursor/User/workspaceStorage",
    ".config/Windsurf/User/workspaceStorage",
];

/// The existing home directories of root and of people (uid 1000 and up), of this process, and
/// `extra`, each once.
pub fn homes_of_host(extra: &[PathBuf]) -> Vec<PathBuf> {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let mut homes = homes_in(&passwd);
    homes.extend(std::env::var_os("HOME").map(PathBuf::from));
    homes.retain(|home| home.is_absolute() && home.parent().is_some() && home.is_dir());
    homes.extend(extra.iter().cloned());
    let mut seen = std::collections::HashSet::new();
    homes.retain(|home| seen.insert(home.clone()));
    homes
}

fn homes_in(passwd: &str) -> Vec<PathBuf> {
    let home = |line: &str| {
        let mut fields = line.split(':').skip(2);
        let uid: u32 = fields.next()?.parse().ok()?;
        let home = fields.nth(2)?;
        (uid == 0 || uid >= 1000).then(|| PathBuf::from(home))
    };
    passwd.lines().filter_map(home).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes_are_those_of_root_and_of_people() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1::/usr/sbin:/x\n\nbad line\nann:x:1000:1000:Ann,,,:/home/ann:/bin/sh\n";
        assert_eq!(homes_in(passwd), [PathBuf::from("/root"), PathBuf::from("/home/ann")]);
    }
}
