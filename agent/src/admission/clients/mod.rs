//! The configs of MCP clients on this host: which servers they would start, and where that is written.
//!
//! Invariants: nothing of a config is run or expanded; one bad file never hides another, it
//! becomes an entry with its error, line and column; values of the environment never leave this
//! room but into a launch definition.

mod adopt;
mod codex;
mod expand;
mod json_style;
mod opencode;
mod places;
mod plugins;
mod scan;
mod vscode;
mod yaml;
mod zed;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

pub use super::watch::ClientWatch;
pub use adopt::{EntryError, Leave, all_secret, find};
pub use places::homes_of_host;
#[cfg(test)]
pub(super) use scan::MAX_PROJECTS;
pub use scan::scan;
pub(super) use scan::{Cache, scan_with};

use super::launch::{self, LaunchError};
use super::model::LaunchDefinition;

/// A program that starts MCP servers from its config.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Client {
    ClaudeCode,
    ClaudeDesktop,
    Cursor,
    Vscode,
    Windsurf,
    GeminiCli,
    Codex,
    Zed,
    QwenCode,
    Opencode,
    CopilotCli,
    Cline,
    RooCode,
    AmazonQ,
    Kiro,
    LmStudio,
    Amp,
    Junie,
    KiloCode,
    Crush,
    FactoryDroid,
    Antigravity,
    Trae,
    Goose,
    Continue,
    Vibe,
    KimiCli,
    Auggie,
    Iflow,
}

impl std::fmt::Display for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Client::ClaudeCode => "claude-code",
            Client::ClaudeDesktop => "claude-desktop",
            Client::Cursor => "cursor",
            Client::Vscode => "vscode",
            Client::Windsurf => "windsurf",
            Client::GeminiCli => "gemini-cli",
            Client::Codex => "codex",
            Client::Zed => "zed",
            Client::QwenCode => "qwen-code",
            Client::Opencode => "opencode",
            Client::CopilotCli => "copilot-cli",
            Client::Cline => "cline",
            Client::RooCode => "roo-code",
            Client::AmazonQ => "amazon-q",
            Client::Kiro => "kiro",
            Client::LmStudio => "lm-studio",
            Client::Amp => "amp",
            Client::Junie => "junie",
            Client::KiloCode => "kilo-code",
            Client::Crush => "crush",
            Client::FactoryDroid => "factory-droid",
            Client::Antigravity => "antigravity",
            Client::Trae => "trae",
            Client::Goose => "goose",
            Client::Continue => "continue",
            Client::Vibe => "vibe",
            Client::KimiCli => "kimi-cli",
            Client::Auggie => "auggie",
            Client::Iflow => "iflow",
        })
    }
}

/// What all configs say at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Scan {
    /// Grows with every change that was seen.
    pub generation: u64,
    /// Config files that exist, in a fixed order.
    pub files: Vec<ClientFile>,
    /// What this host could not watch or look at beyond single files.
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClientFile {
    pub client: Client,
    pub path: PathBuf,
    /// The home directory that the file belongs to, where it does.
    pub home: Option<PathBuf>,
    /// The project directory that the whole file belongs to.
    pub project: Option<PathBuf>,
    pub servers: Vec<ClientServer>,
    /// Why the file, or an entry of it, cannot be used: path, line, column and cause.
    pub error: Option<String>,
}

/// One server that a config names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClientServer {
    pub name: String,
    /// What is run; `None` for a remote server.
    pub command: Option<String>,
    pub args: Vec<String>,
    /// What the entry sets for the server. Only the names are ever serialised.
    #[serde(serialize_with = "names_only")]
    pub env: BTreeMap<String, String>,
    /// Where a remote server is.
    pub url: Option<String>,
    /// What the client tells it with each request. Only the names are ever serialised.
    #[serde(serialize_with = "names_only", skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Where relative paths start, if the entry says so.
    pub cwd: Option<PathBuf>,
    /// The project that the entry belongs to.
    pub project: Option<PathBuf>,
    /// It is our own connector.
    pub door: bool,
    /// The client does not start it, because the entry says so.
    pub disabled: bool,
    /// The client puts something in for `${…}` that the file does not tell, so that what it
    /// starts will not be this command line word by word.
    pub dynamic: bool,
}

fn names_only<S: Serializer>(env: &BTreeMap<String, String>, s: S) -> Result<S::Ok, S::Error> {
    s.collect_seq(env.keys())
}

impl ClientServer {
    /// Command and arguments, for a server that is started here.
    pub fn argv(&self) -> Option<Vec<String>> {
        let command = self.command.clone()?;
        Some(std::iter::once(command).chain(self.args.iter().cloned()).collect())
    }

    /// The launch definition of a server that is started here. Relative paths start at the
    /// entry's own directory, its project, or `home`.
    pub fn launch(&self, home: &Path) -> Option<Result<LaunchDefinition, LaunchError>> {
        let argv = self.argv()?;
        let cwd = self.cwd.as_deref().or(self.project.as_deref()).unwrap_or(home);
        Some(launch::from_argv(&argv, &self.env, cwd))
    }
}

/// What one parser found in one file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Parsed {
    servers: Vec<ClientServer>,
    /// Project directories that the client knows.
    projects: Vec<PathBuf>,
    /// Directories of the client's plugins.
    plugins: Vec<PathBuf>,
    /// The first entry that is not as it should be.
    error: Option<String>,
}

/// How a file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// `mcpServers` at the top; Claude Code's also below `projects`.
    McpServers,
    VscodeMcp,
    VscodeSettings,
    Zed,
    Opencode,
    Codex,
    Vibe,
    Amp,
    Goose,
    Continue,
    /// The list of Claude Code's plugins, and a file of one of them.
    ClaudePlugins,
    ClaudePlugin,
}

impl Format {
    /// The servers in `text`, or what is wrong with it: `line L, column C: cause`.
    fn parse(self, text: &str) -> Result<Parsed, String> {
        match self {
            Format::McpServers => json_style::parse(text),
            Format::VscodeMcp => vscode::parse_mcp(text),
            Format::VscodeSettings => vscode::parse_settings(text),
            Format::Zed => zed::parse(text),
            Format::Opencode => opencode::parse(text),
            Format::Codex => codex::parse(text),
            Format::Vibe => codex::parse_vibe(text),
            Format::Amp => json_style::parse_amp(text),
            Format::Goose => yaml::parse_goose(text),
            Format::Continue => yaml::parse_continue(text),
            Format::ClaudePlugins => plugins::parse_installed(text),
            Format::ClaudePlugin => plugins::parse_plugin(text),
        }
    }
}

/// Every format over the same text: the fuzz target of this room.
#[cfg(any(test, fuzzing))]
pub fn fuzz(text: &str) {
    use Format::*;
    for format in [
        McpServers,
        VscodeMcp,
        VscodeSettings,
        Zed,
        Opencode,
        Codex,
        Vibe,
        Amp,
        Goose,
        Continue,
        ClaudePlugins,
        ClaudePlugin,
    ] {
        match format.parse(text) {
            Ok(parsed) => {
                for mut server in parsed.servers {
                    assert!(server.command.is_some() || server.url.is_some(), "{format:?} {server:?}");
                    expand::server(&mut server, Some(Path::new("/home/ann")));
                }
            }
            Err(e) => assert!(e.starts_with("line ") && e.contains(", column "), "{format:?}: {e}"),
        }
    }
    nothing_is_missed(text);
}

/// What a client reads as plain JSON, the last of two members of one name, is an entry.
#[cfg(any(test, fuzzing))]
fn nothing_is_missed(text: &str) {
    use serde_json::Value;
    let Ok(root) = serde_json::from_str::<Value>(text) else { return };
    let Some(table) = root["mcpServers"].as_object().filter(|table| table.len() < 1000) else { return };
    let parsed = Format::McpServers.parse(text).expect("what is JSON is JSON with comments");
    for (name, entry) in table {
        let words = entry["args"].as_array().map_or(Some(Vec::new()), |args| {
            args.iter().map(|arg| arg.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
        });
        let (Some(command), Some(words)) = (entry["command"].as_str(), words) else { continue };
        let plain = ["env", "environment"].iter().all(|env| entry[*env].is_null() || entry[*env].is_object());
        if plain && (entry["args"].is_null() || entry["args"].is_array()) {
            let found = parsed.servers.iter().any(|server| {
                server.name == *name && server.command.as_deref() == Some(command) && server.args == words
            });
            assert!(found, "{name:?} is missed");
        }
    }
}

#[cfg(test)]
mod tests;
