//! The one way from a session to what a server offers: judge, forward exactly what was judged, write down the end.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::door::Door;
use super::envelope::Reply;
use super::hub::HubError;
use super::json::Json;
use super::upstream::{Listener, News, UpstreamError};
use crate::audit::Outcome;
use crate::identity::SessionIdentity;
use crate::policy::{Admitted, Asking, Denied, ForwardPermit, Gates, Waited};

/// Servers that a call is offered to; the second only where the first got nothing of it.
const MOST_TRIES: u32 = 2;

/// A call of a tool, or the use of something else that a server offers, as an agent wants it.
pub struct Wanted {
    pub server: String,
    /// The one name of `admission/offer`.
    pub tool: String,
    /// `params` of the request for the server; what names it, and its arguments, are set by the permit.
    pub params: Json,
    /// `None` where the agent named none; they are judged as empty.
    pub arguments: Option<Json>,
    /// What the client shows of a call of its own that waits for a human already.
    pub handle: Option<String>,
    /// How long the client waits for a human without hearing anything; `None` as long as it takes.
    pub patience: Option<Duration>,
}

/// How often a client hears that its call still waits.
const EVERY: Duration = Duration::from_secs(3);

/// Why a call has no answer of the server's own.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error(transparent)]
    Hub(#[from] HubError),
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The server lost its approval while it worked on the call; what it answered, if it did, is
    /// given to nobody.
    #[error("the server was taken out of service during the call: {0}")]
    Withheld(HubError),
    /// Something that it stood on was revoked while the server worked on it; the server was told to stop.
    #[error("revoked during the call: {0}")]
    Revoked(Denied),
    /// No failure: the client is to come again with this `requestState`.
    #[error("the call waits for a human")]
    ComeAgain(String),
    #[error("the call could not be written down: {0}")]
    Internal(String),
}

impl Failure {
    /// Whether a person has to log in at the server before anything else helps.
    pub fn wants_login(&self) -> bool {
        match self {
            Self::Upstream(cause) => matches!(cause, UpstreamError::Login { .. }),
            Self::Hub(cause) => matches!(cause.upstream(), Some(UpstreamError::Login { .. })),
            _ => false,
        }
    }
}

/// Dropping the future cancels the call at the server and records that nobody saw its end. Of
/// `places`, the session's own, the call has one until its end is on record, even where it was
/// dropped: who calls and cancels again and again waits for the disk.
pub async fn call(
    door: &Door,
    session: &Arc<SessionIdentity>,
    places: &Arc<Semaphore>,
    wanted: Wanted,
    listener: Option<Listener>,
) -> Result<Reply, Failure> {
    let Wanted { server, tool, params, arguments, handle, patience } = wanted;
    let seat = places.clone().acquire_owned().await.map_err(|e| Failure::Internal(e.to_string()))?;
    let place = Place { _seat: seat, _unfinished: door.unfinished.token() };
    let (gates, session) = (door.gates.clone(), session.clone());
    // The gates wait for the disk.
    let admitted = tokio::task::spawn_blocking(move || {
        let place = place;
        let arguments = arguments.unwrap_or_else(|| Json::object::<&str>([]));
        Ok::<_, Denied>(match gates.admit_or_ask(&session, (&server, &tool), arguments, params, handle.as_deref())? {
            Admitted::Forward(permit) => Step::Go(Ticket { gates, open: Some((permit, place)) }),
            Admitted::Ask(asking) => Step::Wait(Box::new(asking), place),
        })
    });
    let ticket = match admitted.await.map_err(|e| Failure::Internal(e.to_string()))?? {
        Step::Go(ticket) => ticket,
        Step::Wait(asking, place) => ask(door, *asking, place, patience, listener.as_ref()).await?,
    };
    forward(ticket, door, listener).await
}

#[expect(clippy::large_enum_variant, reason = "one for each call, taken apart where it is made")]
enum Step {
    Go(Ticket),
    Wait(Box<Asking>, Place),
}

/// Waits for a human. A client that asked for progress hears of it; one that cannot is told to come again.
async fn ask(
    door: &Door,
    asking: Asking,
    place: Place,
    patience: Option<Duration>,
    listener: Option<&Listener>,
) -> Result<Ticket, Failure> {
    let id = asking.id().to_owned();
    let tell = |left: Duration| {
        if let Some(listener) = listener.filter(|listener| listener.progress) {
            // Counts up to nought, so that the tool's own progress, which starts there, still rises.
            let secs = left.as_secs();
            let message = format!("waiting for a human's approval ({id}), {secs} s left");
            let told = Json::object([("progress", Json::number(-(secs as i64))), ("message", Json::string(message))]);
            // A client that does not read is told the next time.
            let _ = listener.to.try_send(News::Progress(told));
        }
    };
    match door.gates.wait(&asking, patience, EVERY, tell).await? {
        Waited::NotYet => Err(Failure::ComeAgain(asking.park())),
        Waited::Answered => {
            let gates = door.gates.clone();
            let resumed = tokio::task::spawn_blocking(move || {
                let permit = gates.resume(asking)?;
                Ok::<_, Denied>(Ticket { gates, open: Some((permit, place)) })
            });
            Ok(resumed.await.map_err(|e| Failure::Internal(e.to_string()))??)
        }
    }
}

async fn forward(ticket: Ticket, door: &Door, listener: Option<Listener>) -> Result<Reply, Failure> {
    let Some((permit, _)) = &ticket.open else { return Err(Failure::Internal("its permit was used up".into())) };
    let mut tries = 0;
    let mut changes = Changes::of(door);
    let (upstream, answer) = loop {
        let upstream = match door.hub.upstream_of(permit.server(), permit.session()).await {
            Ok(upstream) => upstream,
            Err(e) => {
                ticket.finish(Outcome::Error, Some(e.to_string()), Value::Null).await?;
                return Err(e.into());
            }
        };
        // The server may have taken long to start, and much may have been revoked in that time.
        if let Err(denied) = door.gates.still_permitted(permit) {
            ticket.finish(Outcome::Deny, Some("revoked before it was forwarded".into()), Value::Null).await?;
            return Err(denied.into());
        }
        tries += 1;
        let answer = tokio::select! {
            biased;
            answer = upstream.call_tool(permit, listener.clone()) => answer,
            // The call is dropped, and with it cancelled at the server.
            denied = changes.revoke(door, permit) => {
                let failure = door.hub.withdrawn(permit.server()).map_or(Failure::Revoked(denied), Failure::Withheld);
                ticket.finish(Outcome::Unknown, Some(failure.to_string()), Value::Null).await?;
                return Err(failure);
            }
        };
        match answer {
            // It ended between being found and being asked: nobody has seen the call yet.
            Err(UpstreamError::Ended { sent: false, .. }) if tries < MOST_TRIES => {}
            answer => break (upstream, answer),
        }
    };
    let withheld = match &answer {
        Ok(_) => door.hub.may_answer(permit.server(), permit.session(), &upstream).await.err(),
        Err(UpstreamError::Ended { .. }) => door.hub.withdrawn(permit.server()),
        Err(_) => None,
    };
    if let Some(why) = withheld {
        let failure = Failure::Withheld(why);
        ticket.finish(Outcome::Unknown, Some(failure.to_string()), Value::Null).await?;
        return Err(failure);
    }
    let (outcome, reason, detail) = describe(&answer);
    ticket.finish(outcome, reason, detail).await?;
    Ok(answer?)
}

/// What may revoke a call that is in flight.
struct Changes {
    agents: watch::Receiver<u64>,
    admitted: watch::Receiver<u64>,
}

impl Changes {
    /// To be made before the permit is looked at, so that no change falls in between.
    fn of(door: &Door) -> Self {
        Self { agents: door.registry.changes(), admitted: door.admission.changes() }
    }

    /// Waits until the permit does not stand any more.
    async fn revoke(&mut self, door: &Door, permit: &ForwardPermit) -> Denied {
        loop {
            let changed = tokio::select! {
                changed = self.agents.changed() => changed.is_ok(),
                changed = self.admitted.changed() => changed.is_ok(),
            };
            if !changed {
                // The daemon ends, and the session with it.
                return std::future::pending().await;
            }
            if let Err(denied) = door.gates.still_permitted(permit) {
                return denied;
            }
        }
    }
}

fn describe(answer: &Result<Reply, UpstreamError>) -> (Outcome, Option<String>, Value) {
    let facts = |json: &Json, is_error: bool| {
        let text = json.to_text();
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(text.as_bytes())));
        json!({ "result_digest": digest, "result_bytes": text.len(), "is_error": is_error })
    };
    match answer {
        Ok(Reply::Result(result)) => {
            let is_error = result.get("isError").and_then(Json::as_bool) == Some(true);
            let outcome = if is_error { Outcome::Error } else { Outcome::Ok };
            (outcome, is_error.then(|| "the tool reported an error".into()), facts(result, is_error))
        }
        Ok(Reply::Error(error)) => {
            let code = error.get("code").map(Json::to_text).unwrap_or_default();
            (Outcome::Error, Some(format!("the server answered with the error {code}")), facts(error, true))
        }
        // Whether the tool acted before that, nobody knows.
        Err(
            e @ (UpstreamError::Ended { sent: true, .. }
            | UpstreamError::Timeout { .. }
            | UpstreamError::Remote { sent: true, .. }),
        ) => (Outcome::Unknown, Some(e.to_string()), Value::Null),
        Err(e) => (Outcome::Error, Some(e.to_string()), Value::Null),
    }
}

/// What a call takes up until its end is on record.
struct Place {
    _seat: OwnedSemaphorePermit,
    /// The daemon waits for it when it stops.
    _unfinished: TaskTrackerToken,
}

/// A permit that is always finished, whatever becomes of the call.
struct Ticket {
    gates: Arc<Gates>,
    open: Option<(ForwardPermit, Place)>,
}

impl Ticket {
    /// Returns once the result is on record, so that an agent never knows more than the log.
    async fn finish(mut self, outcome: Outcome, reason: Option<String>, detail: Value) -> Result<(), Failure> {
        let Some((permit, place)) = self.open.take() else { return Ok(()) };
        let gates = self.gates.clone();
        let recorded = tokio::task::spawn_blocking(move || {
            let _until_written = place;
            gates.finish(permit, outcome, reason, detail)
        });
        match recorded.await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(e)) => Err(Failure::Internal(e.to_string())),
            Err(e) => Err(Failure::Internal(e.to_string())),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some((permit, place)) = self.open.take() {
            let gates = self.gates.clone();
            let reason = Some("the agent cancelled the call or left".into());
            tokio::task::spawn_blocking(move || {
                let _until_written = place;
                if let Err(e) = gates.finish(permit, Outcome::Unknown, reason, Value::Null) {
                    tracing::error!("the end of a call could not be recorded: {e}");
                }
            });
        }
    }
}
