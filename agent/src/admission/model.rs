//! What admission knows of servers and tools, as it is stored and shown.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::egress::Egress;
use super::findings::Finding;
use super::remote::Remote;
use crate::store::Record;

/// Where a server's code comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Source {
    /// An npm package; `bin` is the command to run where the package has several.
    Npm { package: String, version: Option<String>, bin: Option<String> },
    /// A PyPI project; `script` is the console script, `module` what `python -m` runs.
    /// `with` are further requirements for its environment, each `NAME[extras]` and a version or range.
    Pypi {
        package: String,
        version: Option<String>,
        script: Option<String>,
        module: Option<String>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        with: Vec<String>,
    },
    /// A directory or a single file of this host, copied into the image. `run` is the command
    /// inside of the cage; `{src}` in it stands for where the copy lies.
    Local { path: std::path::PathBuf, run: Vec<String> },
    /// An image that is on this host already, by name or id; its own entry point is run when `run` is empty.
    Image { image: String, run: Vec<String> },
    /// A server that somebody else runs, reached over streamable HTTP. It has no image and no cage.
    Remote(Box<Remote>),
}

impl Source {
    pub fn is_remote(&self) -> bool {
        matches!(self, Self::Remote(_))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    pub host: std::path::PathBuf,
    pub container: std::path::PathBuf,
    pub writable: bool,
}

/// Who shares one container of a server, and with it the state that the server keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// One container for all agents.
    #[default]
    Shared,
    /// A container for each agent: none sees what another one left in the server.
    PerAgent,
    /// A container for each session of an agent, which ends with the session.
    PerSession,
}

impl Isolation {
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::PerAgent => "per-agent",
            Self::PerSession => "per-session",
        }
    }
}

/// How a server is started: part of what is reviewed and pinned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchDefinition {
    pub source: Source,
    /// Arguments for the server itself.
    #[serde(default)]
    pub args: Vec<String>,
    /// Environment of the server. Values are stored here, and never shown by listings.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Loosenings of the cage.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// What it may reach outside of its cage: another loosening.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<Egress>,
    /// Which of the variables are secrets, as the operator said.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub secrets: BTreeSet<String>,
    #[serde(default, skip_serializing_if = "Isolation::is_default")]
    pub isolation: Isolation,
    /// The command as a client's config or the operator wrote it, for people.
    pub configured: Vec<String>,
}

impl LaunchDefinition {
    /// Where it is, if it is not run here.
    pub fn remote(&self) -> Option<&Remote> {
        match &self.source {
            Source::Remote(remote) => Some(remote),
            _ => None,
        }
    }

    /// The variables that decide which code runs, with their values: those are no secrets, they
    /// are part of the command.
    pub fn code_env(&self) -> impl Iterator<Item = (&str, &str)> {
        self.env.iter().filter(|(name, _)| loads_code(name)).map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Whether a loader or an interpreter takes code, or options that name code, from this variable.
pub fn loads_code(name: &str) -> bool {
    const HARMLESS: [&str; 6] = [
        "PYTHONUNBUFFERED",
        "PYTHONIOENCODING",
        "PYTHONUTF8",
        "PYTHONDONTWRITEBYTECODE",
        "PYTHONHASHSEED",
        "PYTHONFAULTHANDLER",
    ];
    const NAMES: [&str; 20] = [
        "PATH",
        "NODE_OPTIONS",
        "NODE_PATH",
        "NODE_REPL_EXTERNAL_MODULE",
        "GLIBC_TUNABLES",
        "GCONV_PATH",
        "BASH_ENV",
        "ENV",
        "SHELL",
        "PERL5OPT",
        "PERL5LIB",
        "PERLLIB",
        "RUBYOPT",
        "RUBYLIB",
        "JAVA_TOOL_OPTIONS",
        "JDK_JAVA_OPTIONS",
        "_JAVA_OPTIONS",
        "CLASSPATH",
        "DOTNET_STARTUP_HOOKS",
        "OPENSSL_CONF",
    ];
    NAMES.contains(&name) || name.starts_with("LD_") || name.starts_with("PYTHON") && !HARMLESS.contains(&name)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdmissionState {
    Quarantined,
    Approved,
    Denied,
}

impl std::fmt::Display for AdmissionState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            AdmissionState::Quarantined => "quarantined",
            AdmissionState::Approved => "approved",
            AdmissionState::Denied => "denied",
        })
    }
}

/// One step of the state machine, with who took it and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    pub at: Timestamp,
    pub to: AdmissionState,
    pub by: String,
    pub why: String,
}

/// What a review found: the image that was built and what the server in it says of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Review {
    pub at: Timestamp,
    /// `sha256:…` id of the image that was reviewed and will run.
    pub image_id: String,
    /// The exact command inside of the cage.
    pub argv: Vec<String>,
    /// Package name, exact version, licence, publisher, install scripts, as far as the source knows.
    pub package: serde_json::Value,
    /// Every package in the image with version and integrity.
    pub lock: serde_json::Value,
    pub protocol_version: String,
    pub server_info: serde_json::Value,
    pub instructions: Option<String>,
    /// Digest over launch definition, image, lock, instructions, prompts, resource templates and tools.
    pub pin: String,
    /// Prompts and resource templates as the server listed them, JSON text.
    #[serde(default)]
    pub prompts: String,
    #[serde(default)]
    pub resource_templates: String,
    /// What it has beside tools: `prompts`, `resources`, `completions`, `logging`. Unknown in reviews of older releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offers: Option<Vec<String>>,
    /// Like `pin`, but without the image id: equal for two builds of the same thing.
    #[serde(default)]
    pub content: String,
    /// What a person should look at first.
    #[serde(default)]
    pub findings: Vec<Finding>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Server {
    pub name: String,
    pub state: AdmissionState,
    pub launch: LaunchDefinition,
    /// Where the entry came from: `operator`, or `shadow:ID`.
    pub origin: String,
    pub review: Option<Review>,
    /// The pin that was approved or denied; it differs from `review.pin` when something changed.
    pub decided_pin: Option<String>,
    pub history: Vec<Transition>,
}

impl Server {
    /// Whether it may serve calls: approved, and what was reviewed last is what was approved.
    pub fn is_active(&self) -> bool {
        self.state == AdmissionState::Approved
            && self.review.as_ref().is_some_and(|review| self.decided_pin.as_deref() == Some(&review.pin))
    }
}

impl Record for Server {
    const TABLE: &'static str = "servers";
    fn key(&self) -> String {
        self.name.clone()
    }
}

/// The denial behind a quarantined entry, if it was the last decision on it.
pub fn denied_before(state: AdmissionState, history: &[Transition]) -> Option<&Transition> {
    let last = history.iter().rev().find(|step| step.to != AdmissionState::Quarantined);
    last.filter(|step| step.to == AdmissionState::Denied && state == AdmissionState::Quarantined)
}

/// A tool of a server, as the review saw it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tool {
    pub server: String,
    pub name: String,
    pub state: AdmissionState,
    /// The descriptor as the server sent it, JSON text, byte for byte.
    pub descriptor: String,
    /// `sha256:…` over everything in the descriptor.
    pub digest: String,
    pub history: Vec<Transition>,
}

impl Tool {
    /// NUL cannot stand in a server's name, so that no two pairs share a key.
    pub fn key_of(server: &str, tool: &str) -> String {
        format!("{server}\0{tool}")
    }

    /// The denial that was the last decision on it, where its descriptor has changed since.
    pub fn denied_before(&self) -> Option<&Transition> {
        denied_before(self.state, &self.history)
    }
}

impl Record for Tool {
    const TABLE: &'static str = "tools";
    fn key(&self) -> String {
        Self::key_of(&self.server, &self.name)
    }
}
