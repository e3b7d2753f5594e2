//! The wire to a server that somebody else runs: streamable HTTP instead of a cage's pipes.
//!
//! Invariants: what is sent is the line that was judged, and what comes back goes through the same
//! ears as a cage's output; a call's stream ends with its call; nothing outlives the upstream, the
//! server's session included. Credentials are the definition's own, and nobody's that calls.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use hyper::body::Incoming as Body;
use hyper::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Method, Response, StatusCode};
use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use url::Url;

use super::calls::{Calls, Fate, Outgoing};
use super::pump::Ears;
use super::{LAST_WORDS, UpstreamError};
use crate::admission::Server;
use crate::proxy::envelope::{self, Message, RequestId};
use crate::proxy::json::Json;
use crate::remote::oauth::{Challenge, OAuthError};
use crate::remote::{Ask, Bearer, Http, RemoteError, Remotes, body, is_type, retry_after, secret_headers};
use crate::sandbox::{Allowance, StderrLog};

mod events;
mod listen;
mod mirror;

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");
/// For a message that is no request, and for the end of a session.
const SHORT: Duration = Duration::from_secs(10);
const GOODBYE: Duration = Duration::from_millis(1500);
/// Longest id of a session, and what is read of an answer that is an error.
const MAX_SESSION: usize = 1024;
const MAX_REFUSAL: usize = 64 << 10;

/// A remote server that nobody speaks to yet.
pub struct RemoteLink {
    server: String,
    origin: String,
    url: Url,
    http: Http,
    headers: HeaderMap,
    bearer: Option<Bearer>,
}

impl RemoteLink {
    /// `None` where the server is run here.
    pub fn of(remotes: &Arc<Remotes>, server: &Server) -> Result<Option<Self>, RemoteError> {
        let Some(remote) = server.launch.remote() else { return Ok(None) };
        Ok(Some(Self {
            server: server.name.clone(),
            origin: remote.origin(),
            url: remote.url().clone(),
            http: remotes.http(remote),
            headers: secret_headers(remote, &server.launch.env)?,
            bearer: Bearer::of(remotes, server),
        }))
    }

    /// What stands where a cage has the id of its container.
    pub fn origin(&self) -> &str {
        &self.origin
    }
}

/// What both sides have agreed on so far.
#[derive(Default)]
struct Talk {
    version: Option<HeaderValue>,
    stateless: bool,
    session: Option<HeaderValue>,
    /// The server asked not to be asked before.
    not_before: Option<Instant>,
}

pub(super) struct Wire {
    link: RemoteLink,
    ears: Ears,
    log: StderrLog,
    unasked: Mutex<Allowance>,
    talk: Mutex<Talk>,
    mirrors: Mutex<mirror::Mirrors>,
    /// Rung when the server is ready to be listened to.
    listens: Notify,
}

/// What one request is, beside its text.
struct Request {
    id: u64,
    method: String,
    name: Option<String>,
    /// Arguments that are said in headers too.
    mirrored: HeaderMap,
    fate: Arc<Fate>,
}

impl Wire {
    pub(super) fn new(link: RemoteLink, ears: Ears, log: StderrLog) -> Arc<Self> {
        Arc::new(Self {
            link,
            ears,
            log,
            unasked: Mutex::default(),
            talk: Mutex::default(),
            mirrors: Mutex::default(),
            listens: Notify::new(),
        })
    }

    fn talk(&self) -> MutexGuard<'_, Talk> {
        self.talk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn calls(&self) -> &Arc<Calls> {
        &self.ears.calls
    }

    pub(super) fn is_stateless(&self) -> bool {
        self.talk().stateless
    }

    /// From now on each request says this version; without sessions where it is a stateless one.
    pub(super) fn agree(&self, version: &str, stateless: bool) {
        let mut talk = self.talk();
        talk.version = HeaderValue::from_str(version).ok();
        talk.stateless = stateless;
        if stateless {
            talk.session = None;
        }
    }

    /// The server says that it tells of changes, and may be listened to now.
    pub(super) fn listen(&self) {
        self.listens.notify_one();
    }

    /// Carries lines until the input is closed; then the session is ended at the server too.
    pub(super) async fn run(self: Arc<Self>, mut queue: mpsc::Receiver<Outgoing>) {
        let calls = self.calls().clone();
        let mut tasks = JoinSet::new();
        let mut in_flight: HashMap<u64, AbortHandle> = HashMap::new();
        tasks.spawn(self.clone().listen_on());
        loop {
            let out = tokio::select! {
                biased;
                () = calls.input_closed() => break,
                Some(_ended) = tasks.join_next(), if !tasks.is_empty() => {
                    in_flight.retain(|_, task| !task.is_finished());
                    continue;
                }
                out = queue.recv() => match out {
                    Some(out) => out,
                    None => break,
                },
            };
            match envelope::read(out.text.trim_end().as_bytes(), &self.ears.bounds) {
                Ok(Message::Request { id, method, params }) => {
                    let Some(id) = id.as_u64() else { continue };
                    let name = named(&method, params.as_ref());
                    let mirrored = self.mirrored(name.as_deref(), params.as_ref());
                    let request = Request { id, method, name, mirrored, fate: out.fate.unwrap_or_default() };
                    in_flight.insert(id, tasks.spawn(self.clone().ask(request, out.text)));
                }
                Ok(Message::Notification { method, params }) => {
                    if method == "notifications/cancelled" {
                        let id = params.as_ref().and_then(|params| params.get("requestId")).and_then(Json::as_u64);
                        if let Some(task) = id.and_then(|id| in_flight.remove(&id)) {
                            task.abort();
                        }
                        // There, the end of the stream says it.
                        if self.is_stateless() {
                            continue;
                        }
                        tasks.spawn(self.clone().tell(method, out.text));
                    } else {
                        // In order: what comes behind `initialized` relies on it.
                        self.clone().tell(method, out.text).await;
                    }
                }
                Ok(Message::Response { .. }) => {
                    tasks.spawn(self.clone().tell("an answer".into(), out.text));
                }
                Err(e) => tracing::error!("a line of our own cannot be read: {e}"),
            }
        }
        tasks.shutdown().await;
        self.hang_up().await;
        calls.finish("the way to it was closed", &self.log.tail(LAST_WORDS));
        calls.close_output();
    }

    /// What this listing's tools want to be told in headers.
    pub(super) fn learn(&self, tools: &[Json]) {
        if self.is_stateless() {
            self.mirrors.lock().unwrap_or_else(PoisonError::into_inner).learn(tools);
        }
    }

    fn mirrored(&self, tool: Option<&str>, params: Option<&Json>) -> HeaderMap {
        let arguments = params.and_then(|params| params.get("arguments"));
        let mirrors = self.mirrors.lock().unwrap_or_else(PoisonError::into_inner);
        tool.map(|tool| mirrors.headers(tool, arguments)).unwrap_or_default()
    }

    /// Ends the upstream: the next call opens a new one.
    fn end(&self, cause: &str) {
        self.say(cause);
        self.calls().finish(cause, &[]);
        self.calls().close_input();
    }

    fn say(&self, what: &str) {
        self.log.push(format!("{} {what}\n", jiff::Timestamp::now().strftime("%FT%TZ")).as_bytes());
    }

    async fn ask(self: Arc<Self>, request: Request, text: String) {
        if let Err(error) = self.exchange(&request, text).await {
            self.say(&format!("{}: {error}", request.method));
            self.calls().complete(&RequestId::number(request.id), Err(error));
        }
    }

    /// Until the call has its answer, in whichever shape the server gives it.
    async fn exchange(&self, request: &Request, text: String) -> Result<(), UpstreamError> {
        self.may_ask()?;
        if !request.fate.write() {
            // It was taken back.
            return Ok(());
        }
        let sent = self.post(&request.method, request.name.as_deref(), &request.mirrored, text).await;
        let response = sent.inspect_err(|error| {
            if matches!(error, UpstreamError::Remote { sent: false, .. } | UpstreamError::Login { .. }) {
                request.fate.refuse();
            }
        })?;
        self.calls().hear();
        let status = response.status();
        if !status.is_success() {
            return self.refused(request, response).await;
        }
        if request.method == "initialize" {
            self.take_session(response.headers())?;
        }
        if is_type(&response, "text/event-stream") {
            return self.stream(request.id, response).await;
        }
        if !is_type(&response, "application/json") {
            return Err(
                self.protocol(&request.method, format!("it answers with {status}, and neither JSON nor events"))
            );
        }
        let whole = match body(&self.link.url, response, self.ears.bounds.max_message_bytes).await {
            Err(RemoteError::TooLong { limit, .. }) => {
                self.end(&format!("it sent a message of more than {limit} bytes"));
                return Ok(());
            }
            whole => whole.map_err(unreached)?,
        };
        self.ears.take(&whole);
        if self.calls().is_open(request.id) {
            return Err(self.protocol(&request.method, "its answer is of no request that was made".into()));
        }
        Ok(())
    }

    fn protocol(&self, method: &str, cause: String) -> UpstreamError {
        UpstreamError::Protocol { method: method.into(), cause }
    }

    /// Whether the server has not asked for more time than has passed.
    fn may_ask(&self) -> Result<(), UpstreamError> {
        let wait = self.talk().not_before.and_then(|until| until.checked_duration_since(Instant::now()));
        match wait {
            Some(wait) if !wait.is_zero() => {
                let after = wait.as_secs() + 1;
                let cause = format!("it asked not to be called for another {after} s");
                Err(UpstreamError::Remote { cause: cause.into(), sent: false, after: Some(after) })
            }
            _ => Ok(()),
        }
    }

    /// The head of the answer. A token that is refused is renewed once.
    async fn post(
        &self,
        method: &str,
        name: Option<&str>,
        mirrored: &HeaderMap,
        text: String,
    ) -> Result<Response<Body>, UpstreamError> {
        let mut ask = Ask::post(self.link.url.clone(), "application/json", text.trim_end().to_owned());
        ask.headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        if self.is_stateless() {
            ask.headers.extend(HeaderValue::from_str(method).ok().map(|value| (METHOD, value)));
            ask.headers.extend(name.and_then(header_text).map(|value| (NAME, value)));
            ask.headers.extend(mirrored.clone());
        }
        self.send(ask).await
    }

    /// With the session, the version and the credentials.
    async fn send(&self, mut ask: Ask) -> Result<Response<Body>, UpstreamError> {
        {
            let talk = self.talk();
            ask.headers.extend(talk.version.clone().map(|value| (VERSION, value)));
            ask.headers.extend(talk.session.clone().map(|value| (SESSION, value)));
        }
        ask.headers.extend(self.link.headers.clone());
        let Some(bearer) = &self.link.bearer else {
            return self.link.http.send(ask).await.map_err(unreached);
        };
        let token = bearer.token(None).await.map_err(no_login)?;
        ask.headers.insert(AUTHORIZATION, bearer_value(&token)?);
        let response = self.link.http.send(ask.clone()).await.map_err(unreached)?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let token = bearer.token(Some(&token)).await.map_err(no_login)?;
        ask.headers.insert(AUTHORIZATION, bearer_value(&token)?);
        self.link.http.send(ask).await.map_err(unreached)
    }

    fn take_session(&self, headers: &HeaderMap) -> Result<(), UpstreamError> {
        let Some(session) = headers.get(SESSION) else { return Ok(()) };
        let visible = session.as_bytes().iter().all(|byte| (0x21..0x7f).contains(byte));
        if !visible || session.is_empty() || session.len() > MAX_SESSION {
            return Err(self.protocol("initialize", "the id of its session is none".into()));
        }
        let mut session = session.clone();
        // Who has it is taken for us.
        session.set_sensitive(true);
        self.talk().session = Some(session);
        Ok(())
    }

    /// An answer that is an error of HTTP: it may hold one of JSON-RPC, which is then the answer.
    async fn refused(&self, request: &Request, response: Response<Body>) -> Result<(), UpstreamError> {
        let status = response.status();
        let after = retry_after(response.headers());
        if status == StatusCode::NOT_FOUND && self.talk().session.take().is_some() {
            request.fate.refuse();
            self.end("its session is over");
            return Ok(());
        }
        let busy = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        if let Some(pause) = after.filter(|_| busy) {
            self.talk().not_before = Some(Instant::now() + pause);
        }
        let challenge = challenge(response.headers());
        let json = is_type(&response, "application/json");
        let whole = body(&self.link.url, response, MAX_REFUSAL).await.unwrap_or_default();
        let mut said = String::new();
        if json && status != StatusCode::UNAUTHORIZED {
            match envelope::read(&whole, &self.ears.bounds) {
                Ok(Message::Response { id, .. }) if id.as_u64() == Some(request.id) => {
                    self.ears.take(&whole);
                    return Ok(());
                }
                _ => said = message_of(&whole),
            }
        }
        // Nobody has worked on a call that was turned away at the door.
        let sent = status.is_server_error() && !busy;
        let after = after.filter(|_| busy).map(|pause| pause.as_secs());
        let server = &self.link.server;
        if status == StatusCode::UNAUTHORIZED && self.link.bearer.is_some() {
            let cause = format!("{server} does not take the login that it gave; run `lazaret server login {server}`");
            return Err(UpstreamError::Login { cause: cause.into() });
        }
        let cause = match status {
            StatusCode::UNAUTHORIZED if self.link.headers.is_empty() => {
                "it wants a login; remove it, and add it again with --oauth, or with --header and a secret".into()
            }
            StatusCode::UNAUTHORIZED => "it does not take the secret in its --header; add it again with another".into(),
            StatusCode::FORBIDDEN
                if challenge.as_ref().is_some_and(|c| c.error.as_deref() == Some("insufficient_scope")) =>
            {
                let scope = challenge.and_then(|challenge| challenge.scope).unwrap_or_default();
                let scope: String = scope.chars().filter(|c| !c.is_control()).take(200).collect();
                format!(
                    "its login lacks the scope {scope:?}; add it again with --oauth-scope, then `lazaret server login {server}`"
                )
            }
            _ => match after {
                Some(secs) => format!("it answers with {status}, and asks for {secs} s of peace{said}"),
                None => format!("it answers with {status}{said}"),
            },
        };
        Err(UpstreamError::Remote { cause: cause.into(), sent, after })
    }

    /// A message that nobody answers.
    async fn tell(self: Arc<Self>, what: String, text: String) {
        match tokio::time::timeout(SHORT, self.post(&what, None, &HeaderMap::new(), text)).await {
            Ok(Ok(response)) if response.status().is_success() => {}
            Ok(Ok(response)) => self.say(&format!("{what}: it answers with {}", response.status())),
            Ok(Err(error)) => self.say(&format!("{what}: {error}")),
            Err(_) => self.say(&format!("{what}: it does not answer")),
        }
    }

    async fn hang_up(&self) {
        if self.talk().session.is_none() {
            return;
        }
        let mut ask = Ask::get(self.link.url.clone());
        ask.method = Method::DELETE;
        // A server may know no such end; it forgets the session by itself then.
        let _ = tokio::time::timeout(GOODBYE, self.send(ask)).await;
    }
}

/// What `Mcp-Name` stands for.
fn named(method: &str, params: Option<&Json>) -> Option<String> {
    let member = match method {
        "tools/call" | "prompts/get" => "name",
        "resources/read" => "uri",
        _ => return None,
    };
    params?.get(member)?.as_str().map(str::to_owned)
}

/// As it is, or in the specification's own wrapping where a header cannot carry it.
fn header_text(text: &str) -> Option<HeaderValue> {
    let plain = text.bytes().all(|c| (0x20..0x7f).contains(&c))
        && text.trim() == text
        && !text.to_ascii_lowercase().starts_with("=?base64?");
    let wrapped = || format!("=?base64?{}?=", base64::engine::general_purpose::STANDARD.encode(text));
    HeaderValue::try_from(if plain { text.to_owned() } else { wrapped() }).ok()
}

fn bearer_value(token: &str) -> Result<HeaderValue, UpstreamError> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}"))
        .map_err(|_| remote_error("its token cannot stand in a header".into(), false))?;
    value.set_sensitive(true);
    Ok(value)
}

fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let values = headers.get_all(WWW_AUTHENTICATE);
    Challenge::bearer(values.iter().filter_map(|value| value.to_str().ok()))
}

/// The words of a JSON-RPC error without its request's id, for people.
fn message_of(whole: &[u8]) -> String {
    let parsed = std::str::from_utf8(whole).ok().and_then(|text| Json::parse(text, 32).ok());
    let message = parsed.as_ref().and_then(|json| json.get("error")?.get("message")?.as_str().map(str::to_owned));
    let clean: String = message.unwrap_or_default().chars().filter(|c| !c.is_control()).take(200).collect();
    if clean.is_empty() { clean } else { format!(": {clean}") }
}

fn remote_error(cause: String, sent: bool) -> UpstreamError {
    UpstreamError::Remote { cause: cause.into(), sent, after: None }
}

fn unreached(error: RemoteError) -> UpstreamError {
    remote_error(error.to_string(), error.was_sent())
}

fn no_login(error: OAuthError) -> UpstreamError {
    match error.wants_login() {
        true => UpstreamError::Login { cause: error.to_string().into() },
        false => remote_error(error.to_string(), false),
    }
}

#[cfg(test)]
mod tests;
