//! One connected agent: its requests, the calls that are in flight for it, and their end.
//!
//! Calls run side by side and answer as they end. The session ends when the agent leaves, when the
//! daemon stops, or at once when the agent is no longer active; whatever is in flight then is
//! cancelled at the servers.

mod call;
mod inbox;
mod listing;
mod logging;
mod methods;
mod offers;
mod routing;
mod tools;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use self::call::Work;
use self::inbox::{Heard, Inbox};
use self::logging::Level;
use self::methods::Era;
use super::door::{Announced, Changed, Door};
use super::envelope::{self, Malformed, Message, Reply, RequestId};
use super::json::Json;
use crate::config::Expose;
use crate::identity::signed::CallSignature;
use crate::identity::{SessionIdentity, Strange};

/// Calls of one session that may be in flight; one more is refused.
pub(super) const MAX_IN_FLIGHT: usize = 64;
/// Lines that may wait for a client that does not read.
const QUEUE: usize = 256;

/// How often a delegation's end is looked for by the wall clock.
const EXPIRY_LOOK: Duration = Duration::from_secs(20);
/// How long a client that is shut out is given to hear why.
const FAREWELL: Duration = Duration::from_millis(300);

/// Why a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    Left,
    Broken(String),
    NotActive(String),
    Stopping,
}

/// Serves one agent until its session ends. `reader` is past the challenge.
pub async fn serve<R, W>(
    door: Arc<Door>,
    identity: SessionIdentity,
    reader: R,
    mut writer: W,
    cancel: CancellationToken,
) -> End
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (outgoing, mut queue) = mpsc::channel::<String>(QUEUE);
    let inbox = Inbox::lines(reader, identity.verifier(), door.limits());
    let places = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
    let write = async {
        while let Some(mut lines) = queue.recv().await {
            while let Ok(more) = queue.try_recv() {
                lines.push_str(&more);
            }
            writer.write_all(lines.as_bytes()).await?;
            writer.flush().await?;
        }
        std::io::Result::Ok(())
    };
    let session = hold(door, Arc::new(identity), inbox, outgoing, places, cancel);
    tokio::pin!(write);
    let end = tokio::select! {
        biased;
        end = session => end,
        written = &mut write => End::Broken(written.err().map_or_else(|| "nothing more to write".into(), |e| e.to_string())),
    };
    if matches!(end, End::NotActive(_)) {
        // What it is told last; one that does not read is not waited for longer.
        let _unheard = tokio::time::timeout(FAREWELL, write).await;
    }
    end
}

/// The same for a transport with framing of its own: messages that passed the envelope come in, lines go out. The
/// session ends with `messages`. `places` may be shared by several sessions of one agent.
pub(super) async fn serve_messages(
    door: Arc<Door>,
    identity: Arc<SessionIdentity>,
    messages: mpsc::Receiver<Message>,
    outgoing: mpsc::Sender<String>,
    places: Arc<Semaphore>,
    cancel: CancellationToken,
) -> End {
    hold(door, identity, Inbox::<tokio::io::Empty>::Messages(messages), outgoing, places, cancel).await
}

async fn hold<R: AsyncRead + Unpin>(
    door: Arc<Door>,
    identity: Arc<SessionIdentity>,
    inbox: Inbox<R>,
    outgoing: mpsc::Sender<String>,
    places: Arc<Semaphore>,
    cancel: CancellationToken,
) -> End {
    // Dropped last: when the containers of this session end, its calls have gone.
    let _lease = door.hub.open_session(&identity);
    let mut session = Session {
        identity: identity.clone(),
        door: door.clone(),
        outgoing,
        calls: JoinSet::new(),
        places,
        in_flight: HashMap::new(),
        initialized: None,
        announced: Announced::default(),
        level: Level::default(),
        ready: false,
    };
    let end = tokio::select! {
        // First, and apart from the work: a client that reads nothing must not put it off.
        biased;
        end = ended(&door, &identity, cancel) => end,
        end = session.run(inbox) => end,
    };
    if let End::NotActive(why) = &end {
        session.dismiss(why);
    }
    end
}

/// Waits until the agent, or one that it acts for, is no longer active, or not for this uid any more, or its
/// delegation ends, or the daemon stops.
async fn ended(door: &Door, identity: &SessionIdentity, cancel: CancellationToken) -> End {
    let mut agents = door.registry.changes();
    loop {
        // Asked after subscribing, so that no change falls in between.
        let standing = door.registry.standing_for(identity.address(), identity.did(), identity.uid());
        if let Err(e) = standing.and_then(|agent| door.registry.check_line(identity, &agent)) {
            return End::NotActive(format!("{e}; {}", e.next_step()));
        }
        tokio::select! {
            () = expiry(identity.lineage().exp()) => {}
            () = cancel.cancelled() => return End::Stopping,
            changed = agents.changed() => if changed.is_err() { return End::Stopping },
        }
    }
}

/// A look at the clock is due: at the end of the delegation, or, since clocks are set, before.
async fn expiry(exp: Option<i64>) {
    let Some(exp) = exp else { return std::future::pending().await };
    let left = u64::try_from(exp - jiff::Timestamp::now().as_second()).unwrap_or_default().max(1);
    tokio::time::sleep(Duration::from_secs(left).min(EXPIRY_LOOK)).await;
}

struct Session {
    identity: Arc<SessionIdentity>,
    door: Arc<Door>,
    outgoing: mpsc::Sender<String>,
    /// Dropped with the session, and every call with it.
    calls: JoinSet<()>,
    /// One for each call whose end is not on record yet, cancelled ones included.
    places: Arc<Semaphore>,
    in_flight: HashMap<String, (RequestId, AbortHandle)>,
    /// The version that `initialize` settled on.
    initialized: Option<&'static str>,
    /// What was announced then.
    announced: Announced,
    /// From which severity on the client wants to hear log messages.
    level: Level,
    /// `notifications/initialized` came.
    ready: bool,
}

impl Session {
    async fn run<R: AsyncRead + Unpin>(&mut self, mut inbox: Inbox<R>) -> End {
        let (mut admitted, mut agents) = (self.door.admission.changes(), self.door.registry.changes());
        let (door, identity) = (self.door.clone(), self.identity.clone());
        let mut seen = door.sight(&identity).unwrap_or_default();
        loop {
            tokio::select! {
                biased;
                Some(done) = self.calls.join_next_with_id(), if !self.calls.is_empty() => self.forget(done),
                changed = door.sight_changed(&identity, (&mut admitted, &mut agents), &mut seen), if self.ready => {
                    self.tell_of(changed).await;
                }
                heard = inbox.next() => match heard {
                    Ok(Some(Ok(Heard { message, signature }))) => self.take(message, signature).await,
                    Ok(Some(Err(bad))) => return self.distrust(&bad.to_string()),
                    Ok(None) => return End::Left,
                    Err(e) => match Strange::in_error(&e) {
                        Some(strange) => return self.distrust(&strange.to_string()),
                        None => return End::Broken(e.to_string()),
                    },
                }
            }
        }
    }

    /// Ends every call at once, their servers are told, and leaves the client its last answers.
    fn dismiss(mut self, why: &str) {
        self.calls.abort_all();
        let text = format!("{why}. The call was cancelled; whether it took effect is not known");
        for (_, (id, _)) in self.in_flight.drain() {
            // A full queue is one that nobody reads.
            let reply = Reply::error(envelope::NO_LONGER_PERMITTED, text.clone());
            let _unread = self.outgoing.try_send(envelope::reply_line(Some(&id), &reply));
        }
    }

    /// Only a list that follows the approvals can change, and only clients of the older era hear it unasked.
    async fn tell_of(&self, changed: Changed) {
        let lists = [
            (changed.tools && self.door.config.expose == Expose::Direct, "notifications/tools/list_changed"),
            (changed.prompts && self.announced.prompts, "notifications/prompts/list_changed"),
            (changed.resources && self.announced.resources, "notifications/resources/list_changed"),
        ];
        for (_, method) in lists.into_iter().filter(|(told, _)| *told) {
            self.send(envelope::notification_line(method, None)).await;
        }
    }

    fn forget(&mut self, done: Result<(tokio::task::Id, ()), tokio::task::JoinError>) {
        let id = match done {
            Ok((id, ())) => id,
            Err(e) => {
                if e.is_panic() {
                    tracing::error!(agent = %self.identity.address(), "a call failed: {e}");
                }
                e.id()
            }
        };
        self.in_flight.retain(|_, (_, call)| call.id() != id);
    }

    async fn send(&self, line: String) {
        // The receiver ends only together with the session.
        let _ended = self.outgoing.send(line).await;
    }

    async fn reply(&self, id: Option<&RequestId>, reply: &Reply) {
        self.send(envelope::reply_line(id, reply)).await;
    }

    /// A session that is not whole is over: what it was to do next nobody can say.
    fn distrust(&self, why: &str) -> End {
        if let Err(e) = self.door.registry.record_broken_session(&self.identity, why) {
            tracing::error!("a session that was not whole could not be recorded: {e}");
        }
        End::NotActive(why.into())
    }

    async fn take(&mut self, message: Result<Message, Malformed>, signature: Option<CallSignature>) {
        match message {
            Ok(Message::Request { id, method, params }) => self.request(id, &method, params, signature).await,
            Ok(Message::Notification { method, params }) => self.notification(&method, params.as_ref()),
            // The door asks the client for nothing.
            Ok(Message::Response { .. }) => {}
            Err(malformed) => self.refuse(malformed).await,
        }
    }

    async fn refuse(&self, malformed: Malformed) {
        tracing::info!(agent = %self.identity.address(), "a message was refused: {malformed}");
        if !malformed.silent {
            self.reply(malformed.id.as_ref(), &Reply::error(malformed.code, malformed.message)).await;
        }
    }

    fn notification(&mut self, method: &str, params: Option<&Json>) {
        match method {
            "notifications/initialized" => self.ready = self.initialized.is_some(),
            "notifications/cancelled" => {
                let id = params.and_then(|params| params.get("requestId")).and_then(RequestId::read);
                // Cancelled calls are not answered.
                if let Some((_, call)) = id.and_then(|id| self.in_flight.remove(&id.key())) {
                    call.abort();
                }
            }
            // A request that came without an id is not carried out: nobody could hear how it ended.
            _ => tracing::debug!(agent = %self.identity.address(), "an agent notified {method}"),
        }
    }

    async fn request(&mut self, id: RequestId, method: &str, params: Option<Json>, signature: Option<CallSignature>) {
        let era = match Era::of(method, params.as_ref(), self.initialized) {
            Ok(era) => era,
            Err(error) => return self.reply(Some(&id), &Reply::Error(error)).await,
        };
        let reply = match method {
            "initialize" => self.initialize(params.as_ref()),
            "ping" if era != Era::Stateless => Reply::Result(Json::object::<&str>([])),
            "server/discover" if era == Era::Stateless => {
                Reply::Result(methods::discover(self.door.config.expose, self.offered()))
            }
            "tools/list" => listing::list(&self.door, &self.identity, params.as_ref(), era),
            "tools/call" => {
                return self.start_call(id, Work::Call, params.unwrap_or(Json::Null), era, signature).await;
            }
            "prompts/list" if self.offered().prompts => {
                offers::prompts(&self.door, &self.identity, params.as_ref(), era)
            }
            "resources/templates/list" if self.offered().resources => {
                offers::templates(&self.door, &self.identity, params.as_ref(), era)
            }
            "logging/setLevel" if era == Era::Handshake && self.offered().logging => self.set_level(params.as_ref()),
            _ => match Work::of(method, self.offered()) {
                Some(work) => return self.start_call(id, work, params.unwrap_or(Json::Null), era, signature).await,
                None => Reply::error(envelope::METHOD_NOT_FOUND, format!("Method not found: {method}")),
            },
        };
        self.reply(Some(&id), &reply).await;
    }

    /// What the agent may use beside tools, as it is now.
    fn offered(&self) -> Announced {
        match self.door.sight(&self.identity) {
            Ok(sight) => sight.announced(),
            Err(e) => {
                tracing::error!("what is approved cannot be read: {e}");
                Announced::default()
            }
        }
    }

    fn set_level(&mut self, params: Option<&Json>) -> Reply {
        match params.and_then(|params| params.get("level")).and_then(Json::as_str).and_then(Level::of) {
            Some(level) => {
                self.level = level;
                Reply::Result(Json::object::<&str>([]))
            }
            None => Reply::error(envelope::INVALID_PARAMS, logging::UNKNOWN_LEVEL),
        }
    }

    fn initialize(&mut self, params: Option<&Json>) -> Reply {
        self.announced = self.offered();
        let (version, result) = methods::initialize(params, self.door.config.expose, self.announced);
        self.initialized = Some(version);
        Reply::Result(result)
    }

    async fn start_call(
        &mut self,
        id: RequestId,
        work: Work,
        params: Json,
        era: Era,
        signature: Option<CallSignature>,
    ) {
        let key = id.key();
        if self.in_flight.contains_key(&key) {
            let why = "the id is that of a call in flight; give each request an id of its own";
            return self.reply(Some(&id), &Reply::error(envelope::INVALID_REQUEST, why)).await;
        }
        if self.in_flight.len() >= MAX_IN_FLIGHT {
            let text = format!("Too many calls at once: {MAX_IN_FLIGHT} are in flight. Wait for one of them to end.");
            let refusal = match work {
                Work::Call => Reply::Result(tools::refusal(&text, era)),
                _ => Reply::error(envelope::UNAVAILABLE, text),
            };
            return self.reply(Some(&id), &refusal).await;
        }
        let call = call::Call {
            door: self.door.clone(),
            identity: signature.map_or_else(|| self.identity.clone(), |by| Arc::new(self.identity.with_signature(by))),
            outgoing: self.outgoing.clone(),
            places: self.places.clone(),
            era,
            level: self.level,
        };
        let asked = id.clone();
        let handle = self.calls.spawn(async move { call.run(id, work, params).await });
        self.in_flight.insert(key, (asked, handle));
    }
}

#[cfg(test)]
mod offers_tests;
#[cfg(test)]
mod signed_tests;
#[cfg(test)]
mod tests;
