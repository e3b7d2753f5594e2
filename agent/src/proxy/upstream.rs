//! The daemon as MCP client of one server, in its cage or on another host.
//!
//! Invariants: request ids on this pipe are the daemon's own; every call ends, by an answer, a
//! timeout or the server's end; what the server answers is given back as it was written. No
//! capability is declared to a server of the older era, so that it may ask the daemon for nothing; what it
//! asks all the same is refused. A log message goes to the call that it belongs to, or to nobody.

mod calls;
mod health;
mod pump;
mod remote;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use self::calls::{Calls, Outgoing};
pub use self::remote::RemoteLink;
use self::remote::Wire;
use super::envelope::{self, Limits, Reply, RequestId};
use super::hub::Holder;
use super::json::Json;
use super::versions;
use crate::config::Config;
use crate::policy::ForwardPermit;
use crate::sandbox::{Cage, StderrLog};

/// Lines that may wait to be written to one server.
const QUEUE: usize = 256;
/// Pages of one list, and entries in all, that a server may send.
const MAX_PAGES: usize = 1_000;
const MAX_ENTRIES: usize = 5_000;
/// Bytes of one list, all pages together.
const MAX_LIST_BYTES: usize = 16 << 20;
/// How long a server may take to end once its input has ended.
const STOP_GRACE: Duration = Duration::from_secs(2);
/// Lines of its standard error that an error shows.
const LAST_WORDS: usize = 5;

#[derive(Debug, Clone, Copy)]
pub struct UpstreamLimits {
    pub start_timeout: Duration,
    pub call_timeout: Duration,
    pub max_message_bytes: usize,
    pub max_depth: usize,
    /// How long a server may be silent before it is asked whether it still answers; zero: it is not asked.
    pub ping_after: Duration,
    pub ping_timeout: Duration,
}

impl UpstreamLimits {
    pub fn of(config: &Config) -> Self {
        Self {
            start_timeout: Duration::from_secs(config.sandbox.start_timeout_secs),
            call_timeout: Duration::from_secs(config.proxy.call_timeout_secs),
            max_message_bytes: config.proxy.max_message_bytes,
            max_depth: config.proxy.max_depth,
            ping_after: Duration::from_secs(config.sandbox.ping_secs),
            ping_timeout: Duration::from_secs(config.sandbox.ping_timeout_secs),
        }
    }
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum UpstreamError {
    #[error("the server ended: {cause}{last_words}; its standard error is in `lazaret server logs`")]
    /// `sent` says whether the server may have got the request.
    Ended { cause: Arc<str>, last_words: Arc<str>, sent: bool },
    #[error(
        "the server did not answer {method} within {secs} s{last_words}; it may hang or need the network, see `lazaret server logs`"
    )]
    Timeout { method: String, secs: u64, last_words: Arc<str> },
    #[error("the server answered {method} with something that is not MCP: {cause}; tell its author")]
    Protocol { method: String, cause: String },
    #[error("the server answered {method} with an error: {error}; see `lazaret server logs`")]
    Refused { method: String, error: String },
    /// An answer that is none of MCP, or none at all. `after` is when to come again, in seconds.
    #[error("the remote server did not serve it: {cause}")]
    Remote { cause: Arc<str>, sent: bool, after: Option<u64> },
    /// A person has to log in first; the cause says how.
    #[error("{cause}")]
    Login { cause: Arc<str> },
    #[error("the server does not read its input: {QUEUE} messages wait for it; it may hang, see `lazaret server logs`")]
    Stuck,
    #[error(
        "the call was permitted for {permitted} as it was approved, and another server was to get it; call it again"
    )]
    NotPermitted { permitted: String },
}

/// What a server says of a call while it works on it: the params of the notification.
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    Progress(Json),
    Message(Json),
}

/// Who hears it.
#[derive(Debug, Clone)]
pub struct Listener {
    pub to: mpsc::Sender<News>,
    /// Whether it asked for progress.
    pub progress: bool,
    pub client: Client,
}

/// What a client of 2026-07-28 says of itself in a request; it goes on to servers of that era alone.
#[derive(Debug, Clone, Default)]
pub struct Client {
    pub capabilities: Option<Json>,
    pub log_level: Option<Json>,
}

/// A running server that has answered `initialize`.
pub struct Upstream {
    container_id: String,
    protocol_version: String,
    server_info: Json,
    instructions: Option<String>,
    capabilities: Json,
    /// Name and pin; unknown while it is compared with the pin, and in a review.
    identity: std::sync::OnceLock<(String, String)>,
    /// Whose calls it takes, where that is not everybody.
    holder: std::sync::OnceLock<Holder>,
    limits: UpstreamLimits,
    calls: Arc<Calls>,
    outgoing: mpsc::Sender<Outgoing>,
    stderr: StderrLog,
    /// The way to it, where it is no cage's.
    wire: Option<Arc<Wire>>,
    tools_changed: watch::Receiver<u64>,
    /// The count of changes up to which its listing was compared with the pin, and when.
    compared: std::sync::Mutex<Option<(u64, Instant)>>,
    used: std::sync::Mutex<Instant>,
    in_flight: AtomicUsize,
    /// Owns the cage's output, and so the container: ending it removes the container.
    reader: JoinHandle<()>,
}

impl Upstream {
    /// Speaks to a cage that has just started. On an error the cage is gone.
    pub async fn start(cage: Cage, limits: UpstreamLimits) -> Result<Arc<Upstream>, UpstreamError> {
        let (outgoing, queue) = mpsc::channel(QUEUE);
        let (ears, tools_changed) = ears(&outgoing, &limits);
        let calls = ears.calls.clone();
        tokio::spawn(pump::write(queue, cage.stdin, calls.clone()));
        let incoming = pump::Incoming { ears, exit: cage.exit, stderr: cage.stderr.clone() };
        let reader = tokio::spawn(incoming.read(cage.stdout));
        let way =
            Way { id: cage.container_id, calls, outgoing, stderr: cage.stderr, wire: None, tools_changed, reader };
        Self::greeted(way, limits).await
    }

    /// Speaks to a server that somebody else runs.
    pub async fn open(link: RemoteLink, limits: UpstreamLimits) -> Result<Arc<Upstream>, UpstreamError> {
        let (outgoing, queue) = mpsc::channel(QUEUE);
        let (ears, tools_changed) = ears(&outgoing, &limits);
        let (calls, stderr, id) = (ears.calls.clone(), StderrLog::default(), link.origin().to_owned());
        let wire = Wire::new(link, ears, stderr.clone());
        let reader = tokio::spawn(wire.clone().run(queue));
        let way = Way { id, calls, outgoing, stderr, wire: Some(wire), tools_changed, reader };
        Self::greeted(way, limits).await
    }

    async fn greeted(way: Way, limits: UpstreamLimits) -> Result<Arc<Upstream>, UpstreamError> {
        let mut upstream = Upstream {
            container_id: way.id,
            protocol_version: String::new(),
            server_info: Json::Null,
            instructions: None,
            capabilities: Json::object::<&str>([]),
            identity: std::sync::OnceLock::new(),
            holder: std::sync::OnceLock::new(),
            limits,
            calls: way.calls,
            outgoing: way.outgoing,
            stderr: way.stderr,
            wire: way.wire,
            tools_changed: way.tools_changed,
            compared: std::sync::Mutex::default(),
            used: Instant::now().into(),
            in_flight: AtomicUsize::new(0),
            reader: way.reader,
        };
        upstream.greet().await?;
        let upstream = Arc::new(upstream);
        tokio::spawn(health::watch(Arc::downgrade(&upstream), upstream.calls.clone()));
        Ok(upstream)
    }

    /// By `initialize`; a remote server that knows no such thing is asked in the stateless way.
    async fn greet(&mut self) -> Result<(), UpstreamError> {
        let Err(first) = self.initialize().await else { return Ok(()) };
        let other_era = match &first {
            UpstreamError::Refused { .. } => true,
            UpstreamError::Remote { sent: false, after: None, .. } => self.calls.heard() > 0,
            _ => false,
        };
        let Some(wire) = self.wire.clone().filter(|_| other_era) else { return Err(first) };
        wire.agree(versions::STATELESS[0], true);
        // Where it does not know that either, its first word says more.
        self.discover(&wire).await.map_err(|_| first)
    }

    async fn discover(&mut self, wire: &Wire) -> Result<(), UpstreamError> {
        let method = "server/discover";
        let reply = self.exchange(method, Json::object::<&str>([]), self.limits.start_timeout, None).await?;
        let result = result_of(method, reply)?;
        let bad = |cause: &str| UpstreamError::Protocol { method: method.into(), cause: cause.into() };
        let version = versions::STATELESS[0];
        let supported = result.get("supportedVersions").and_then(Json::as_array).unwrap_or_default();
        if !supported.iter().any(|known| known.as_str() == Some(version)) {
            return Err(bad(&format!("versions without {version}")));
        }
        self.protocol_version = version.to_owned();
        let info = result.get("_meta").and_then(|meta| meta.get(versions::META_SERVER_INFO));
        self.server_info = info.or_else(|| result.get("serverInfo")).cloned().unwrap_or(Json::Null);
        self.instructions = result.get("instructions").and_then(Json::as_str).map(str::to_owned);
        match result.get("capabilities") {
            Some(capabilities @ Json::Object(_)) => self.capabilities = capabilities.clone(),
            _ => return Err(bad("no capabilities")),
        }
        if self.tells_of_changes() {
            wire.listen();
        }
        Ok(())
    }

    fn tells_of_changes(&self) -> bool {
        let says =
            |kind: &str| self.capabilities.get(kind).and_then(|of| of.get("listChanged")).and_then(Json::as_bool);
        ["tools", "prompts", "resources"].into_iter().any(|kind| says(kind) == Some(true))
    }

    async fn initialize(&mut self) -> Result<(), UpstreamError> {
        let method = "initialize";
        let params = Json::object([
            ("protocolVersion", Json::string(versions::LATEST_HANDSHAKE)),
            ("capabilities", Json::object::<&str>([])),
            ("clientInfo", versions::implementation()),
        ]);
        let reply = self.exchange(method, params, self.limits.start_timeout, None).await?;
        let result = result_of(method, reply)?;
        let bad = |cause: &str| UpstreamError::Protocol { method: method.into(), cause: cause.into() };
        let version = result.get("protocolVersion").and_then(Json::as_str).ok_or_else(|| bad("no protocolVersion"))?;
        if !versions::HANDSHAKE.contains(&version) {
            return Err(bad(&format!(
                "the protocol version {version:?}, which is none of {}",
                versions::HANDSHAKE.join(", ")
            )));
        }
        self.protocol_version = version.to_owned();
        self.server_info = result.get("serverInfo").cloned().unwrap_or(Json::Null);
        self.instructions = result.get("instructions").and_then(Json::as_str).map(str::to_owned);
        match result.get("capabilities") {
            Some(capabilities @ Json::Object(_)) => self.capabilities = capabilities.clone(),
            _ => return Err(bad("no capabilities")),
        }
        if let Some(wire) = &self.wire {
            wire.agree(&self.protocol_version, false);
        }
        self.send(envelope::notification_line("notifications/initialized", None).into())?;
        if let Some(wire) = self.wire.as_ref().filter(|_| self.tells_of_changes()) {
            wire.listen();
        }
        Ok(())
    }

    /// Whether it is somebody else who runs it.
    pub fn is_remote(&self) -> bool {
        self.wire.is_some()
    }

    pub fn container_id(&self) -> &str {
        &self.container_id
    }

    pub fn protocol_version(&self) -> &str {
        &self.protocol_version
    }

    pub fn server_info(&self) -> &Json {
        &self.server_info
    }

    pub fn instructions(&self) -> Option<&str> {
        self.instructions.as_deref()
    }

    pub fn capabilities(&self) -> &Json {
        &self.capabilities
    }

    pub fn stderr(&self) -> &StderrLog {
        &self.stderr
    }

    /// Bumped whenever the server says that its tools, prompts or resources changed.
    pub fn tools_changed(&self) -> watch::Receiver<u64> {
        self.tools_changed.clone()
    }

    /// Its listing, as it was after so many changes, is the approved one.
    pub fn found_as_approved(&self, changes: u64) {
        *self.compared.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some((changes, Instant::now()));
    }

    /// How old the last comparison is; `None` where the server has said since that something changed.
    pub fn compared(&self) -> Option<Duration> {
        let compared = *self.compared.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (_, at) = compared.filter(|(changes, _)| *changes == *self.tools_changed.borrow())?;
        Some(at.elapsed())
    }

    pub fn is_alive(&self) -> bool {
        self.calls.end().is_none()
    }

    /// Returns once the server has ended, and says how.
    pub async fn ended(&self) -> UpstreamError {
        self.calls.ended().await
    }

    /// How long nothing has been asked of it; `None` while a call is in flight.
    pub fn idle(&self) -> Option<Duration> {
        let used = *self.used.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        (self.in_flight.load(Ordering::Acquire) == 0).then(|| used.elapsed())
    }

    pub fn touch(&self) {
        *self.used.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Instant::now();
    }

    /// All pages of a list, within the time that one call may take. Empty where the server does
    /// not have such things.
    pub async fn list_all(&self, method: &str, member: &str) -> Result<Vec<Json>, UpstreamError> {
        let limit = self.limits.call_timeout;
        match tokio::time::timeout(limit, self.pages(method, member)).await {
            Ok(entries) => {
                if let (Some(wire), Ok(tools), "tools/list") = (&self.wire, &entries, method) {
                    wire.learn(tools);
                }
                entries
            }
            Err(_) => Err(self.timed_out(method, limit)),
        }
    }

    async fn pages(&self, method: &str, member: &str) -> Result<Vec<Json>, UpstreamError> {
        let capability = method.split('/').next().unwrap_or_default();
        if self.capabilities.get(capability).is_none() {
            return Ok(Vec::new());
        }
        let bad = |cause: String| UpstreamError::Protocol { method: method.into(), cause };
        let (mut entries, mut cursor, mut seen) = (Vec::new(), None::<Json>, std::collections::HashSet::new());
        let mut bytes = 0;
        for _page in 0..MAX_PAGES {
            let params = Json::object(cursor.take().map(|cursor| ("cursor", cursor)));
            let mut result = match self.request(method, params).await? {
                // A server may have resources and no templates of them.
                Reply::Error(error) if error.get("code") == Some(&Json::number(envelope::METHOD_NOT_FOUND)) => {
                    return Ok(Vec::new());
                }
                reply => result_of(method, reply)?,
            };
            bytes += result.to_text().len();
            if bytes > MAX_LIST_BYTES {
                return Err(bad(format!("more than {MAX_LIST_BYTES} bytes")));
            }
            match result.remove(member) {
                Some(Json::Array(page)) => entries.extend(page),
                _ => return Err(bad(format!("no array `{member}`"))),
            }
            if entries.len() > MAX_ENTRIES {
                return Err(bad(format!("more than {MAX_ENTRIES} entries")));
            }
            match result.remove("nextCursor") {
                None | Some(Json::Null) => return Ok(entries),
                Some(Json::String(next)) if seen.insert(next.value.clone()) => cursor = Some(Json::String(next)),
                Some(Json::String(_)) => return Err(bad("the same cursor twice".into())),
                Some(_) => return Err(bad("a cursor that is no string".into())),
            }
        }
        Err(bad(format!("more than {MAX_PAGES} pages")))
    }

    async fn request(&self, method: &str, params: Json) -> Result<Reply, UpstreamError> {
        self.exchange(method, params, self.limits.call_timeout, None).await
    }

    /// Says which server this is, and under which pin it was found to be the approved one; only
    /// permits for that are taken from then on. Said once, before anybody is handed the server.
    pub fn identify(&self, name: &str, pin: &str) {
        // It is the same server for as long as it runs: who says another thing is not heard.
        let _said_before = self.identity.set((name.to_owned(), pin.to_owned()));
    }

    /// Says whose calls it takes; those of all others are refused from then on.
    pub fn belongs_to(&self, holder: Holder) {
        self.calls.serves_one(holder != Holder::Everybody);
        let _said_before = self.holder.set(holder);
    }

    /// As if it belonged to one agent.
    #[cfg(test)]
    pub(super) fn hears_for_one(&self) {
        self.calls.serves_one(true);
    }

    /// Forwards what the permit holds, and nothing else. Dropping the future cancels the call at the server. The params
    /// of progress notifications go to the listener, with the daemon's own token in them, and those of log messages;
    /// what finds it full is dropped.
    pub async fn call_tool(&self, permit: &ForwardPermit, listener: Option<Listener>) -> Result<Reply, UpstreamError> {
        let server = permit.server();
        let permitted = server.decided_pin.as_ref().map(|pin| (&server.name, pin));
        let holder = Holder::of(server, permit.session());
        if permitted.is_none()
            || self.identity.get().map(|(name, pin)| (name, pin)) != permitted
            || *self.holder.get().unwrap_or(&Holder::Everybody) != holder
        {
            return Err(UpstreamError::NotPermitted { permitted: server.name.clone() });
        }
        self.exchange(permit.method(), permit.params(), self.limits.call_timeout, listener).await
    }

    async fn exchange(
        &self,
        method: &str,
        mut params: Json,
        limit: Duration,
        listener: Option<Listener>,
    ) -> Result<Reply, UpstreamError> {
        let _using = Using::new(self);
        let wants_progress = listener.as_ref().is_some_and(|listener| listener.progress);
        let client = listener.as_ref().map(|listener| listener.client.clone()).unwrap_or_default();
        let mut call = self.calls.open(listener)?;
        if wants_progress {
            let token = Json::number(call.id());
            match params.get_mut("_meta") {
                Some(meta) => meta.set("progressToken", token),
                None => params.set("_meta", Json::object([("progressToken", token)])),
            }
        }
        if self.wire.as_ref().is_some_and(|wire| wire.is_stateless()) {
            if params.get("_meta").is_none() {
                params.set("_meta", Json::object::<&str>([]));
            }
            if let Some(meta) = params.get_mut("_meta") {
                versions::request_members().into_iter().for_each(|(key, value)| meta.set(key, value));
                // What the client itself can do for a server, and wants to hear: nothing comes back but its own answer.
                if let Some(capabilities) = client.capabilities {
                    meta.set(versions::META_CAPABILITIES, capabilities);
                }
                if let Some(level) = client.log_level {
                    meta.set(versions::META_LOG_LEVEL, level);
                }
            }
        }
        let line = envelope::request_line(&RequestId::number(call.id()), method, &params);
        self.send(call.line(line))?;
        match tokio::time::timeout(limit, call.answer()).await {
            Ok(Err(UpstreamError::Ended { cause, last_words, .. })) => {
                Err(UpstreamError::Ended { cause, last_words, sent: call.was_sent() })
            }
            Ok(answer) => answer,
            Err(_) => {
                call.cancel("timed out");
                // One that hangs altogether would keep the next caller waiting as long.
                self.calls.doubt();
                Err(self.timed_out(method, limit))
            }
        }
    }

    fn timed_out(&self, method: &str, limit: Duration) -> UpstreamError {
        let last_words = last_words(&self.stderr.tail(LAST_WORDS));
        UpstreamError::Timeout { method: method.into(), secs: limit.as_secs(), last_words }
    }

    fn send(&self, line: Outgoing) -> Result<(), UpstreamError> {
        match self.outgoing.try_send(line) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => Err(UpstreamError::Stuck),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(self.calls.end().unwrap_or(UpstreamError::Stuck)),
        }
    }

    /// Ends the server: its input first, then, where that does not help, the container. The
    /// container is removed soon after; `Sandbox::stop` waits for that.
    pub async fn stop(&self) {
        self.stop_because("it was stopped").await;
    }

    /// `None` while it runs.
    pub fn how_it_ended(&self) -> Option<UpstreamError> {
        self.calls.end()
    }

    /// Whether it was ended on purpose, and not by itself.
    pub fn was_stopped(&self) -> bool {
        self.calls.was_stopped()
    }

    /// As [`Upstream::stop`]; its calls are told why.
    pub async fn stop_because(&self, why: &str) {
        self.calls.stop(why);
        self.calls.close_input();
        if tokio::time::timeout(STOP_GRACE, self.calls.output_closed()).await.is_err() {
            self.reader.abort();
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.reader.abort();
        self.calls.stop("it was let go");
        self.calls.close_input();
    }
}

/// A way to a server, opened and not yet spoken on.
struct Way {
    id: String,
    calls: Arc<Calls>,
    outgoing: mpsc::Sender<Outgoing>,
    stderr: StderrLog,
    wire: Option<Arc<Wire>>,
    tools_changed: watch::Receiver<u64>,
    reader: JoinHandle<()>,
}

fn ears(outgoing: &mpsc::Sender<Outgoing>, limits: &UpstreamLimits) -> (pump::Ears, watch::Receiver<u64>) {
    let (changed, tools_changed) = watch::channel(0);
    let bounds = Limits { max_message_bytes: limits.max_message_bytes, max_depth: limits.max_depth };
    (pump::Ears { calls: Arc::new(Calls::new(outgoing.clone())), changed, bounds }, tools_changed)
}

/// Counts a call in flight, and when the last one was.
struct Using<'a>(&'a Upstream);

impl<'a> Using<'a> {
    fn new(upstream: &'a Upstream) -> Self {
        upstream.in_flight.fetch_add(1, Ordering::AcqRel);
        Self(upstream)
    }
}

impl Drop for Using<'_> {
    fn drop(&mut self) {
        self.0.touch();
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

fn last_words(lines: &[String]) -> Arc<str> {
    if lines.is_empty() { "".into() } else { format!("; it said last: {}", lines.join(" | ")).into() }
}

fn result_of(method: &str, reply: Reply) -> Result<Json, UpstreamError> {
    match reply {
        Reply::Result(result) => Ok(result),
        Reply::Error(error) => Err(UpstreamError::Refused { method: method.into(), error: error.to_text() }),
    }
}

#[cfg(test)]
mod tests;
