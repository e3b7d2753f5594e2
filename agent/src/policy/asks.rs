//! Calls that wait for a human, and what humans have granted.
//!
//! Invariant: an approval is for one agent, key, tool as it is pinned, and these very arguments,
//! until a time and for a number of calls; only [`Asks::take`] makes one, and it counts. What is left of it is on disk
//! before a call uses it (`asks/kept.rs`), so that a restart neither loses nor gives back any. A call that waits ends
//! with the daemon, and every wait has an end on record. The answer that nobody gives
//! is no. Arguments are shown to operators and written into no log.

mod kept;
mod waiting;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use subtle::ConstantTimeEq as _;
use tokio::sync::{broadcast, watch};

use self::kept::Approval;
pub(super) use self::waiting::Waiting;
use crate::audit::{AuditError, AuditLog, Entry, Kind, Outcome};
use crate::config::AskConfig;
use crate::proxy::json::Json;
use crate::store::{Store, StoreError};

/// How long an approval holds where the human names no time: enough for the waiting call.
pub const DEFAULT_SPAN: Duration = Duration::from_secs(60);
pub const LONGEST_SPAN: Duration = Duration::from_secs(24 * 3600);
pub const MOST_TIMES: u32 = 1000;
/// For how long a call is kept whose client was told to come again.
const PARKED: Duration = Duration::from_secs(60);
/// What a `requestState` of ours starts with.
pub const STATE_PREFIX: &str = "lazaret-ask-v1.";

#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("no call waits under {0:?}: it was answered, timed out, or its agent left; see `lazaret ask list`")]
    Unknown(String),
    #[error("the call {id} was {answer} already; see `lazaret ask list`")]
    Answered { id: String, answer: String },
    #[error(
        "cannot approve {times} calls within {secs} s: at most {MOST_TIMES} calls and 24 hours, at least 1 of each"
    )]
    Bounds { times: u32, secs: u64 },
    #[error(
        "cannot answer {0}: the daemon restarted while it waited, and that call is over; it waits anew under another id once the agent calls again"
    )]
    Restarted(String),
    #[error("cannot take back the approval of {0:?}: none of that id holds any more; see `lazaret ask list`")]
    NoApproval(String),
    #[error("the approval could not be kept and does not hold: {0}")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Audit(#[from] AuditError),
}

/// What an approval is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    pub agent: String,
    pub did: String,
    pub server: String,
    pub tool: String,
    pub tool_digest: String,
    pub arguments_digest: String,
}

/// A call that waits, as operators see it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AskView {
    pub id: String,
    #[serde(flatten)]
    pub binding: Binding,
    pub argument_names: Vec<String>,
    /// Why it is not permitted without a human.
    pub reason: String,
    /// The policies that permit it with one.
    pub policies: Vec<String>,
    pub uid: u32,
    pub asked_at: Timestamp,
    /// Then it is denied.
    pub until: Timestamp,
    /// `waiting`, `approved` or `denied`; `ended` where the daemon restarted meanwhile.
    pub state: String,
    /// JSON text, only where one call is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<String>,
}

/// An approval that still holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GrantView {
    /// The call that it was given for.
    pub ask: String,
    pub by: String,
    #[serde(flatten)]
    pub binding: Binding,
    pub until: Timestamp,
    pub times_left: u32,
}

/// Proof that a human approved this call; only [`Asks::take`] makes one, and it is used once.
///
/// ```compile_fail,E0451
/// let forged = lazaret::policy::HumanApproval { ask: "1".into(), by: "me".into() };
/// ```
///
/// ```compile_fail,E0277
/// fn copied<T: Clone>() {}
/// copied::<lazaret::policy::HumanApproval>();
/// ```
#[derive(Debug)]
pub struct HumanApproval {
    ask: String,
    by: String,
}

impl HumanApproval {
    /// For the call's record.
    pub(super) fn described(&self) -> Value {
        json!({ "ask": self.ask, "by": self.by })
    }
}

/// What became of a waiting call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Approved,
    Denied { by: String, why: String },
}

struct Pending {
    view: AskView,
    arguments: Json,
    answer: watch::Sender<Option<Answer>>,
    deadline: Instant,
    /// Calls that wait for it now; while there is none it is kept until `parked`.
    waiters: usize,
    parked: Option<Instant>,
    /// What the client shows when it comes again.
    handle: String,
    /// The server's own state, which the client's request carried.
    state: Option<Json>,
}

struct Grant {
    kept: Approval,
    /// The same end on a clock that nobody sets.
    until: Instant,
}

#[derive(Default)]
struct State {
    pending: BTreeMap<String, Pending>,
    grants: Vec<Grant>,
    /// Calls that waited when the daemon before ended, until they would have timed out.
    ended: Vec<AskView>,
}

pub struct Asks {
    config: AskConfig,
    audit: Arc<AuditLog>,
    store: Arc<Store>,
    state: Mutex<State>,
    news: broadcast::Sender<AskView>,
}

/// Why a call may not even wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NotAsked {
    TooMany(usize),
    /// The `requestState` is of no call that waits, or of another one.
    Foreign,
    Internal(String),
}

/// What [`Asks::open`] needs beside the binding.
pub(super) struct Question<'a> {
    pub binding: Binding,
    pub arguments: &'a Json,
    pub state: Option<Json>,
    pub reason: String,
    pub policies: Vec<String>,
    pub uid: u32,
}

impl Asks {
    pub fn new(config: AskConfig, audit: Arc<AuditLog>, store: Arc<Store>) -> Arc<Self> {
        Arc::new(Self { config, audit, store, state: Mutex::default(), news: broadcast::Sender::new(64) })
    }

    /// Each call that begins to wait, for whoever calls a human.
    pub fn news(&self) -> broadcast::Receiver<AskView> {
        self.news.subscribe()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let time = Timestamp::now();
        state.grants.retain(|grant| grant.until > now && grant.kept.until > time && grant.kept.left > 0);
        state.ended.retain(|ask| ask.until > time);
        let mut left = Vec::new();
        state.pending.retain(|_, pending| {
            let stays =
                pending.waiters > 0 || pending.parked.is_some_and(|until| until > now && pending.deadline > now);
            if !stays && pending.view.state == "waiting" {
                left.push(pending.view.clone());
            }
            stays
        });
        left.iter().for_each(|view| self.left(view));
        state
    }

    /// Uses an approval of exactly this call, where there is one.
    pub(super) fn take(&self, binding: &Binding) -> Option<HumanApproval> {
        let mut state = self.state();
        let grant = state.grants.iter_mut().find(|grant| grant.kept.binding == *binding)?;
        grant.kept.left -= 1;
        if let Err(e) = self.keep(&grant.kept) {
            // Used up all the same: what a restart would give back is used by nobody.
            tracing::error!(ask = grant.kept.ask, "the use of an approval could not be kept, so that it is none: {e}");
            return None;
        }
        Some(HumanApproval { ask: grant.kept.ask.clone(), by: grant.kept.by.clone() })
    }

    /// Makes a call wait; that it does is on record when this returns.
    pub(super) fn open(self: &Arc<Self>, question: Question<'_>) -> Result<Waiting, NotAsked> {
        let view = {
            let mut state = self.state();
            let of_agent = state.pending.values().filter(|p| p.view.binding.agent == question.binding.agent).count();
            if state.pending.len() >= self.config.max_waiting || of_agent >= self.config.max_per_agent {
                return Err(NotAsked::TooMany(of_agent));
            }
            let mut random = [0u8; 36];
            getrandom::fill(&mut random).map_err(|e| NotAsked::Internal(e.to_string()))?;
            let id = hex::encode(&random[..4]);
            if state.pending.contains_key(&id) {
                return Err(NotAsked::Internal("two calls drew the same id; send it again".into()));
            }
            let timeout = Duration::from_secs(self.config.timeout_secs);
            let asked_at = Timestamp::now();
            let names = question.arguments.as_object().unwrap_or_default();
            let view = AskView {
                id: id.clone(),
                argument_names: names
                    .iter()
                    .take(64)
                    .map(|(name, _)| super::permits::shorten(&name.value).to_owned())
                    .collect(),
                binding: question.binding,
                reason: question.reason,
                policies: question.policies,
                uid: question.uid,
                asked_at,
                until: later(asked_at, timeout),
                state: "waiting".into(),
                arguments: None,
            };
            let pending = Pending {
                view: view.clone(),
                arguments: question.arguments.clone(),
                answer: watch::Sender::new(None),
                deadline: Instant::now() + timeout,
                waiters: 1,
                parked: None,
                handle: hex::encode(&random[4..]),
                state: question.state,
            };
            state.pending.insert(id, pending);
            view
        };
        let waiting = self.waiting(&view.id).ok_or_else(|| NotAsked::Internal("it ended at once".into()))?;
        let detail = json!({ "until": view.until, "policies": view.policies, "arguments": { "digest": view.binding.arguments_digest, "names": view.argument_names }, "tool_digest": view.binding.tool_digest, "did": view.binding.did, "uid": view.uid });
        self.record(&view, Outcome::Held, &view.binding.agent, &view.reason, detail)
            .map_err(|e| NotAsked::Internal(e.to_string()))?;
        tracing::warn!(
            ask = view.id,
            agent = view.binding.agent,
            server = view.binding.server,
            tool = view.binding.tool,
            "a call waits for a human: `lazaret ask show {0}`, then `lazaret ask approve {0}` or `deny`",
            view.id
        );
        // Nobody has to listen.
        let _ = self.news.send(view);
        Ok(waiting)
    }

    /// The call that a client comes again for: the same call, by the same key, and nothing else.
    pub(super) fn rejoin(self: &Arc<Self>, handle: &str, binding: &Binding) -> Result<Waiting, NotAsked> {
        let id = {
            let mut state = self.state();
            let found = state
                .pending
                .values_mut()
                .find(|pending| same(&pending.handle, handle))
                .filter(|pending| pending.view.binding == *binding);
            let pending = found.ok_or(NotAsked::Foreign)?;
            pending.waiters += 1;
            pending.parked = None;
            pending.view.id.clone()
        };
        self.waiting(&id).ok_or(NotAsked::Foreign)
    }

    /// The server's own `requestState` of the call that waits under this handle.
    pub fn former_state(&self, handle: &str) -> Option<Json> {
        self.state().pending.values().find(|pending| same(&pending.handle, handle))?.state.clone()
    }

    pub fn list(&self) -> (Vec<AskView>, Vec<GrantView>) {
        let state = self.state();
        let pending = state.pending.values().map(|pending| &pending.view);
        let mut asks: Vec<AskView> = state.ended.iter().chain(pending).cloned().collect();
        asks.sort_by_key(|view| view.asked_at);
        (asks, state.grants.iter().map(|grant| grant.kept.view()).collect())
    }

    /// With its arguments, as they would be sent.
    pub fn show(&self, id: &str) -> Result<AskView, AskError> {
        let state = self.state();
        let pending = state.pending.get(id).ok_or_else(|| state.not_waiting(id))?;
        Ok(AskView { arguments: Some(pending.arguments.to_text()), ..pending.view.clone() })
    }

    /// Lets the call go, and calls that equal it in every byte of their arguments, `times` in all.
    pub fn approve(&self, id: &str, by: &str, times: u32, span: Duration) -> Result<AskView, AskError> {
        if times == 0 || times > MOST_TIMES || span.is_zero() || span > LONGEST_SPAN {
            return Err(AskError::Bounds { times, secs: span.as_secs() });
        }
        self.sweep()?;
        self.answer(id, by, Answer::Approved, |view, state| {
            let until_time = later(Timestamp::now(), span);
            let kept = Approval {
                ask: view.id.clone(),
                by: by.to_owned(),
                binding: view.binding.clone(),
                until: until_time,
                secs: span.as_secs().max(1),
                left: times,
            };
            state.grants.push(Grant { kept, until: Instant::now() + span });
            json!({ "ask": view.id, "times": times, "until": until_time, "arguments_digest": view.binding.arguments_digest, "tool_digest": view.binding.tool_digest })
        })
    }

    pub fn deny(&self, id: &str, by: &str, why: &str) -> Result<AskView, AskError> {
        let answer = Answer::Denied { by: by.to_owned(), why: why.to_owned() };
        self.answer(id, by, answer, |view, _| json!({ "ask": view.id, "why": why }))
    }

    /// The record comes first: what cannot be written down is not granted.
    fn answer(
        &self,
        id: &str,
        by: &str,
        answer: Answer,
        act: impl FnOnce(&AskView, &mut State) -> Value,
    ) -> Result<AskView, AskError> {
        let mut state = self.state();
        let Some(pending) = state.pending.get_mut(id) else { return Err(state.not_waiting(id)) };
        if pending.view.state != "waiting" {
            return Err(AskError::Answered { id: id.to_owned(), answer: pending.view.state.clone() });
        }
        let (word, outcome) = match answer {
            Answer::Approved => ("approved", Outcome::Permit),
            Answer::Denied { .. } => ("denied", Outcome::Deny),
        };
        let mut view = pending.view.clone();
        view.state = word.into();
        let detail = act(&view, &mut state);
        let granted = state.grants.iter().find(|grant| grant.kept.ask == view.id).map(|grant| grant.kept.clone());
        let recorded = self.record(&view, outcome, by, &format!("{word} by {by}"), detail).map_err(AskError::from);
        let done = recorded.and_then(|_| {
            granted.map_or(Ok(()), |kept| self.keep(&kept)).map_err(|e| {
                let why = "the approval could not be kept and does not hold";
                // Whoever approved is told; that this is not on record either is the lesser trouble then.
                let _unwritten = self.record(&view, Outcome::Error, "daemon", why, json!({}));
                e.into()
            })
        });
        if let Err(e) = done {
            state.grants.retain(|grant| grant.kept.ask != view.id);
            return Err(e);
        }
        if let Some(pending) = state.pending.get_mut(id) {
            pending.view.state = word.into();
            pending.answer.send_replace(Some(answer));
        }
        Ok(view)
    }

    fn record(
        &self,
        view: &AskView,
        outcome: Outcome,
        actor: &str,
        reason: &str,
        mut detail: Value,
    ) -> Result<u64, AuditError> {
        detail["ask"] = json!(view.id);
        let entry = Entry::new(Kind::Ask, outcome, actor)
            .agent(&view.binding.agent)
            .server(&view.binding.server)
            .tool(&view.binding.tool)
            .reason(reason)
            .detail(detail);
        self.audit.record(entry)
    }
}

impl State {
    fn not_waiting(&self, id: &str) -> AskError {
        match self.ended.iter().any(|ask| ask.id == id) {
            true => AskError::Restarted(id.to_owned()),
            false => AskError::Unknown(id.to_owned()),
        }
    }
}

fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && bool::from(a.as_bytes().ct_eq(b.as_bytes()))
}

fn later(time: Timestamp, span: Duration) -> Timestamp {
    jiff::SignedDuration::try_from(span).ok().and_then(|span| time.checked_add(span).ok()).unwrap_or(time)
}

#[cfg(test)]
mod tests;
