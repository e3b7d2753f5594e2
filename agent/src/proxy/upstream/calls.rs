//! The calls that wait for one server's answer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::{Listener, News, UpstreamError};
use crate::proxy::envelope::{self, Reply, RequestId};
use crate::proxy::json::Json;

type Answer = Result<Reply, UpstreamError>;

/// A line on its way to the server.
pub(super) struct Outgoing {
    pub text: String,
    /// Of a request: what became of the line.
    pub fate: Option<Arc<Fate>>,
}

impl From<String> for Outgoing {
    fn from(text: String) -> Self {
        Self { text, fate: None }
    }
}

/// Whether a line was given to the server. Only one of writing and withdrawing it ever succeeds,
/// so that a call which was withdrawn may safely be made elsewhere.
#[derive(Default)]
pub(super) struct Fate(AtomicU8);

impl Fate {
    const QUEUED: u8 = 0;
    const WRITTEN: u8 = 1;
    const WITHDRAWN: u8 = 2;

    pub(super) fn write(&self) -> bool {
        self.settle(Self::WRITTEN)
    }

    /// True too where it was withdrawn before.
    pub(super) fn withdraw(&self) -> bool {
        self.settle(Self::WITHDRAWN)
    }

    /// What was written was turned away unread.
    pub(super) fn refuse(&self) {
        self.0.store(Self::WITHDRAWN, Ordering::Release);
    }

    fn settle(&self, fate: u8) -> bool {
        let settled = self.0.compare_exchange(Self::QUEUED, fate, Ordering::AcqRel, Ordering::Acquire);
        settled.map_or_else(|was| was == fate, |_| true)
    }
}

struct Pending {
    answer: oneshot::Sender<Answer>,
    listener: Option<Listener>,
}

#[derive(Default)]
struct Table {
    last_id: u64,
    pending: HashMap<u64, Pending>,
    end: Option<UpstreamError>,
    stopped: bool,
}

pub(super) struct Calls {
    table: Mutex<Table>,
    outgoing: mpsc::Sender<Outgoing>,
    /// Whether all calls are of one agent.
    serves_one: AtomicBool,
    /// Messages that the server has sent.
    heard: AtomicU64,
    /// Rung when somebody waited in vain.
    doubted: Notify,
    ended: watch::Sender<bool>,
    input_closed: watch::Sender<bool>,
    output_closed: watch::Sender<bool>,
}

impl Calls {
    pub(super) fn new(outgoing: mpsc::Sender<Outgoing>) -> Self {
        let flag = || watch::Sender::new(false);
        Self {
            table: Mutex::default(),
            outgoing,
            serves_one: AtomicBool::new(false),
            heard: AtomicU64::new(0),
            doubted: Notify::new(),
            ended: flag(),
            input_closed: flag(),
            output_closed: flag(),
        }
    }

    pub(super) fn hear(&self) {
        self.heard.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn heard(&self) -> u64 {
        self.heard.load(Ordering::Acquire)
    }

    pub(super) fn doubt(&self) {
        self.doubted.notify_one();
    }

    pub(super) async fn doubted(&self) {
        self.doubted.notified().await;
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call with an id of its own; its answer is waited for with [`Call::answer`].
    pub(super) fn open(self: &Arc<Self>, listener: Option<Listener>) -> Result<Call, UpstreamError> {
        let mut table = self.table();
        if let Some(end) = &table.end {
            return Err(end.clone());
        }
        table.last_id += 1;
        let id = table.last_id;
        let (answer, receive) = oneshot::channel();
        table.pending.insert(id, Pending { answer, listener });
        drop(table);
        Ok(Call { id, calls: self.clone(), receive, fate: Arc::default() })
    }

    /// Whether somebody waited for it.
    pub(super) fn complete(&self, id: &RequestId, answer: Answer) -> bool {
        let pending = id.as_u64().and_then(|id| self.table().pending.remove(&id));
        pending.is_some_and(|pending| pending.answer.send(answer).is_ok())
    }

    /// Whether somebody still waits for it.
    pub(super) fn is_open(&self, id: u64) -> bool {
        self.table().pending.contains_key(&id)
    }

    pub(super) fn progress(&self, params: Json) {
        let id = params.get("progressToken").and_then(Json::as_u64);
        let table = self.table();
        let listener = id.and_then(|id| table.pending.get(&id)).and_then(|pending| pending.listener.as_ref());
        if let Some(listener) = listener.filter(|listener| listener.progress) {
            // Progress is advice: a flood of it costs its own messages only.
            let _full = listener.to.try_send(News::Progress(params));
        }
    }

    /// From now on all of its calls are of one agent.
    pub(super) fn serves_one(&self, one: bool) {
        self.serves_one.store(one, Ordering::Release);
    }

    /// A log message: to the call on whose stream it came. Where the server has one stream for all calls it may speak of
    /// any of them: it goes to the newest one if they are all of one agent, else to nobody.
    pub(super) fn message(&self, on: Option<u64>, params: Json) {
        let table = self.table();
        let newest = || table.pending.iter().filter(|(_, call)| call.listener.is_some()).map(|(id, _)| *id).max();
        let id = on.or_else(|| self.serves_one.load(Ordering::Acquire).then(newest).flatten());
        let listener = id.and_then(|id| table.pending.get(&id)).and_then(|pending| pending.listener.as_ref());
        if let Some(listener) = listener {
            let _full = listener.to.try_send(News::Message(params));
        }
    }

    /// As [`Calls::finish`], on purpose.
    pub(super) fn stop(&self, why: &str) {
        self.end_with(why, &[], true);
    }

    pub(super) fn was_stopped(&self) -> bool {
        self.table().stopped
    }

    /// Answers every call with the same error; the first end is the one that counts.
    pub(super) fn finish(&self, cause: &str, last_words: &[String]) {
        self.end_with(cause, last_words, false);
    }

    fn end_with(&self, cause: &str, last_words: &[String], stopped: bool) {
        let mut table = self.table();
        if table.end.is_some() {
            return;
        }
        table.stopped = stopped;
        let last_words = super::last_words(last_words);
        let end = UpstreamError::Ended { cause: cause.into(), last_words, sent: false };
        table.end = Some(end.clone());
        let pending = std::mem::take(&mut table.pending);
        drop(table);
        for (_, pending) in pending {
            let _gone = pending.answer.send(Err(end.clone()));
        }
        self.ended.send_replace(true);
    }

    pub(super) fn end(&self) -> Option<UpstreamError> {
        self.table().end.clone()
    }

    pub(super) async fn ended(&self) -> UpstreamError {
        wait(&self.ended).await;
        self.end().unwrap_or(UpstreamError::Stuck)
    }

    pub(super) fn close_input(&self) {
        self.input_closed.send_replace(true);
    }

    pub(super) async fn input_closed(&self) {
        wait(&self.input_closed).await;
    }

    pub(super) fn close_output(&self) {
        self.output_closed.send_replace(true);
    }

    pub(super) async fn output_closed(&self) {
        wait(&self.output_closed).await;
    }

    fn forget(&self, id: u64) -> bool {
        self.table().pending.remove(&id).is_some()
    }

    /// A line that nobody waits for: it is dropped where the server does not read.
    pub(super) fn tell(&self, line: String) {
        let _stuck_or_gone = self.outgoing.try_send(line.into());
    }
}

async fn wait(flag: &watch::Sender<bool>) {
    // The sender lives as long as `self`, so that waiting cannot fail.
    let _ = flag.subscribe().wait_for(|set| *set).await;
}

/// One call in flight. Dropped without an answer, it is cancelled at the server.
pub(super) struct Call {
    id: u64,
    calls: Arc<Calls>,
    receive: oneshot::Receiver<Answer>,
    fate: Arc<Fate>,
}

impl Call {
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn line(&self, text: String) -> Outgoing {
        Outgoing { text, fate: Some(self.fate.clone()) }
    }

    /// Whether the server got any of it; if not, it never will.
    pub(super) fn was_sent(&self) -> bool {
        !self.fate.withdraw()
    }

    pub(super) async fn answer(&mut self) -> Answer {
        match (&mut self.receive).await {
            Ok(answer) => answer,
            Err(_) => Err(self.calls.end().unwrap_or(UpstreamError::Stuck)),
        }
    }

    /// Tells the server, if it still owes an answer.
    pub(super) fn cancel(&self, reason: &str) {
        // What was not written yet is taken back; of that there is nothing to tell.
        if self.calls.forget(self.id) && self.was_sent() {
            let params = Json::object([("requestId", Json::number(self.id)), ("reason", Json::string(reason))]);
            self.calls.tell(envelope::notification_line("notifications/cancelled", Some(&params)));
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.cancel("the caller cancelled it");
    }
}
