//! What goes over `admin.sock`. Values of a server's environment never do, except inwards and
//! where they decide which code runs.

mod agents;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::admission::clients::Leave;
use crate::admission::review::Again;
use crate::admission::{
    AdmissionState, Egress, Isolation, LaunchDefinition, Mount, Review, Server, Source, Tool, Transition,
};
use crate::config::Mode;
use crate::proxy::ContainerLog;
use crate::remote::LoginView;

pub use agents::*;

/// Longest request body in bytes.
pub const MAX_BODY: usize = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    Forbidden,
    NotFound,
    Conflict,
    Invalid,
    TooLarge,
    Failed,
}

/// Why a request was not done: `{"error": {"kind", "message"}}`, or the last line of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    pub kind: ErrorKind,
    pub message: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ErrorReply {
    pub error: ErrorBody,
}

/// One line of long work: any number of `progress`, then one `done` or `error`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Line {
    Progress(String),
    Done(Value),
    Error(ErrorBody),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddServer {
    pub name: String,
    pub launch: LaunchDefinition,
}

/// Adds what an entry of a client's config names: its values stay in the daemon.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddConfigured {
    pub name: String,
    pub entry: String,
    pub leave: Leave,
    pub mounts: Vec<Mount>,
    pub egress: Vec<Egress>,
    pub isolation: Isolation,
    /// Beside what the entry sets, and before it.
    pub env: BTreeMap<String, String>,
    pub secrets: BTreeSet<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApproveServer {
    /// The pin that was shown to whoever approves.
    pub pin: Option<String>,
    /// Start its container when it is approved.
    pub start: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReviewServer {
    #[serde(default)]
    pub again: Again,
}

/// A login is begun: the answer comes to this URL on the operator's own machine.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BeginLogin {
    pub redirect: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct LoginBegun {
    /// For a person's browser.
    pub url: String,
}

/// The URL that the browser was sent to.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinishLogin {
    pub answer: String,
}

/// `by` is never in a request: it is the peer's user name.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Why {
    pub why: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecideTool {
    pub server: String,
    pub tool: String,
    pub to: AdmissionState,
    /// The digest that was shown to whoever decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    pub why: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adopt {
    pub name: Option<String>,
}

/// Lets a waiting call go, and calls that equal it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApproveAsk {
    pub times: u32,
    /// Seconds for which it holds.
    pub secs: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct AskList {
    pub asks: Vec<crate::policy::AskView>,
    pub grants: Vec<crate::policy::GrantView>,
}

/// A call that is described and not made.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainCall {
    pub agent: String,
    pub server: String,
    pub tool: String,
    /// JSON text.
    pub arguments: String,
    pub uid: u32,
}

/// What the log has of one call, oldest first.
#[derive(Debug, Serialize, Deserialize)]
pub struct PastCall {
    pub records: Vec<crate::audit::Record>,
}

/// A tool that was found, best first.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HitView {
    pub server: String,
    pub tool: String,
    /// Comparable within one answer only.
    pub score: f32,
    pub summary: String,
    /// What each word added to the score; only where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasons: Option<Vec<ReasonView>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReasonView {
    /// The word's stem, as the index has it.
    pub word: String,
    pub field: String,
    pub score: f32,
}

/// One MCP server that somebody on this host can reach.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InventoryEntry {
    pub name: String,
    /// `config`: a client would start it; `kernel`: it was seen; `door`: it is a server of the house.
    pub known_by: String,
    pub client: Option<String>,
    /// The client config that names it.
    pub config: Option<PathBuf>,
    pub project: Option<PathBuf>,
    pub command: Vec<String>,
    pub url: Option<String>,
    /// Who publishes it, as far as its name or its review tells.
    pub publisher: Option<String>,
    /// How what runs changes.
    pub updates: String,
    /// What it can touch.
    pub touches: String,
    /// Names that its config sets in its environment.
    pub env_names: Vec<String>,
    /// It is reached through the door.
    pub door: bool,
    /// The client's config switches it off.
    pub disabled: bool,
    /// The server of the house that it is, and where that stands.
    pub server: Option<String>,
    pub state: Option<AdmissionState>,
    pub shadow: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StatusView {
    pub version: String,
    pub instance: String,
    pub pid: u32,
    pub started: jiff::Timestamp,
    pub uptime_secs: i64,
    pub mode: Mode,
    pub scope: String,
    /// The kernel's report: backend, hooks, what it can and cannot stop, lost events.
    pub kernel: Value,
    pub docker: Value,
    pub docker_error: Option<String>,
    pub servers: Counts,
    pub tools: Counts,
    /// Tools that agents can find and call now.
    pub callable_tools: usize,
    /// Containers that run, by server.
    pub running: BTreeMap<String, String>,
    /// Number of agents in each state.
    pub agents: BTreeMap<String, usize>,
    /// Number of shadow spawns in each state.
    pub shadows: BTreeMap<String, usize>,
    /// Entries of client configs that go around the door.
    pub around_the_door: usize,
    pub client_configs: usize,
    pub client_errors: Vec<String>,
    /// The last changes of entries of client configs, newest first: what they were and are, and who wrote.
    #[serde(default)]
    pub config_changes: Vec<Value>,
    /// What was used of each rate limit.
    #[serde(default)]
    pub rates: Vec<crate::policy::RateUse>,
    pub policy: Value,
    /// Calls that wait for a human.
    #[serde(default)]
    pub asks: usize,
    /// AMP provider of the agents that are enrolled here.
    pub provider: String,
    pub config: PathBuf,
    pub state_dir: PathBuf,
    pub mcp_socket: PathBuf,
    pub admin_socket: PathBuf,
    /// Where HTTP clients reach the door; none where that is off.
    #[serde(default)]
    pub http_url: Option<String>,
    /// Tokens of HTTP clients that are in force.
    #[serde(default)]
    pub tokens: usize,
    pub daemon_did: String,
    pub daemon_fingerprint: String,
}

/// The end of what a server wrote to its standard error.
#[derive(Debug, Serialize, Deserialize)]
pub struct Logs {
    pub running: bool,
    /// Of all containers, oldest first.
    pub lines: Vec<String>,
    /// Those that ended last, and then those that run.
    #[serde(default)]
    pub containers: Vec<ContainerLog>,
}

impl Logs {
    pub fn of(containers: Vec<ContainerLog>) -> Self {
        Self {
            running: containers.iter().any(|log| log.running),
            lines: containers.iter().flat_map(|log| log.lines.iter().cloned()).collect(),
            containers,
        }
    }
}

/// One review's pin, and everything that it covers.
#[derive(Debug, Serialize, Deserialize)]
pub struct Pinned {
    pub pin: String,
    pub at: jiff::Timestamp,
    pub pinned: Value,
}

/// The newest review beside the one that was approved; `approved` is missing while they are one.
#[derive(Debug, Serialize, Deserialize)]
pub struct ReviewDiff {
    pub approved: Option<Pinned>,
    pub newest: Pinned,
}

/// Done, and nothing to say about it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Done {}

/// A launch definition without the values of its environment, but for those that load code.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LaunchView {
    pub source: Source,
    pub args: Vec<String>,
    pub env_names: Vec<String>,
    /// The variables that decide which code runs, with their values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub code_env: BTreeMap<String, String>,
    pub mounts: Vec<Mount>,
    /// What it may reach outside of its cage.
    #[serde(default)]
    pub egress: Vec<Egress>,
    /// Which of `env_names` are secrets.
    #[serde(default)]
    pub secrets: BTreeSet<String>,
    #[serde(default)]
    pub isolation: Isolation,
    pub configured: Vec<String>,
}

impl From<&LaunchDefinition> for LaunchView {
    fn from(launch: &LaunchDefinition) -> Self {
        Self {
            source: launch.source.clone(),
            args: launch.args.clone(),
            env_names: launch.env.keys().cloned().collect(),
            code_env: launch.code_env().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            mounts: launch.mounts.clone(),
            egress: launch.egress.clone(),
            secrets: launch.secrets.clone(),
            isolation: launch.isolation,
            configured: launch.configured.clone(),
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub approved: usize,
    pub quarantined: usize,
    pub denied: usize,
}

impl Counts {
    pub fn of(states: impl IntoIterator<Item = AdmissionState>) -> Self {
        let mut counts = Self::default();
        for state in states {
            match state {
                AdmissionState::Approved => counts.approved += 1,
                AdmissionState::Quarantined => counts.quarantined += 1,
                AdmissionState::Denied => counts.denied += 1,
            }
        }
        counts
    }

    pub fn total(&self) -> usize {
        self.approved + self.quarantined + self.denied
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServerView {
    pub name: String,
    pub state: AdmissionState,
    /// Approved, and what was reviewed last is what was approved.
    pub active: bool,
    pub origin: String,
    pub launch: LaunchView,
    pub review: Option<Review>,
    pub decided_pin: Option<String>,
    pub tools: Counts,
    /// Its running container; the origin of a remote server that is connected to.
    pub container: Option<String>,
    /// Where its definition wants one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<LoginView>,
    pub history: Vec<Transition>,
}

impl ServerView {
    pub fn new(server: Server, tools: Counts, container: Option<String>) -> Self {
        Self {
            active: server.is_active(),
            launch: LaunchView::from(&server.launch),
            name: server.name,
            state: server.state,
            origin: server.origin,
            review: server.review,
            decided_pin: server.decided_pin,
            tools,
            container,
            login: None,
            history: server.history,
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ToolView {
    pub server: String,
    pub name: String,
    pub state: AdmissionState,
    /// Agents can find and call it: it and its server are approved as they are now.
    pub callable: bool,
    pub digest: String,
    pub title: Option<String>,
    pub description: Option<String>,
    /// The descriptor as the server sent it, JSON text, byte for byte.
    pub descriptor: String,
    pub history: Vec<Transition>,
}

impl ToolView {
    pub fn new(tool: Tool, server_active: bool) -> Self {
        let descriptor: Value = serde_json::from_str(&tool.descriptor).unwrap_or_default();
        let text = |key: &str| descriptor.get(key).and_then(Value::as_str).map(str::to_owned);
        Self {
            callable: server_active && tool.state == AdmissionState::Approved,
            title: text("title"),
            description: text("description"),
            server: tool.server,
            name: tool.name,
            state: tool.state,
            digest: tool.digest,
            descriptor: tool.descriptor,
            history: tool.history,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_names_the_environment_and_never_its_values() {
        let launch = LaunchDefinition {
            source: Source::Image { image: "x".into(), run: vec![] },
            args: vec![],
            env: [("API_KEY".to_owned(), "s3cret".to_owned()), ("NODE_OPTIONS".to_owned(), "-r evil".to_owned())]
                .into(),
            mounts: vec![],
            egress: vec![],
            secrets: BTreeSet::new(),
            isolation: Default::default(),
            configured: vec![],
        };
        let text = serde_json::to_string(&LaunchView::from(&launch)).unwrap();
        assert!(text.contains("API_KEY") && !text.contains("s3cret"), "{text}");
        assert!(text.contains("-r evil"), "what loads code is no secret: {text}");
    }

    #[test]
    fn a_stream_line_has_the_shape_that_was_promised() {
        let line = |line: &Line| serde_json::to_string(line).unwrap();
        assert_eq!(line(&Line::Progress("x".into())), r#"{"progress":"x"}"#);
        assert_eq!(line(&Line::Done(serde_json::json!({}))), r#"{"done":{}}"#);
    }
}
