//! One session behind HTTP, and which of its lines belongs to which request.
//!
//! A reply goes to the request that has its id, progress to the request that named its token, a log message to the only
//! request that waits; what else the door says waits for the client's GET. Lines are not changed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Http;
use super::room::Room;
use crate::proxy::envelope::{self, Limits, Message, RequestId};
use crate::proxy::json::Json;
use crate::proxy::session;

/// Messages on their way into the session, and lines out of it.
const QUEUE: usize = 64;
/// Progress of one request that may wait for a client that does not read; more is dropped.
const PROGRESS: usize = 64;
/// What waits for a GET; more is dropped.
const NEWS: usize = 16;

pub(super) struct Link {
    messages: mpsc::Sender<Message>,
    shared: Arc<Shared>,
    end: CancellationToken,
    _ends_with_it: DropGuard,
}

struct Shared {
    limits: Limits,
    /// `None` once the session is over.
    waiting: Mutex<Option<HashMap<String, Waiting>>>,
    news: mpsc::Sender<String>,
    unread: Mutex<Option<mpsc::Receiver<String>>>,
}

struct Waiting {
    reply: oneshot::Sender<String>,
    progress: mpsc::Sender<String>,
    /// The key of the request's progress token.
    token: Option<String>,
}

/// What a request hears.
pub(super) enum Event {
    Progress(String),
    Reply(String),
    /// The session ended before there was a reply.
    Gone,
}

pub(super) struct Waiter {
    progress: mpsc::Receiver<String>,
    reply: oneshot::Receiver<String>,
}

impl Waiter {
    /// In the order in which the session said it. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Event {
        // It ends when the reply is there, or the session is not any more.
        match self.progress.recv().await {
            Some(line) => Event::Progress(line),
            None => (&mut self.reply).await.map_or(Event::Gone, Event::Reply),
        }
    }
}

/// The lines of a GET; given back at its end, so that the next one goes on there.
pub(super) struct News {
    lines: Option<mpsc::Receiver<String>>,
    link: Arc<Link>,
}

impl News {
    /// `None` once the session is over.
    pub(super) async fn next(&mut self) -> Option<String> {
        let lines = self.lines.as_mut()?;
        tokio::select! {
            () = self.link.end.cancelled() => None,
            line = lines.recv() => line,
        }
    }
}

impl Drop for News {
    fn drop(&mut self) {
        *lock(&self.link.shared.unread) = self.lines.take();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// Another request with that id waits.
    SameId,
    Over,
}

impl Link {
    /// Opens a session in `room`; it ends with the link, with the room, or when the agent is not active any more.
    pub(super) fn open(http: &Arc<Http>, room: &Arc<Room>) -> Self {
        let (messages, inbox) = mpsc::channel(QUEUE);
        let (outgoing, mut lines) = mpsc::channel::<String>(QUEUE);
        let (news, unread) = mpsc::channel(NEWS);
        let shared = Arc::new(Shared {
            limits: http.door.limits(),
            waiting: Mutex::new(Some(HashMap::new())),
            news,
            unread: Mutex::new(Some(unread)),
        });
        let end = room.over.child_token();
        let (door, identity, places) = (http.door.clone(), room.identity.clone(), room.places.clone());
        let (routes, room, cancel) = (shared.clone(), room.clone(), end.clone());
        http.tasks.spawn(async move {
            let _until_it_ends = cancel.clone().drop_guard();
            let session = session::serve_messages(door, identity, inbox, outgoing, places, cancel);
            tokio::pin!(session);
            let why = loop {
                tokio::select! {
                    biased;
                    Some(line) = lines.recv() => routes.route(line),
                    why = &mut session => break why,
                }
            };
            while let Ok(line) = lines.try_recv() {
                routes.route(line);
            }
            tracing::debug!(agent = %room.identity.address(), "an HTTP session ended: {why:?}");
            lock(&routes.waiting).take();
        });
        Self { messages, shared, end: end.clone(), _ends_with_it: end.drop_guard() }
    }

    pub(super) fn is_over(&self) -> bool {
        self.end.is_cancelled() || self.messages.is_closed()
    }

    pub(super) fn close(&self) {
        self.end.cancel();
    }

    /// Announces a request, so that its reply finds the way back.
    pub(super) fn expect(&self, id: &RequestId, params: Option<&Json>) -> Result<Waiter, Refused> {
        let token = params.and_then(|params| params.get("_meta")?.get("progressToken")).map(Json::canonical);
        let (reply, replied) = oneshot::channel();
        let (progress, news) = mpsc::channel(PROGRESS);
        let mut waiting = lock(&self.shared.waiting);
        let waiting = waiting.as_mut().ok_or(Refused::Over)?;
        if waiting.contains_key(&id.key()) {
            return Err(Refused::SameId);
        }
        waiting.insert(id.key(), Waiting { reply, progress, token });
        Ok(Waiter { progress: news, reply: replied })
    }

    pub(super) async fn send(&self, message: Message) -> Result<(), Refused> {
        tokio::select! {
            () = self.end.cancelled() => Err(Refused::Over),
            sent = self.messages.send(message) => sent.map_err(|_| Refused::Over),
        }
    }

    /// `None`: another GET has it.
    pub(super) fn news(self: &Arc<Self>) -> Option<News> {
        let lines = lock(&self.shared.unread).take()?;
        Some(News { lines: Some(lines), link: self.clone() })
    }

    /// Forgets a request that the client cancelled: it is not answered.
    pub(super) fn forget(&self, id: &RequestId) {
        if let Some(waiting) = lock(&self.shared.waiting).as_mut() {
            waiting.remove(&id.key());
        }
    }
}

impl Shared {
    /// Never waits: a client that does not read one of its answers puts off no other.
    fn route(&self, line: String) {
        let bytes = line.trim_end().as_bytes();
        if let Some(id) = envelope::reply_id(bytes) {
            let waiting = lock(&self.waiting).as_mut().and_then(|waiting| waiting.remove(&id.key()));
            if let Some(waiting) = waiting {
                // The client may have gone.
                let _ = waiting.reply.send(line);
            }
            return;
        }
        let (method, token) = match envelope::read(bytes, &self.limits) {
            Ok(Message::Notification { method, params: Some(params) }) => {
                (method, params.get("progressToken").map(Json::canonical))
            }
            _ => Default::default(),
        };
        let waiting = lock(&self.waiting);
        let mut all = waiting.iter().flat_map(HashMap::values);
        // What finds a full queue is dropped: the end of the call does not depend on it.
        let _full = match (method.as_str(), token) {
            ("notifications/progress", Some(token)) => {
                all.find(|waiting| waiting.token.as_ref() == Some(&token)).map(|of| of.progress.try_send(line))
            }
            // A log message names no request: it belongs to the only one that waits.
            ("notifications/message", _) => match (all.next(), all.next()) {
                (Some(only), None) => Some(only.progress.try_send(line)),
                _ => Some(self.news.try_send(line)),
            },
            _ => Some(self.news.try_send(line)),
        };
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
