//! Tokens for HTTP clients: opaque, random, short-lived, and worth nothing anywhere else.
//!
//! A token stands for one proof of an agent's key. Invariants: it lives in this daemon's memory, by the digest of its
//! secret, and ends with the daemon; it serves the uid that asked for it, at this daemon's own URL, until its end or
//! its revocation, and only while the agent is active with that key, and every agent and grant that it acts by, which
//! is asked at every use; its text stands in no record, only its id.

mod bearer;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio_util::sync::CancellationToken;

pub use bearer::Bearer;

use super::{Address, NotActive, Peer, Registry, SessionIdentity, Transport};
use crate::audit::{AuditError, Entry, Kind, Outcome};

/// For so long it is remembered that a token expired, so that its holder is told that and not that it is unknown.
const REMEMBERED: SignedDuration = SignedDuration::from_mins(10);
/// Tokens of one agent at once, and of all.
const MOST_OF_ONE: usize = 32;
const MOST: usize = 4096;

/// For how long a token is wanted; the daemon's default if that is not said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenWish {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_secs: Option<u64>,
}

/// What the one who asked gets; nobody else ever sees it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedToken {
    pub token: String,
    pub id: String,
    /// Where it is accepted.
    pub url: String,
    pub expires: Timestamp,
}

impl std::fmt::Debug for IssuedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuedToken").field("id", &self.id).field("url", &self.url).finish_non_exhaustive()
    }
}

/// What operators may know of one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TokenView {
    pub id: String,
    pub agent: Address,
    pub session: String,
    pub uid: u32,
    pub url: String,
    pub issued: Timestamp,
    pub expires: Timestamp,
    /// Of its agent: a top agent has 1.
    pub depth: u32,
    /// Ids of the delegations that it acts by, outermost first.
    pub delegations: Vec<String>,
    /// Why it is not taken at this moment, where its agent or one above has lost its standing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// A token that is in force.
#[derive(Debug)]
pub struct Grant {
    id: String,
    digest: [u8; 32],
    identity: Arc<SessionIdentity>,
    audience: String,
    issued: Timestamp,
    expires: Timestamp,
    /// The same moment on a clock that nobody sets.
    deadline: Instant,
    over: CancellationToken,
}

impl Grant {
    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn identity(&self) -> &Arc<SessionIdentity> {
        &self.identity
    }

    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Cancelled when the token is revoked or the daemon stops; not when it expires.
    pub fn over(&self) -> &CancellationToken {
        &self.over
    }

    fn has_expired(&self, now: Timestamp) -> bool {
        self.expires <= now || self.deadline <= Instant::now()
    }

    fn view(&self) -> TokenView {
        TokenView {
            id: self.id.clone(),
            agent: self.identity.address().clone(),
            session: self.identity.session().to_owned(),
            uid: self.identity.uid(),
            url: self.audience.clone(),
            issued: self.issued,
            expires: self.expires,
            depth: self.identity.lineage().depth,
            delegations: self.identity.lineage().delegations().map(str::to_owned).collect(),
            refused: None,
        }
    }

    /// Whether its agent, and all that it acts by, may act now.
    fn standing(&self, registry: &Registry) -> Result<(), NotActive> {
        let identity = &self.identity;
        let agent = registry.standing_for(identity.address(), identity.did(), identity.uid())?;
        registry.check_line(identity, &agent)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum TokenRefused {
    #[error("the request has no bearer token")]
    Missing,
    #[error("the Authorization header holds no token of Lazaret")]
    Malformed,
    /// Never issued here, altered, revoked, or issued by another daemon or one before: which, is not told.
    #[error("the token is not known here: it is no token of this daemon, or it was revoked")]
    Unknown,
    #[error("the token expired at {}", .0.strftime("%Y-%m-%d %H:%M:%S UTC"))]
    Expired(Timestamp),
    #[error("the token is for {0} and serves nowhere else")]
    Audience(String),
    #[error("the token was issued to uid {bound}, and this is {}", .uid.map_or_else(|| "a process that the kernel does not name".into(), |uid| format!("uid {uid}")))]
    OtherUser { bound: u32, uid: Option<u32> },
    #[error(transparent)]
    NotActive(#[from] NotActive),
    #[error("a token may live for {max} s at most, and {wanted} s were asked for")]
    TooLong { wanted: u64, max: u64 },
    #[error("{0} has {MOST_OF_ONE} tokens in force already")]
    TooMany(Address),
    #[error("this daemon does not serve HTTP")]
    Off,
    #[error("no random numbers: {0}")]
    Randomness(getrandom::Error),
    #[error(transparent)]
    Audit(#[from] AuditError),
}

impl TokenRefused {
    pub fn next_step(&self) -> String {
        match self {
            Self::NotActive(e) => e.next_step(),
            Self::TooLong { max, .. } if *max >= crate::config::LONGEST_TOKEN => {
                format!("ask for --ttl {max}s at most")
            }
            Self::TooLong { max, .. } => format!("ask for less with --ttl {max}s, or raise [http] max_token_secs"),
            Self::TooMany(_) => "wait until one expires, or revoke one with `lazaret agent token revoke ID`".into(),
            Self::Off => {
                "set listen = \"127.0.0.1:PORT\" under [http] in the configuration and restart the daemon".into()
            }
            Self::Randomness(_) | Self::Audit(_) => "ask the operator to look at `lazaret status`".into(),
            Self::OtherUser { .. } => "run `lazaret token --agent ADDRESS` as the user who runs the client".into(),
            _ => "run `lazaret token --agent ADDRESS` and send what it prints as `Authorization: Bearer TOKEN`".into(),
        }
    }
}

/// For how long tokens live, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct TokenLimits {
    pub default_secs: u64,
    pub max_secs: u64,
}

pub struct Tokens {
    /// This daemon's URL; `None` where it does not serve HTTP.
    audience: Option<String>,
    limits: TokenLimits,
    held: Mutex<HashMap<String, Arc<Grant>>>,
}

impl Tokens {
    pub fn new(audience: Option<String>, limits: TokenLimits) -> Self {
        Self { audience, limits, held: Mutex::default() }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<String, Arc<Grant>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For an agent that has just proven its key. On record before it is given away.
    pub fn mint(&self, registry: &Registry, proven: &SessionIdentity) -> Result<IssuedToken, TokenRefused> {
        let audience = self.audience.clone().ok_or(TokenRefused::Off)?;
        let wanted = proven.wish.and_then(|wish| wish.ttl_secs);
        let ttl = wanted.unwrap_or(self.limits.default_secs.min(self.limits.max_secs));
        if ttl > self.limits.max_secs || ttl == 0 {
            return Err(TokenRefused::TooLong { wanted: ttl, max: self.limits.max_secs });
        }
        let bearer = Bearer::generate().map_err(TokenRefused::Randomness)?;
        let issued = Timestamp::now();
        let ttl = match proven.lineage().exp() {
            None => ttl,
            // It ends with the first grant that ends.
            Some(exp) => match u64::try_from(exp.saturating_sub(issued.as_second())) {
                Ok(left) if left > 0 => ttl.min(left),
                _ => return Err(NotActive::DelegationOver { address: proven.address().clone(), exp }.into()),
            },
        };
        let identity = SessionIdentity {
            // The process that asked ends now; who uses the token is known by uid alone.
            peer: Peer { pid: None, ..proven.peer },
            transport: Transport::Http,
            wish: None,
            // Of a process that is gone; each request proves the token instead.
            signs: false,
            signature: None,
            witness: None,
            token: Some(bearer.id()),
            ..proven.clone()
        };
        let grant = Arc::new(Grant {
            id: bearer.id(),
            digest: bearer.digest(),
            identity: Arc::new(identity),
            audience,
            issued,
            // At most an hour: no overflow.
            expires: issued.saturating_add(SignedDuration::from_secs(ttl as i64)).unwrap_or(issued),
            deadline: Instant::now() + Duration::from_secs(ttl),
            over: CancellationToken::new(),
        });
        self.check_room(proven.address(), issued)?;
        self.record(registry, &grant, "token issued", Outcome::Permit, None)?;
        self.held().insert(grant.id.clone(), grant.clone());
        Ok(IssuedToken {
            token: bearer.text(),
            id: grant.id.clone(),
            url: grant.audience.clone(),
            expires: grant.expires,
        })
    }

    fn check_room(&self, agent: &Address, now: Timestamp) -> Result<(), TokenRefused> {
        let mut held = self.held();
        let full = held.len() >= MOST;
        held.retain(|_, grant| !grant.has_expired(now) || (!full && grant.expires + REMEMBERED > now));
        let in_force = held.values().filter(|grant| !grant.has_expired(now));
        let of_agent = in_force.filter(|grant| grant.identity.address() == agent).count();
        if of_agent >= MOST_OF_ONE || held.len() >= MOST {
            return Err(TokenRefused::TooMany(agent.clone()));
        }
        Ok(())
    }

    /// Judges one use: by the process of `uid` (`None`: the kernel did not say), at `audience`. A refusal is on record.
    pub fn admit(
        &self,
        registry: &Registry,
        header: Option<&[u8]>,
        uid: Option<u32>,
        audience: &str,
    ) -> Result<Arc<Grant>, TokenRefused> {
        let mut known = None;
        self.judge(registry, header, uid, audience, &mut known).inspect_err(|why| {
            let detail = json!({
                "gate": "token",
                "uid": uid,
                "token": known.as_ref().map(|grant: &Arc<Grant>| grant.id()),
                "transport": Transport::Http.as_str(),
            });
            let who = uid.map_or_else(|| "uid:unknown".to_owned(), |uid| format!("uid:{uid}"));
            let mut entry = Entry::new(Kind::Denial, Outcome::Deny, who).reason(why.to_string()).detail(detail);
            entry.agent = known.as_ref().map(|grant| grant.identity.address().to_string());
            if let Err(e) = registry.record_refusal(uid.unwrap_or(u32::MAX), entry) {
                // It stays refused: an unwritten refusal permits nothing.
                tracing::error!("the refusal of a token could not be recorded: {e}");
            }
        })
    }

    fn judge(
        &self,
        registry: &Registry,
        header: Option<&[u8]>,
        uid: Option<u32>,
        audience: &str,
        known: &mut Option<Arc<Grant>>,
    ) -> Result<Arc<Grant>, TokenRefused> {
        let bearer = Bearer::from_header(header.ok_or(TokenRefused::Missing)?).ok_or(TokenRefused::Malformed)?;
        let held = self.held().get(&bearer.id()).cloned().ok_or(TokenRefused::Unknown)?;
        // Before anything else is told: whoever has not the secret learns nothing about the token.
        if !bearer.matches(&held.digest) {
            return Err(TokenRefused::Unknown);
        }
        let grant = known.insert(held).clone();
        if grant.over.is_cancelled() {
            return Err(TokenRefused::Unknown);
        }
        if grant.has_expired(Timestamp::now()) {
            return Err(TokenRefused::Expired(grant.expires));
        }
        if grant.audience != audience {
            return Err(TokenRefused::Audience(grant.audience.clone()));
        }
        let bound = grant.identity.uid();
        if uid != Some(bound) {
            return Err(TokenRefused::OtherUser { bound, uid });
        }
        grant.standing(registry)?;
        Ok(grant)
    }

    /// Those in force, the oldest first.
    pub fn list(&self, registry: &Registry) -> Vec<TokenView> {
        let now = Timestamp::now();
        let held: Vec<_> = self.held().values().filter(|grant| !grant.has_expired(now)).cloned().collect();
        let shown = |grant: &Arc<Grant>| {
            let refused = grant.standing(registry).err().map(|why| why.to_string());
            TokenView { refused, ..grant.view() }
        };
        let mut views: Vec<_> = held.iter().map(shown).collect();
        views.sort_by(|a, b| (a.issued, &a.id).cmp(&(b.issued, &b.id)));
        views
    }

    /// Ends a token and everything that runs on it. `None`: there is none of that id.
    pub fn revoke(&self, registry: &Registry, id: &str, by: &str) -> Result<Option<TokenView>, AuditError> {
        let Some(grant) = self.held().remove(id) else { return Ok(None) };
        grant.over.cancel();
        self.record(registry, &grant, "token revoked", Outcome::Deny, Some(by))?;
        Ok(Some(grant.view()))
    }

    /// The daemon stops.
    pub fn end_all(&self) {
        for (_, grant) in self.held().drain() {
            grant.over.cancel();
        }
    }

    fn record(
        &self,
        registry: &Registry,
        grant: &Grant,
        why: &str,
        outcome: Outcome,
        by: Option<&str>,
    ) -> Result<(), AuditError> {
        let identity = &grant.identity;
        let agent = identity.address().as_str();
        let detail = json!({
            "token": grant.id,
            "did": identity.did(),
            "session": identity.session(),
            "uid": identity.uid(),
            "audience": grant.audience,
            "expires": grant.expires,
            "human": identity.lineage().human,
            "depth": identity.lineage().depth,
            "chain": identity.lineage().hops,
        });
        let entry = Entry::new(Kind::Agent, outcome, by.unwrap_or(agent)).agent(agent).reason(why).detail(detail);
        registry.audit().record(entry).map(drop)
    }
}

#[cfg(test)]
mod tests;
