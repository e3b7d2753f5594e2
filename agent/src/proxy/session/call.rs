//! One `tools/call` of an agent, from its params to its answer.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};

use super::methods::Era;
use super::{listing, tools};
use crate::config::Expose;
use crate::identity::SessionIdentity;
use crate::policy::{Denied, asks};
use crate::proxy::door::Door;
use crate::proxy::envelope::{self, Reply, RequestId};
use crate::proxy::forward::{self, Failure, Wanted};
use crate::proxy::hub::HubError;
use crate::proxy::json::Json;
use crate::proxy::upstream::UpstreamError;
use crate::proxy::versions;

/// Progress notifications that may wait for a client that does not read.
const PROGRESS_QUEUE: usize = 32;

pub(super) struct Call {
    pub door: Arc<Door>,
    pub identity: Arc<SessionIdentity>,
    pub outgoing: mpsc::Sender<String>,
    pub places: Arc<Semaphore>,
    pub era: Era,
}

impl Call {
    pub(super) async fn run(self, id: RequestId, params: Json) {
        let reply = self.reply(params).await;
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
            (Expose::Direct, _) => match listing::split(&name) {
                Some((server, tool)) => {
                    let (server, tool) = (server.to_owned(), tool.to_owned());
                    self.forward(server, tool, params, arguments).await
                }
                None => Reply::Result(tools::not_found(&self.door, "", &name, self.era)),
            },
        }
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
        let token = hop_meta(&mut params);
        let handle = self.own_state(&mut params);
        // A client of this era that hears no progress is told to come again before it gives up.
        let patience = (self.era == Era::Stateless && token.is_none()).then(|| self.door.patience_for_asks());
        let wanted = Wanted { server: server.clone(), tool: tool.clone(), params, arguments, handle, patience };
        let outcome = match token {
            None => forward::call(&self.door, &self.identity, &self.places, wanted, None).await,
            Some(token) => self.forward_with_progress(wanted, token).await,
        };
        match outcome {
            Ok(Reply::Result(result)) => Reply::Result(self.era.complete(result)),
            Ok(error) => error,
            Err(Failure::ComeAgain(state)) => Reply::Result(Json::object([
                ("resultType", Json::string("input_required")),
                ("requestState", Json::string(state)),
            ])),
            Err(failure) => Reply::Result(self.explain(&failure, &server, &tool)),
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

    async fn forward_with_progress(&self, wanted: Wanted, token: Json) -> Result<Reply, Failure> {
        let (progress, mut news) = mpsc::channel::<Json>(PROGRESS_QUEUE);
        let tell = async |mut params: Json| {
            params.set("progressToken", token.clone());
            let _ended = self.outgoing.send(envelope::notification_line("notifications/progress", Some(&params))).await;
        };
        let call = forward::call(&self.door, &self.identity, &self.places, wanted, Some(progress));
        tokio::pin!(call);
        let outcome = loop {
            tokio::select! {
                biased;
                Some(params) = news.recv() => tell(params).await,
                outcome = &mut call => break outcome,
            }
        };
        while let Ok(params) = news.try_recv() {
            tell(params).await;
        }
        outcome
    }

    /// What the agent is told. Causes within the house are for the operator's log.
    fn explain(&self, failure: &Failure, server: &str, tool: &str) -> Json {
        let text = match failure {
            Failure::Denied(denied) if denied.is_not_found() => {
                return tools::not_found(&self.door, server, tool, self.era);
            }
            Failure::Hub(HubError::NotApproved { .. } | HubError::Changed { .. }) => {
                return tools::not_found(&self.door, server, tool, self.era);
            }
            Failure::Withheld(_) => {
                format!(
                    "The server {server:?} was taken out of service during the call: it is no longer what was approved. Its answer is withheld, and whether the tool acted is not known; ask the operator to look at `lazaret server show {server}`."
                )
            }
            Failure::Revoked(denied) if denied.is_not_found() => {
                format!(
                    "Tool {tool:?} of server {server:?} was taken out of service during the call, which was cancelled; whether it acted is not known."
                )
            }
            Failure::Revoked(denied) => {
                format!(
                    "The call was cancelled, and whether the tool acted is not known: {}; {}.",
                    denied.reason, denied.next_step
                )
            }
            Failure::Denied(denied) => format!("Denied ({}): {}; {}.", denied.gate, denied.reason, denied.next_step),
            Failure::Upstream(UpstreamError::Timeout { secs, .. }) => {
                format!(
                    "Tool {tool:?} of {server:?} did not answer within {secs} s and was cancelled; ask for less at once, or try again later."
                )
            }
            Failure::Upstream(UpstreamError::Ended { sent: true, .. }) => {
                format!(
                    "The server {server:?} ended during the call; whether the tool acted is not known. The next call starts it again."
                )
            }
            Failure::Upstream(UpstreamError::Remote { sent: true, .. }) => {
                format!(
                    "The way to the server {server:?} broke during the call; whether the tool acted is not known. The operator finds more in `lazaret server logs {server}`."
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
        if let Failure::Denied(Denied { retry_after: Some(wait), limit, .. }) = failure {
            let seconds = u64::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u64::MAX).max(1);
            let about = Json::object([
                ("limit", Json::string(limit.clone().unwrap_or_default())),
                ("retryAfterSeconds", Json::number(seconds)),
            ]);
            let mut refusal = tools::refusal(&text, self.era);
            refusal.set("_meta", Json::object([(versions::META_RATE_LIMIT, about)]));
            return refusal;
        }
        // A denial is in the audit log already.
        if !matches!(failure, Failure::Denied(_)) {
            tracing::warn!(agent = %self.identity.address(), server, tool, "a call failed: {failure}");
        }
        tools::refusal(&text, self.era)
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
