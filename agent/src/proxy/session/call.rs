//! One request of an agent that a server works on, from its params to its answer: a call of a tool, and with
//! `session/offers` what is got, read or completed.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};

use super::logging::Level;
use super::methods::Era;
use super::routing::{self, Found, Lost};
use super::tools;
use crate::admission::Offer;
use crate::config::Expose;
use crate::identity::SessionIdentity;
use crate::policy::{Denied, asks};
use crate::proxy::door::{Announced, Door};
use crate::proxy::envelope::{self, Reply, RequestId};
use crate::proxy::forward::{self, Failure, Wanted};
use crate::proxy::hub::HubError;
use crate::proxy::json::Json;
use crate::proxy::upstream::{Client, Listener, News, UpstreamError};
use crate::proxy::versions;

/// Progress notifications that may wait for a client that does not read.
const PROGRESS_QUEUE: usize = 32;

/// Which request it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    Call,
    Prompt,
    Resources,
    Read,
    Complete,
}

impl Work {
    /// Of all but calls of tools; `None` for a method that is not served, or not now.
    pub(super) fn of(method: &str, offered: Announced) -> Option<Self> {
        match method {
            "prompts/get" if offered.prompts => Some(Self::Prompt),
            "resources/list" if offered.resources => Some(Self::Resources),
            "resources/read" if offered.resources => Some(Self::Read),
            "completion/complete" if offered.completions => Some(Self::Complete),
            _ => None,
        }
    }
}

pub(super) struct Call {
    pub door: Arc<Door>,
    pub identity: Arc<SessionIdentity>,
    pub outgoing: mpsc::Sender<String>,
    pub places: Arc<Semaphore>,
    pub era: Era,
    pub level: Level,
}

impl Call {
    pub(super) async fn run(self, id: RequestId, work: Work, params: Json) {
        let reply = match work {
            Work::Call => self.reply(params).await,
            Work::Prompt => self.prompt(params).await,
            Work::Resources => self.resources(&params).await,
            Work::Read => self.read(params).await,
            Work::Complete => self.complete(params).await,
        };
        // Fails only when the session has ended, and the call with it.
        let _ended = self.outgoing.send(envelope::reply_line(Some(&id), &reply)).await;
    }

    async fn reply(&self, mut params: Json) -> Reply {
        let name = params.get("name").and_then(Json::as_str).unwrap_or_default().to_owned();
        let arguments = params.remove("arguments");
        let given = || arguments.clone().unwrap_or_else(|| Json::object::<&str>([]));
        match (self.door.config.expose, name.as_str()) {
            (Expose::Search, tools::SEARCH) => {
                Reply::Result(tools::search(&self.door, &self.identity, &given(), self.era))
            }
            (Expose::Search, tools::DESCRIBE) => {
                Reply::Result(tools::describe(&self.door, &self.identity, &given(), self.era))
            }
            (Expose::Search, tools::CALL) => self.through(params, given()).await,
            (Expose::Search, _) => Reply::error(
                envelope::INVALID_PARAMS,
                format!("Unknown tool: {name}; use search_tools, describe_tool and call_tool"),
            ),
            (Expose::Direct, _) => match self.find_tool(&name) {
                Ok((server, tool)) => self.forward(server, tool, params, arguments).await,
                Err(Lost::Unknown) => Reply::Result(tools::not_found(&self.door, "", &name, self.era)),
                Err(Lost::Ambiguous(names)) => {
                    let text = format!("Several servers have a tool of that name; call one of {}.", names.join(", "));
                    Reply::Result(tools::refusal(&text, self.era))
                }
            },
        }
    }

    fn find_tool(&self, name: &str) -> Result<Found, Lost> {
        if self.door.config.prefix {
            return routing::find(true, name, std::iter::empty());
        }
        let sight = self.door.sight(&self.identity).map_err(|_| Lost::Unknown)?;
        routing::find(false, name, sight.iter().map(|(server, tool, _)| (server, tool)))
    }

    /// `call_tool`: the arguments hold the call.
    async fn through(&self, params: Json, mut given: Json) -> Reply {
        let (server, tool) = match tools::target(&given) {
            Ok(target) => target,
            Err(why) => return Reply::Result(tools::refusal(&format!("{why}."), self.era)),
        };
        let arguments = match given.remove("arguments") {
            None => None,
            Some(arguments @ Json::Object(_)) => Some(arguments),
            Some(_) => {
                return Reply::Result(tools::refusal(
                    "`arguments` must be an object, by the tool's inputSchema.",
                    self.era,
                ));
            }
        };
        self.forward(server, tool, params, arguments).await
    }

    async fn forward(&self, server: String, tool: String, mut params: Json, arguments: Option<Json>) -> Reply {
        // No task is offered, so that a wish for one is not passed on.
        params.remove("task");
        // The names of all that is no tool are not a tool's.
        if !Offer::of(&tool).is_tool() {
            return Reply::Result(tools::not_found(&self.door, &server, &tool, self.era));
        }
        match self.attempt(server.clone(), tool.clone(), params, arguments).await {
            Ok(reply) => reply,
            Err(failure) => Reply::Result(self.explain(&failure, &server, &tool)),
        }
    }

    /// Through the gates, to the server and back; `name` is that of a tool, or of something else that it offers.
    pub(super) async fn attempt(
        &self,
        server: String,
        name: String,
        mut params: Json,
        arguments: Option<Json>,
    ) -> Result<Reply, Failure> {
        let hop = Hop::take(&mut params, self.era, self.level);
        let handle = self.own_state(&mut params);
        // A client of this era that hears no progress is told to come again before it gives up.
        let patience = (self.era == Era::Stateless && hop.token.is_none()).then(|| self.door.patience_for_asks());
        let wanted = Wanted { server, tool: name, params, arguments, handle, patience };
        match self.forward_and_tell(wanted, hop).await {
            Ok(Reply::Result(result)) => Ok(Reply::Result(self.era.complete(result))),
            Err(Failure::ComeAgain(state)) => Ok(Reply::Result(Json::object([
                ("resultType", Json::string("input_required")),
                ("requestState", Json::string(state)),
            ]))),
            other => other,
        }
    }

    /// Takes our own `requestState` out of the request, and puts the server's back that stood there before.
    fn own_state(&self, params: &mut Json) -> Option<String> {
        let state = params.get("requestState").and_then(Json::as_str);
        let handle = state.and_then(|state| state.strip_prefix(asks::STATE_PREFIX))?.to_owned();
        match self.door.gates.asks().former_state(&handle) {
            Some(state) => params.set("requestState", state),
            None => {
                params.remove("requestState");
                params.remove("inputResponses");
            }
        }
        Some(handle)
    }

    async fn forward_and_tell(&self, wanted: Wanted, hop: Hop) -> Result<Reply, Failure> {
        let Hop { token, level, client } = hop;
        let (to, mut news) = mpsc::channel::<News>(PROGRESS_QUEUE);
        let listener = Listener { to, progress: token.is_some(), client };
        let tell = async |news: News| {
            let line = match (news, &token) {
                (News::Progress(mut params), Some(token)) => {
                    params.set("progressToken", token.clone());
                    envelope::notification_line("notifications/progress", Some(&params))
                }
                (News::Message(params), _) if level.is_some_and(|level| level.hears(&params)) => {
                    envelope::notification_line("notifications/message", Some(&params))
                }
                _ => return,
            };
            let _ended = self.outgoing.send(line).await;
        };
        let call = forward::call(&self.door, &self.identity, &self.places, wanted, Some(listener));
        tokio::pin!(call);
        let outcome = loop {
            tokio::select! {
                biased;
                Some(heard) = news.recv() => tell(heard).await,
                outcome = &mut call => break outcome,
            }
        };
        while let Ok(heard) = news.try_recv() {
            tell(heard).await;
        }
        outcome
    }

    /// What the agent is told in the place of a tool's result.
    fn explain(&self, failure: &Failure, server: &str, tool: &str) -> Json {
        let Some(text) = self.words(failure, server, tool) else {
            return tools::not_found(&self.door, server, tool, self.era);
        };
        let mut refusal = tools::refusal(&text, self.era);
        if let Failure::Denied(denied) = failure
            && let Some(about) = retry(denied)
        {
            refusal.set("_meta", Json::object([(versions::META_RATE_LIMIT, about)]));
        }
        refusal
    }

    /// What the agent is told; `None` where it must look as if there were no such thing. Causes within the house are
    /// for the operator's log.
    pub(super) fn words(&self, failure: &Failure, server: &str, name: &str) -> Option<String> {
        let offer = Offer::of(name);
        let (noun, tool) = (offer.noun(), offer.own_name());
        let text = match failure {
            Failure::Denied(denied) if denied.is_not_found() => return None,
            Failure::Hub(HubError::NotApproved { .. } | HubError::Changed { .. }) => return None,
            Failure::Withheld(_) => {
                format!(
                    "The server {server:?} was taken out of service during the call: it is no longer what was approved. Its answer is withheld, and whether the {noun} acted is not known; ask the operator to look at `lazaret server show {server}`."
                )
            }
            Failure::Revoked(denied) if denied.is_not_found() => {
                format!(
                    "The {noun} {tool:?} of server {server:?} was taken out of service during the call, which was cancelled; whether it acted is not known."
                )
            }
            Failure::Revoked(denied) => {
                format!(
                    "The call was cancelled, and whether the {noun} acted is not known: {}; {}.",
                    denied.reason, denied.next_step
                )
            }
            Failure::Denied(denied) => format!("Denied ({}): {}; {}.", denied.gate, denied.reason, denied.next_step),
            Failure::Upstream(UpstreamError::Timeout { secs, .. }) => {
                format!(
                    "The {noun} {tool:?} of {server:?} did not answer within {secs} s and was cancelled; ask for less at once, or try again later."
                )
            }
            Failure::Upstream(UpstreamError::Ended { sent: true, .. }) => {
                format!(
                    "The server {server:?} ended during the call; whether the {noun} acted is not known. The next call starts it again."
                )
            }
            Failure::Upstream(UpstreamError::Remote { sent: true, .. }) => {
                format!(
                    "The way to the server {server:?} broke during the call; whether the {noun} acted is not known. The operator finds more in `lazaret server logs {server}`."
                )
            }
            Failure::Upstream(UpstreamError::Remote { after: Some(secs), .. }) => {
                format!("The server {server:?} has no time for it now. Nothing was done; try again in {secs} s.")
            }
            failure if failure.wants_login() => {
                format!(
                    "Nobody is logged in at the server {server:?}. Nothing was sent; ask the operator to run `lazaret server login {server}`."
                )
            }
            Failure::Hub(HubError::Full { max, .. }) => {
                format!(
                    "The server {server:?} was not started: {max} servers are at work, which is as many as may run. Nothing was sent; try again in a moment."
                )
            }
            Failure::Hub(HubError::Backoff { secs, .. }) => {
                format!(
                    "The server {server:?} does not start; try again in {secs} s, or ask the operator to look at `lazaret server show {server}`."
                )
            }
            Failure::Hub(_) | Failure::Upstream(_) => {
                format!(
                    "The server {server:?} cannot be used now; ask the operator to look at `lazaret server show {server}`."
                )
            }
            Failure::Internal(_) | Failure::ComeAgain(_) => {
                "Lazaret could not carry out the call; ask the operator to look at `lazaret status`.".to_owned()
            }
        };
        // A denial is in the audit log already.
        if !matches!(failure, Failure::Denied(_)) {
            tracing::warn!(agent = %self.identity.address(), server, name, "a call failed: {failure}");
        }
        Some(text)
    }
}

/// Which rate limit it was, and when to come again.
pub(super) fn retry(denied: &Denied) -> Option<Json> {
    let seconds = u64::try_from(denied.retry_after?.as_millis().div_ceil(1000)).unwrap_or(u64::MAX).max(1);
    Some(Json::object([
        ("limit", Json::string(denied.limit.clone().unwrap_or_default())),
        ("retryAfterSeconds", Json::number(seconds)),
    ]))
}

/// What of a request's `_meta` concerns the hop from the client to the door only.
struct Hop {
    token: Option<Json>,
    /// From which severity on log messages are heard; `None`: none are.
    level: Option<Level>,
    client: Client,
}

impl Hop {
    /// Takes it out: the hop to the server has its own.
    fn take(params: &mut Json, era: Era, session: Level) -> Self {
        let level = if era == Era::Handshake { Some(session) } else { Level::of_request(params) };
        let meta = |key| params.get("_meta").and_then(|meta| meta.get(key)).filter(|_| era == Era::Stateless).cloned();
        let client =
            Client { capabilities: meta(versions::META_CAPABILITIES), log_level: meta(versions::META_LOG_LEVEL) };
        Self { token: hop_meta(params), level, client }
    }
}

/// Takes out of `_meta` what concerns the hop from the client to the door only; gives back the
/// client's progress token.
fn hop_meta(params: &mut Json) -> Option<Json> {
    let Some(Json::Object(meta)) = params.get_mut("_meta") else { return None };
    let before = meta.len();
    let token = meta.iter().position(|(key, _)| key.value == "progressToken").map(|at| meta.remove(at).1);
    meta.retain(|(key, _)| !key.value.starts_with(versions::META_RESERVED));
    if meta.is_empty() && before > 0 {
        params.remove("_meta");
    }
    token
}
