//! What the room's unit tests share: a scripted server behind a [`Cage`], and a door to it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream};
use tokio::sync::{mpsc, watch};

use super::door::Door;
use super::envelope::{self, Limits, Message, RequestId};
use super::hub::Hub;
use super::json::Json;
use super::upstream::{Upstream, UpstreamLimits};
use crate::admission::{Admission, LaunchDefinition, Review};
use crate::audit::AuditLog;
use crate::config::{Config, Expose, ProxyConfig, RateConfig};
use crate::identity::signed::LineSigner;
use crate::identity::{Address, AgentKey, Registry, SessionIdentity};
use crate::policy::Gates;
use crate::sandbox::{Cage, CageExit, Sandbox, StderrLog};
use crate::search::SearchIndex;
use crate::store::Store;

pub(super) const LIMITS: Limits = Limits { max_message_bytes: 64 << 10, max_depth: 32 };
/// A tool with everything that a typed model would lose.
pub(super) const ECHO: &str = r#"{"name":"echo","x-unknown":{"n":1.0},"description":"Echoes \u0041","inputSchema":{"type":"object"},"execution":{"taskSupport":"optional"}}"#;

pub(super) fn limits() -> UpstreamLimits {
    UpstreamLimits {
        start_timeout: Duration::from_secs(5),
        call_timeout: Duration::from_secs(5),
        max_message_bytes: LIMITS.max_message_bytes,
        max_depth: LIMITS.max_depth,
        ping_after: Duration::ZERO,
        ping_timeout: Duration::from_secs(5),
    }
}

/// The server's end of a cage: what it is told, and its voice.
pub(super) struct Script {
    pub lines: tokio::io::Lines<BufReader<DuplexStream>>,
    pub out: DuplexStream,
    pub exit: watch::Sender<Option<CageExit>>,
}

impl Script {
    pub async fn next(&mut self) -> Option<Message> {
        let line = self.lines.next_line().await.unwrap()?;
        Some(envelope::read(line.as_bytes(), &LIMITS).unwrap())
    }

    /// The next request: id, method and params.
    pub async fn request(&mut self) -> (RequestId, String, Json) {
        loop {
            if let Message::Request { id, method, params } = self.next().await.expect("a request") {
                return (id, method, params.unwrap_or(Json::Null));
            }
        }
    }

    pub async fn say(&mut self, line: &str) {
        self.out.write_all(line.as_bytes()).await.unwrap();
        self.out.write_all(b"\n").await.unwrap();
    }

    pub async fn answer(&mut self, id: &RequestId, result: &str) {
        self.say(&format!(r#"{{"id":{},"result":{result},"jsonrpc":"2.0"}}"#, id.as_json())).await;
    }

    pub async fn handshake(&mut self) {
        self.handshake_with(r#"{"tools":{"listChanged":true}}"#).await;
    }

    pub async fn handshake_with(&mut self, capabilities: &str) {
        let (id, method, _) = self.request().await;
        assert_eq!(method, "initialize");
        let result = format!(
            r#"{{"protocolVersion":"2025-06-18","capabilities":{capabilities},"serverInfo":{{"name":"s","version":"1"}}}}"#
        );
        self.answer(&id, &result).await;
    }
}

pub(super) fn cage() -> (Cage, Script) {
    let (stdin, lines) = tokio::io::duplex(1 << 16);
    let (out, stdout) = tokio::io::duplex(1 << 16);
    let (exit, ended) = watch::channel(None);
    let cage = Cage {
        container_id: "c0ffee".into(),
        stdin: Box::new(stdin),
        stdout: Box::new(stdout),
        stderr: StderrLog::default(),
        warnings: Vec::new(),
        exit: ended,
    };
    (cage, Script { lines: BufReader::new(lines).lines(), out, exit })
}

/// A server past its handshake.
pub(super) async fn upstream(limits: UpstreamLimits) -> (Arc<Upstream>, Script) {
    let (cage, mut script) = cage();
    let (upstream, ()) = tokio::join!(Upstream::start(cage, limits), script.handshake());
    (upstream.unwrap(), script)
}

/// An active agent, and the approved server `s` with the tool `echo`.
pub(super) struct House {
    pub door: Arc<Door>,
    pub audit: Arc<AuditLog>,
    pub agent: Address,
    pub identity: SessionIdentity,
    /// The agent's, which signs the lines of [`House::connect_signing`] too.
    pub key: Option<AgentKey>,
    dir: tempfile::TempDir,
}

pub(super) async fn house(expose: Expose) -> (House, Script) {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&dir.path().join("s")).unwrap());
    let audit = Arc::new(AuditLog::new(store.clone()));
    let registry = Arc::new(Registry::new(store.clone(), audit.clone()));
    let admission = Arc::new(Admission::new(store.clone(), audit.clone()));
    let policies = dir.path().join("policy.d");
    let gates =
        Gates::new(registry.clone(), admission.clone(), audit.clone(), &RateConfig::default(), &policies).unwrap();
    let agent: Address = "claude@acme.lazaret.local".parse().unwrap();
    let private = AgentKey::generate().unwrap();
    let key = private.public();
    registry.enroll(&agent, key, None, "operator").unwrap();
    let mut config = Config::default();
    config.sandbox.docker = dir.path().join("no-docker.sock");
    let sandbox = Arc::new(Sandbox::new(&config.sandbox, "test".into()));
    let remotes = Arc::new(crate::remote::Remotes::new(store));
    let hub = Hub::new(sandbox, remotes, admission.clone(), audit.clone(), &config);
    let index = Arc::new(SearchIndex::new());
    let proxy = ProxyConfig {
        expose,
        max_message_bytes: LIMITS.max_message_bytes,
        call_timeout_secs: 5,
        ..ProxyConfig::default()
    };
    let door = Door::new(proxy, Arc::new(gates), registry, admission, index, hub);
    let house = House {
        door,
        audit,
        agent: agent.clone(),
        identity: SessionIdentity::for_test(&agent, &key),
        key: Some(private),
        dir,
    };
    house.add("s", &[ECHO]);
    let server = house.door.admission.approve("s", "operator", None).unwrap();
    house.door.index.rebuild(&house.door.admission.approved_tools().unwrap()).unwrap();
    let (upstream, script) = upstream(limits()).await;
    house.door.hub.adopt(&server, upstream);
    (house, script)
}

impl House {
    pub fn add(&self, name: &str, tools: &[&str]) {
        let launch: LaunchDefinition = serde_json::from_value(json!({
            "source": {"kind": "pypi", "package": name, "version": null, "script": null, "module": null},
            "configured": ["uvx", name],
        }))
        .unwrap();
        self.door.admission.add(name, launch, "operator", "operator").unwrap();
        let review: Review = serde_json::from_value(json!({
            "at": "2026-01-01T00:00:00Z", "image_id": "sha256:1", "argv": [], "package": {}, "lock": {},
            "protocol_version": "2025-11-25", "server_info": {}, "instructions": null, "pin": "",
        }))
        .unwrap();
        let tools = tools.iter().map(|tool| Json::parse(tool, 32).unwrap()).collect();
        self.door.admission.record_review(name, review, tools, "operator").unwrap();
    }

    /// An approved and running server that offers everything: these prompts and templates, JSON arrays.
    pub async fn offer(&self, name: &str, prompts: &str, templates: &str) -> Script {
        let launch: LaunchDefinition = serde_json::from_value(json!({
            "source": {"kind": "pypi", "package": name, "version": null, "script": null, "module": null},
            "configured": ["uvx", name],
        }))
        .unwrap();
        self.door.admission.add(name, launch, "operator", "operator").unwrap();
        let server = self.list_again(name, prompts, templates);
        let (cage, mut script) = cage();
        let all = r#"{"tools":{},"prompts":{},"resources":{},"completions":{},"logging":{}}"#;
        let (upstream, ()) = tokio::join!(Upstream::start(cage, limits()), script.handshake_with(all));
        self.door.hub.adopt(&server, upstream.unwrap());
        script
    }

    /// A review finds these, and they are approved.
    pub fn list_again(&self, name: &str, prompts: &str, templates: &str) -> crate::admission::Server {
        let review: Review = serde_json::from_value(json!({
            "at": "2026-01-01T00:00:00Z", "image_id": "sha256:1", "argv": [], "package": {}, "lock": {},
            "protocol_version": "2025-11-25", "server_info": {}, "instructions": null, "pin": "",
            "prompts": prompts, "resource_templates": templates,
            "offers": ["completions", "logging", "prompts", "resources"],
        }))
        .unwrap();
        let tools = vec![Json::parse(ECHO, 32).unwrap()];
        self.door.admission.record_review(name, review, tools, "operator").unwrap();
        self.door.admission.approve(name, "operator", None).unwrap()
    }

    /// A session whose lines must be signed, and what signs them; once.
    pub fn connect_signing(&mut self) -> (Client, LineSigner) {
        let (identity, signer) = SessionIdentity::signing_for_test(&self.agent, self.key.take().unwrap());
        self.identity = identity;
        (self.connect(), signer)
    }

    /// Puts this policy in force, alone.
    pub fn policy(&self, text: &str) {
        let dir = self.dir.path().join("policy.d");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("p.cedar"), text).unwrap();
        self.door.gates.reload().unwrap();
    }

    /// A session of the agent.
    pub fn connect(&self) -> Client {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (read, write) = tokio::io::split(far);
        let cancel = tokio_util::sync::CancellationToken::new();
        let session = super::session::serve(self.door.clone(), self.identity.clone(), read, write, cancel);
        let (end, ended) = mpsc::channel(1);
        tokio::spawn(async move {
            let _test_is_over = end.send(session.await).await;
        });
        let (read, write) = tokio::io::split(near);
        Client { lines: BufReader::new(read).lines(), write, ended }
    }
}

pub(super) struct Client {
    pub lines: tokio::io::Lines<BufReader<tokio::io::ReadHalf<DuplexStream>>>,
    pub write: tokio::io::WriteHalf<DuplexStream>,
    pub ended: mpsc::Receiver<super::session::End>,
}

impl Client {
    /// Writes what [`LineSigner::frame`] made.
    pub async fn say_framed(&mut self, framed: &[u8]) {
        self.write.write_all(framed).await.unwrap();
    }

    pub async fn say(&mut self, line: &str) {
        self.write.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    pub async fn hear(&mut self) -> String {
        let line =
            tokio::time::timeout(Duration::from_secs(5), self.lines.next_line()).await.expect("an answer in time");
        line.unwrap().expect("an answer")
    }

    /// The next line that is no notification.
    pub async fn answer(&mut self) -> String {
        loop {
            let line = self.hear().await;
            if !line.contains(r#""method":"notifications/"#) {
                return line;
            }
        }
    }

    pub async fn ask(&mut self, line: &str) -> Json {
        self.say(line).await;
        Json::parse(&self.answer().await, 64).unwrap()
    }

    pub async fn initialize(&mut self, version: &str) -> Json {
        let line = format!(
            r#"{{"method":"initialize","params":{{"protocolVersion":"{version}","capabilities":{{}},"clientInfo":{{"name":"t","version":"1"}}}},"jsonrpc":"2.0","id":0}}"#
        );
        let answer = self.ask(&line).await;
        self.say(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
        answer
    }
}
