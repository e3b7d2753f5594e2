//! What was configured: `config.toml`, the flags and `LAZARET_*`, and where everything lies.
//!
//! Unknown keys are errors with line and column. A file that is missing means the defaults;
//! a file that cannot be read or understood is never ignored.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub const DEFAULT_CONFIG: &str = "/etc/lazaret/config.toml";
pub const DEFAULT_STATE_DIR: &str = "/var/lib/lazaret";
pub const DEFAULT_RUN_DIR: &str = "/run/lazaret";
pub const DEFAULT_ALLOWED_SIGNERS: &str = "/etc/lazaret/allowed_signers";
/// In the run directory: the URL for HTTP clients, while the daemon serves them.
pub const HTTP_URL_FILE: &str = "http.url";
pub const DEFAULT_BPF_DIR: &str = "/sys/fs/bpf/lazaret";

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(
        "cannot read the configuration {path}: {source}; check that the file is there and readable, or name another with --config"
    )]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}:{line}:{column}: {message}; correct the file, `lazaret doctor` checks it")]
    Syntax { path: PathBuf, line: usize, column: usize, message: String },
    #[error("{0}")]
    Value(String),
}

/// What the kernel does with a process that evidence convicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Report only; the installed default.
    #[default]
    Observe,
    /// Stop it before its first instruction, until a human decides.
    Hold,
    /// Deny or kill it there.
    Enforce,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Observe => "observe",
            Mode::Hold => "hold",
            Mode::Enforce => "enforce",
        })
    }
}

/// The processes that Lazaret judges. Outside of it nothing is ever denied or killed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Scope {
    #[default]
    Host,
    /// A cgroup v2 directory and everything born in it.
    Cgroup(PathBuf),
    Uid(u32),
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "host" {
            return Ok(Scope::Host);
        }
        match text.split_once(':') {
            Some(("cgroup", path)) if !path.is_empty() => Ok(Scope::Cgroup(PathBuf::from(path))),
            Some(("uid", uid)) => uid.parse().map(Scope::Uid).map_err(|e| {
                format!("cannot read the scope {text:?}: {uid:?} is not a uid ({e}); write uid:N with a decimal number")
            }),
            _ => Err(format!("cannot read the scope {text:?}; write host, cgroup:PATH or uid:N")),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::Host => f.write_str("host"),
            Scope::Cgroup(path) => write!(f, "cgroup:{}", path.display()),
            Scope::Uid(uid) => write!(f, "uid:{uid}"),
        }
    }
}

impl Serialize for Scope {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Why the kernel thinks that a process is an MCP server outside the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Evidence {
    Config,
    Catalogue,
    Handshake,
    Connect,
}

#[derive(Debug, Clone, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub kernel: KernelConfig,
    pub clients: ClientsConfig,
    pub identity: IdentityConfig,
    pub proxy: ProxyConfig,
    pub http: HttpConfig,
    pub rate: RateConfig,
    pub ask: AskConfig,
    pub audit: AuditConfig,
    pub sandbox: SandboxConfig,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KernelConfig {
    pub mode: Mode,
    pub scope: Scope,
    /// A mode for one kind of evidence that differs from `mode`.
    pub evidence: BTreeMap<Evidence, Mode>,
    /// What happens when a process below an MCP client that nothing convicts reaches for a container engine, a
    /// remote MCP server that a client config names, or an MCP server on the loopback address: `observe` or `enforce`.
    pub connect_below_clients: Mode,
    /// Keep links and maps in bpffs, so that enforcement outlives the daemon.
    pub pin: bool,
}

impl Default for KernelConfig {
    fn default() -> Self {
        Self {
            mode: Mode::Observe,
            scope: Scope::Host,
            evidence: BTreeMap::new(),
            connect_below_clients: Mode::Observe,
            pin: true,
        }
    }
}

#[derive(Debug, Clone, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct ClientsConfig {
    /// Home directories to read client configs from, beside those of the host's users.
    pub homes: Vec<PathBuf>,
    /// Project directories to read client configs from, beside those that clients know.
    pub projects: Vec<PathBuf>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IdentityConfig {
    /// AMP provider of the agents that are enrolled here: at least two labels.
    pub provider: String,
    /// Whose vouches count: a file as `ssh-keygen -Y verify` reads it.
    pub allowed_signers: PathBuf,
    /// An agent without a valid vouch may call nothing.
    pub require_vouch: bool,
    /// What becomes of calls of an agent that a human vouched for and that has changed since: `deny`, or `report`
    /// to let policies decide, which see it as `drifted`.
    pub on_drift: OnDrift,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum OnDrift {
    #[default]
    Deny,
    Report,
}

impl Default for IdentityConfig {
    fn default() -> Self {
        Self {
            provider: "lazaret.local".into(),
            allowed_signers: DEFAULT_ALLOWED_SIGNERS.into(),
            require_vouch: false,
            on_drift: OnDrift::default(),
        }
    }
}

/// What an agent sees through the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Expose {
    /// `search_tools`, `describe_tool`, `call_tool`.
    #[default]
    Search,
    /// Every approved tool under `server__tool`, or under its own name where `prefix` is false.
    Direct,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProxyConfig {
    pub expose: Expose,
    /// Whether names of tools and prompts begin with their server's. Without, a name that two servers have is refused,
    /// and they are listed as `server__name`.
    pub prefix: bool,
    /// Longest JSON-RPC message in bytes, in both directions.
    pub max_message_bytes: usize,
    /// Deepest nesting of a JSON-RPC message.
    pub max_depth: usize,
    /// Seconds that one call may take.
    pub call_timeout_secs: u64,
}

impl Default for ProxyConfig {
    fn default() -> Self {
        Self { expose: Expose::Search, prefix: true, max_message_bytes: 4 << 20, max_depth: 64, call_timeout_secs: 120 }
    }
}

/// The door for clients that speak MCP over HTTP; off unless `listen` is set.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// A loopback address and a port; port 0 takes any that is free (`lazaret status` says which).
    pub listen: Option<SocketAddr>,
    /// Origins of web pages that may use the door, beside those of this host; such as `https://app.example.com`.
    pub allowed_origins: Vec<String>,
    /// Seconds that a token lives if nothing else is asked for, and at most.
    pub token_secs: u64,
    pub max_token_secs: u64,
}

/// Tokens are short-lived: not even the configuration makes them last.
pub const LONGEST_TOKEN: u64 = 3600;

impl Default for HttpConfig {
    fn default() -> Self {
        Self { listen: None, allowed_origins: Vec::new(), token_secs: 600, max_token_secs: LONGEST_TOKEN }
    }
}

impl HttpConfig {
    fn check(&self) -> Result<(), String> {
        if let Some(listen) = self.listen.filter(|listen| !listen.ip().is_loopback()) {
            return Err(format!(
                "[http] listen is {listen}, which other hosts may reach; only loopback addresses are served, such as 127.0.0.1:7717"
            ));
        }
        for origin in &self.allowed_origins {
            if url::Url::parse(origin).map_or(true, |url| url.origin().ascii_serialization() != *origin) {
                return Err(format!(
                    "[http] allowed_origins: {origin:?} is not an origin; write scheme://host or scheme://host:port, without a path"
                ));
            }
        }
        if !(1..=LONGEST_TOKEN).contains(&self.max_token_secs) {
            return Err(format!("[http] max_token_secs must be from 1 to {LONGEST_TOKEN}"));
        }
        if !(1..=self.max_token_secs).contains(&self.token_secs) {
            return Err("[http] token_secs must be from 1 to max_token_secs".into());
        }
        Ok(())
    }
}

/// How often calls may be made: by one agent together with its sub-agents, and, where it says so, to one
/// server or tool by all agents together.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RateConfig {
    /// Calls per minute that one agent may make, on average.
    pub calls_per_minute: u32,
    /// Calls that one agent may make at once.
    pub burst: u32,
    /// Calls that one agent may make on one day (UTC); as many as it likes where this is absent.
    pub calls_per_day: Option<u64>,
    /// Other limits for some agents, by address; what is absent is as above.
    pub agent: BTreeMap<String, RateLimit>,
    /// Limits of servers, by name.
    pub server: BTreeMap<String, RateLimit>,
    /// Limits of tools, by `server:tool`.
    pub tool: BTreeMap<String, RateLimit>,
}

/// What is absent is no limit; for an agent it is the one of `[rate]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct RateLimit {
    pub calls_per_minute: Option<u32>,
    /// As many as in a minute where this is absent.
    pub burst: Option<u32>,
    pub calls_per_day: Option<u64>,
}

impl Default for RateConfig {
    fn default() -> Self {
        Self {
            calls_per_minute: 6000,
            burst: 1000,
            calls_per_day: None,
            agent: BTreeMap::new(),
            server: BTreeMap::new(),
            tool: BTreeMap::new(),
        }
    }
}

impl RateConfig {
    fn fault(&self) -> Option<String> {
        if self.calls_per_minute == 0 || self.burst == 0 || self.calls_per_day == Some(0) {
            return Some(
                "[rate] calls_per_minute, burst and calls_per_day must be at least 1; suspend an agent to stop it"
                    .into(),
            );
        }
        for (kind, limits) in [("agent", &self.agent), ("server", &self.server), ("tool", &self.tool)] {
            for (name, limit) in limits {
                let place = format!("[rate.{kind}.{name:?}]");
                let is_name = match kind {
                    "agent" => name.parse::<crate::identity::Address>().is_ok_and(|address| address.as_str() == name),
                    "server" => !name.is_empty() && !name.contains(':'),
                    _ => name.split_once(':').is_some_and(|(server, tool)| !server.is_empty() && !tool.is_empty()),
                };
                if !is_name {
                    let form = match kind {
                        "agent" => "an agent's address in lower case, such as claude@ann.lazaret.local",
                        "server" => "a server's name",
                        _ => "server:tool",
                    };
                    return Some(format!("{place} is not of {form}"));
                }
                if limit.calls_per_minute == Some(0) || limit.burst == Some(0) || limit.calls_per_day == Some(0) {
                    return Some(format!("{place} calls_per_minute, burst and calls_per_day must be at least 1"));
                }
                if kind != "agent" && limit.burst.is_some() && limit.calls_per_minute.is_none() {
                    return Some(format!("{place} burst says nothing without calls_per_minute"));
                }
            }
        }
        None
    }
}

/// Calls that wait for a human.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AskConfig {
    /// Seconds that a call waits for an answer; then the answer is no.
    pub timeout_secs: u64,
    /// Calls that may wait at once, of all agents and of one.
    pub max_waiting: usize,
    pub max_per_agent: usize,
    /// Show a notification on the desktop of operators that are logged in.
    pub notify: bool,
}

impl Default for AskConfig {
    fn default() -> Self {
        Self { timeout_secs: 120, max_waiting: 64, max_per_agent: 8, notify: true }
    }
}

#[derive(Debug, Clone, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct AuditConfig {
    pub sync: AuditSync,
}

/// When the records of calls and results are on disk. What people decided, denials and the kernel's verdicts are there
/// before anything is answered, whatever this says; and no end of the daemon loses a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum AuditSync {
    /// Soon after: several calls share one write, and a power cut or a crash of the kernel takes the last
    /// 20 ms and those of one write along.
    #[default]
    Batch,
    /// Before a call is forwarded, and before its result is given out.
    Always,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SandboxConfig {
    /// Docker's socket.
    pub docker: PathBuf,
    /// Image that npm and PyPI servers are built on: it has node, npm, python3, pip and git.
    pub base_image: String,
    /// Memory of one cage in bytes; swap is equal, so there is none.
    pub memory_bytes: i64,
    pub cpus: f64,
    pub pids: i64,
    /// Size of the cage's /tmp in bytes.
    pub tmpfs_bytes: u64,
    /// Seconds without a call after which a server's container is stopped.
    pub idle_stop_secs: u64,
    /// Seconds that a server may take from start to its answer to `initialize`.
    pub start_timeout_secs: u64,
    /// Containers of servers that may run at once; to make room, the one that was used least recently is stopped.
    pub max_running: usize,
    /// Seconds of silence after which a running server is asked whether it still answers; 0 asks none.
    pub ping_secs: u64,
    /// Seconds that it may take to answer that; one that does not is ended.
    pub ping_timeout_secs: u64,
}

impl Default for SandboxConfig {
    fn default() -> Self {
        Self {
            docker: PathBuf::from("/var/run/docker.sock"),
            base_image: "lazaret/base:1".into(),
            memory_bytes: 512 << 20,
            cpus: 1.0,
            pids: 128,
            tmpfs_bytes: 64 << 20,
            idle_stop_secs: 900,
            start_timeout_secs: 30,
            max_running: 64,
            ping_secs: 60,
            ping_timeout_secs: 10,
        }
    }
}

impl Config {
    /// Reads `path`. `explicit` says that the user named the file, so that it must exist.
    pub fn load(path: &Path, explicit: bool) -> Result<Self, ConfigError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !explicit => return Ok(Self::default()),
            Err(source) => return Err(ConfigError::Read { path: path.into(), source }),
        };
        Self::parse(&text, path)
    }

    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Config = toml::from_str(text).map_err(|e| {
            let (line, column) = e.span().map_or((1, 1), |span| line_column(text, span.start));
            ConfigError::Syntax { path: path.into(), line, column, message: e.message().trim().replace('\n', ", ") }
        })?;
        config.check(path)?;
        Ok(config)
    }

    fn check(&self, path: &Path) -> Result<(), ConfigError> {
        let bad = |what: &str| Err(ConfigError::Value(format!("{}: {what}", path.display())));
        if self.kernel.connect_below_clients == Mode::Hold {
            return bad("[kernel] connect_below_clients must be observe or enforce; a connect cannot be held");
        }
        if let Some(fault) = self.rate.fault() {
            return bad(&fault);
        }
        if !(1..=3600).contains(&self.ask.timeout_secs) || self.ask.max_waiting == 0 || self.ask.max_per_agent == 0 {
            return bad("[ask] timeout_secs must be from 1 to 3600, max_waiting and max_per_agent at least 1");
        }
        if self.identity.provider.split('.').filter(|label| !label.is_empty()).count() < 2 {
            return bad("[identity] provider must have at least two labels, such as lazaret.local");
        }
        if self.sandbox.max_running == 0 || self.sandbox.ping_timeout_secs == 0 {
            return bad("[sandbox] max_running and ping_timeout_secs must be at least 1");
        }
        if !self.proxy.prefix && self.proxy.expose != Expose::Direct {
            return bad("[proxy] prefix = false goes with expose = \"direct\" alone");
        }
        if self.proxy.max_message_bytes < 64 << 10 {
            return bad("[proxy] max_message_bytes must be at least 65536");
        }
        if let Err(what) = self.http.check() {
            return bad(&what);
        }
        Ok(())
    }
}

/// Line and column, both from 1; the column counts characters.
pub fn line_column(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..text.floor_char_boundary(offset)];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
    (line, column)
}

/// Where this instance's files and sockets are.
#[derive(Debug, Clone)]
pub struct Paths {
    pub config: PathBuf,
    pub config_explicit: bool,
    pub state_dir: PathBuf,
    pub run_dir: PathBuf,
    pub policy_dir: PathBuf,
    pub bpf_dir: PathBuf,
}

impl Paths {
    pub fn database(&self) -> PathBuf {
        self.state_dir.join("state.redb")
    }

    pub fn mcp_socket(&self) -> PathBuf {
        self.run_dir.join("mcp.sock")
    }

    pub fn admin_socket(&self) -> PathBuf {
        self.run_dir.join("admin.sock")
    }

    /// Names this instance in container labels and in bpffs, so that two never touch each other's things.
    pub fn instance(&self) -> String {
        use sha2::Digest as _;
        let state = std::path::absolute(&self.state_dir).unwrap_or_else(|_| self.state_dir.clone());
        hex::encode(&sha2::Sha256::digest(state.as_os_str().as_encoded_bytes())[..6])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_an_error_with_line_and_column() {
        let error = Config::parse("[kernel]\nmode = \"observe\"\n  mdoe = 1\n", Path::new("c.toml")).unwrap_err();
        assert!(error.to_string().starts_with("c.toml:3:3: unknown field `mdoe`"), "{error}");
    }

    #[test]
    fn scopes_read_back_as_written() {
        for text in ["host", "cgroup:/sys/fs/cgroup/x", "uid:1000"] {
            assert_eq!(text.parse::<Scope>().unwrap().to_string(), text);
        }
        assert!("cgroup:".parse::<Scope>().is_err());
        assert!("uid:x".parse::<Scope>().is_err());
    }

    #[test]
    fn limits_are_read_by_what_they_limit_and_none_is_zero_or_misspelt() {
        let read = |text: &str| Config::parse(text, Path::new("c"));
        let text = "[rate]\ncalls_per_day = 9\n[rate.agent.\"a@x.y\"]\nburst = 2\n[rate.server.fs]\ncalls_per_minute = 3\n\
                    [rate.tool.\"fs:read\"]\ncalls_per_day = 4\n";
        let rate = read(text).unwrap().rate;
        assert_eq!((rate.calls_per_day, rate.agent["a@x.y"].burst), (Some(9), Some(2)));
        assert_eq!((rate.server["fs"].calls_per_minute, rate.tool["fs:read"].calls_per_day), (Some(3), Some(4)));
        for (wrong, why) in [
            ("[rate]\ncalls_per_hour = 1\n", "unknown field `calls_per_hour`"),
            ("[rate.server.fs]\ncalls = 1\n", "unknown field `calls`"),
            ("[rate.agent.\"A@x.y\"]\nburst = 1\n", "lower case"),
            ("[rate.tool.fs]\nburst = 1\n", "server:tool"),
            ("[rate.server.\"fs:x\"]\nburst = 1\n", "a server's name"),
            ("[rate.server.fs]\ncalls_per_day = 0\n", "at least 1"),
            ("[rate.server.fs]\nburst = 5\n", "without calls_per_minute"),
            ("[rate]\nburst = 0\n", "at least 1"),
        ] {
            let error = read(wrong).unwrap_err().to_string();
            assert!(error.contains(why), "{wrong}: {error}");
        }
    }

    #[test]
    fn records_of_calls_are_batched_unless_they_are_to_be_on_disk_always() {
        let sync = |text: &str| Config::parse(text, Path::new("c")).map(|config| config.audit.sync);
        assert_eq!(sync("").unwrap(), AuditSync::Batch);
        assert_eq!(sync("[audit]\nsync = \"always\"\n").unwrap(), AuditSync::Always);
        assert!(sync("[audit]\nsync = \"never\"\n").is_err());
    }

    #[test]
    fn evidence_modes_are_read() {
        let config = Config::parse("[kernel.evidence]\nhandshake = \"hold\"\n", Path::new("c")).unwrap();
        assert_eq!(config.kernel.evidence[&Evidence::Handshake], Mode::Hold);
    }

    #[test]
    fn http_is_off_and_on_loopback_only() {
        let http =
            |text: &str| Config::parse(&format!("[http]\n{text}"), Path::new("c.toml")).map(|config| config.http);
        assert_eq!(Config::default().http.listen, None);
        for good in ["127.0.0.1:7717", "127.9.9.9:1", "[::1]:0"] {
            assert_eq!(http(&format!("listen = {good:?}")).unwrap().listen, Some(good.parse().unwrap()));
        }
        for bad in ["0.0.0.0:80", "[::]:80", "10.0.0.1:80", "localhost:80", "127.0.0.1", "[::ffff:127.0.0.1]:80"] {
            assert!(http(&format!("listen = {bad:?}")).is_err(), "{bad}");
        }
        assert!(http("allowed_origins = [\"https://app.example.com\", \"http://x:8080\"]").is_ok());
        for bad in ["*", "null", "https://app.example.com/", "app.example.com", "HTTPS://App.example.com", "file:///x"]
        {
            assert!(http(&format!("allowed_origins = [{bad:?}]")).is_err(), "{bad}");
        }
        assert!(http("token_secs = 3600\nmax_token_secs = 60").is_err());
        assert!(http("max_token_secs = 3601").is_err());
        assert!(http("token_secs = 0").is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_config_or_an_error_with_a_place(text in ".{0,200}") {
            if let Err(ConfigError::Syntax { line, column, .. }) = Config::parse(&text, Path::new("c")) {
                proptest::prop_assert!(line >= 1 && column >= 1);
            }
        }
    }
}
