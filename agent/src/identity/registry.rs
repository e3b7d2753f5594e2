//! The agents that this host knows, and the keys that it will never accept again.
//!
//! Invariants: an address has one key at a time and a key one address; a revoked key is never
//! enrolled again under any name; what grants something is on record before it takes effect, what
//! takes something away takes effect first.

mod delegations;
mod keys;
mod life;
mod model;
mod sessions;
mod standing;
mod vouching;

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use serde_json::json;
use tokio::sync::watch;

pub use delegations::DelegationRevocation;
pub use life::{Amendment, follow_expiry};
pub use model::{Agent, AgentState, CallLimits, Enrolment, Measured, Revocation, RevocationReason, Step, Vouch};
pub use standing::NotActive;
pub use vouching::Draft;

use super::vouch::SignerFile;
use super::{Address, PublicKey, RotationError, VouchError};
use crate::audit::{AuditError, AuditLog, Entry, Flood, Kind, Outcome};
use crate::config::OnDrift;
use crate::store::{Store, StoreError};

/// Refused connections of one uid that are written down in a minute; anybody may knock.
const MOST_REFUSALS: u32 = 20;

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error(
        "cannot find the agent {0}: it is not enrolled here; run `lazaret agent enroll {0}`, or see `lazaret agent list`"
    )]
    Unknown(Address),
    #[error("cannot enroll {address}: it is enrolled already and {state}; revoke it first, or rotate its key")]
    Enrolled { address: Address, state: AgentState },
    #[error("cannot enroll {address}: its key {fingerprint} was revoked on {at} ({reason}); make a new key")]
    RevokedKey { address: Address, fingerprint: String, at: Timestamp, reason: RevocationReason },
    #[error("cannot enroll {address}: its key is that of {holder}; give each agent a key of its own")]
    SharedKey { address: Address, holder: Address },
    #[error("cannot change {address} from {from} to {to}: {hint}")]
    Transition { address: Address, from: AgentState, to: AgentState, hint: String },
    #[error("cannot let {address} end at {not_after}: that has passed already; give a later --not-after")]
    Ended { address: Address, not_after: Timestamp },
    #[error(
        "cannot take over the revocation of {text:?}: it is no fingerprint, which is SHA256: and the base64 of 32 bytes; nothing was taken over"
    )]
    NoFingerprint { text: String },
    #[error("cannot take the vouch of {0} back: nobody vouched for it; see `lazaret agent show {0}`")]
    NotVouched(Address),
    #[error(transparent)]
    Vouch(#[from] VouchError),
    #[error(
        "cannot revoke the delegation {0:?}: an id is 32 hex digits; `lazaret audit show` of a call names those it stood on"
    )]
    NoDelegationId(String),
    #[error(transparent)]
    Rotation(#[from] RotationError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Audit(#[from] AuditError),
}

pub struct Registry {
    store: Arc<Store>,
    audit: Arc<AuditLog>,
    changes: watch::Sender<u64>,
    /// One change at a time: the checks of a change span two tables.
    writing: Mutex<()>,
    refusals: Flood<u32>,
    signers: SignerFile,
    require_vouch: bool,
    on_drift: OnDrift,
}

impl Registry {
    pub fn new(store: Arc<Store>, audit: Arc<AuditLog>) -> Self {
        Self {
            store,
            audit,
            changes: watch::Sender::new(0),
            writing: Mutex::new(()),
            refusals: Flood::new(MOST_REFUSALS),
            signers: SignerFile::new(crate::config::DEFAULT_ALLOWED_SIGNERS.into()),
            require_vouch: false,
            on_drift: OnDrift::default(),
        }
    }

    /// Whose signatures count, and whether an agent needs one for its calls.
    pub fn vouching(mut self, signers: std::path::PathBuf, require: bool) -> Self {
        self.signers = SignerFile::new(signers);
        self.require_vouch = require;
        self
    }

    /// What becomes of an agent that is not what was vouched for.
    pub fn on_drift(mut self, on_drift: OnDrift) -> Self {
        self.on_drift = on_drift;
        self
    }

    /// Each with the vouch that it has now, going by what it was made of when it connected last.
    pub fn list(&self) -> Result<Vec<Agent>, RegistryError> {
        self.store.list()?.into_iter().map(|agent| self.as_last_seen(agent)).collect()
    }

    /// The agent of an address, in the same way.
    pub fn get(&self, address: &Address) -> Result<Option<Agent>, RegistryError> {
        self.store.get(address.as_str())?.map(|agent| self.as_last_seen(agent)).transpose()
    }

    /// Like [`Registry::get`], for callers that need there to be one.
    pub fn require(&self, address: &Address) -> Result<Agent, RegistryError> {
        self.get(address)?.ok_or_else(|| RegistryError::Unknown(address.clone()))
    }

    /// Whether, and why, a key was revoked; kept for ever. Records of others name it by either fingerprint.
    pub fn revocation(&self, key: &PublicKey) -> Result<Option<Revocation>, RegistryError> {
        match self.store.get(&key.fingerprint_raw())? {
            Some(revocation) => Ok(Some(revocation)),
            None => Ok(self.store.get(&key.fingerprint_spki())?),
        }
    }

    pub fn revocations(&self) -> Result<Vec<Revocation>, RegistryError> {
        Ok(self.store.list()?)
    }

    /// Bumped by every change, so that open sessions look again.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// For what is kept per agent elsewhere.
    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    pub(super) fn audit(&self) -> &AuditLog {
        &self.audit
    }

    /// Writes down that `uid` was refused; beyond a number per minute it is only counted.
    pub(super) fn record_refusal(&self, uid: u32, mut entry: Entry) -> Result<(), AuditError> {
        let Some(unwritten) = self.refusals.admit(uid, std::time::Instant::now()) else { return Ok(()) };
        if unwritten > 0 {
            entry.detail["unwritten_before"] = json!(unwritten);
        }
        self.audit.record(entry).map(drop)
    }

    /// Enrolls a key under an address, for any user who holds the key.
    pub fn enroll(
        &self,
        address: &Address,
        key: PublicKey,
        owner: Option<String>,
        by: &str,
    ) -> Result<Agent, RegistryError> {
        self.enroll_for(address, key, owner, None, by)
    }

    /// Enrolls a key under an address, for one user of this host where `uid` names one. An
    /// operator's word makes it active at once. An address that is taken can be enrolled anew only
    /// after its key was revoked, expired or deregistered.
    pub fn enroll_for(
        &self,
        address: &Address,
        key: PublicKey,
        owner: Option<String>,
        uid: Option<u32>,
        by: &str,
    ) -> Result<Agent, RegistryError> {
        self.enroll_with(address, key, Enrolment { owner, uid, ..Enrolment::default() }, by)
    }

    /// The same with everything that an operator can say.
    pub fn enroll_with(
        &self,
        address: &Address,
        key: PublicKey,
        enrolment: Enrolment,
        by: &str,
    ) -> Result<Agent, RegistryError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.check_new_key(address, &key)?;
        if let Some(not_after) = enrolment.not_after.filter(|end| *end <= Timestamp::now()) {
            return Err(RegistryError::Ended { address: address.clone(), not_after });
        }
        let former = self.get(address)?;
        if let Some(former) = former.as_ref().filter(|former| !former.state.is_final()) {
            return Err(RegistryError::Enrolled { address: address.clone(), state: former.state });
        }
        let pending = enrolment.pending;
        let mut agent = Agent::pending(address.clone(), key, enrolment, by);
        if let Some(former) = former {
            agent.history.splice(0..0, former.history);
        }
        if pending {
            self.record(&agent, Outcome::Ok, by, "enrolled, and waits to be activated")?;
        } else {
            agent.step(AgentState::Active, by, "enrolled by an operator");
            self.record(&agent, Outcome::Permit, by, "enrolled")?;
        }
        self.store.put(&agent)?;
        self.changed();
        Ok(agent)
    }

    /// Ends an agent and its key for good. Open sessions lose it at their next call.
    pub fn revoke(&self, address: &Address, reason: RevocationReason, by: &str) -> Result<Agent, RegistryError> {
        let to = match reason {
            RevocationReason::AgentDeregistered => AgentState::Deregistered,
            _ => AgentState::Revoked,
        };
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut agent = self.require(address)?;
        if !agent.state.can_become(to) {
            return Err(refused(&agent, to));
        }
        let revocation = agent.revocation(reason, None);
        // The key first: should the machine stop between the two, nobody gets in with it.
        self.store.put(&revocation)?;
        agent.revoked = Some(revocation);
        agent.step(to, by, &reason.to_string());
        self.store.put(&agent)?;
        self.changed();
        self.record(&agent, Outcome::Deny, by, &format!("{to}: {reason}"))?;
        Ok(agent)
    }

    pub fn suspend(&self, address: &Address, by: &str, why: &str) -> Result<Agent, RegistryError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let agent = self.stepped(address, AgentState::Suspended, by, why)?;
        self.store.put(&agent)?;
        self.changed();
        self.record(&agent, Outcome::Deny, by, why)?;
        Ok(agent)
    }

    /// Lets in an agent that was enrolled and waits for an operator's word.
    pub fn activate(&self, address: &Address, by: &str) -> Result<Agent, RegistryError> {
        self.let_in(address, AgentState::Pending, by, "activated by an operator")
    }

    /// Lets in an agent that was suspended.
    pub fn resume(&self, address: &Address, by: &str, why: &str) -> Result<Agent, RegistryError> {
        self.let_in(address, AgentState::Suspended, by, why)
    }

    fn let_in(&self, address: &Address, from: AgentState, by: &str, why: &str) -> Result<Agent, RegistryError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let agent = self.require(address)?;
        if agent.state != from {
            return Err(refused(&agent, AgentState::Active));
        }
        let agent = self.stepped(address, AgentState::Active, by, why)?;
        self.record(&agent, Outcome::Permit, by, why)?;
        self.store.put(&agent)?;
        self.changed();
        Ok(agent)
    }

    /// Binds an agent to one user of this host (`None`: any user who holds the key).
    pub fn bind_uid(&self, address: &Address, uid: Option<u32>, by: &str) -> Result<Agent, RegistryError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut agent = self.require(address)?;
        agent.uid = uid;
        let why = uid.map_or_else(|| "bound to no uid".into(), |uid| format!("bound to uid {uid}"));
        agent.step(agent.state, by, &why);
        self.record(&agent, Outcome::Ok, by, &why)?;
        self.store.put(&agent)?;
        self.changed();
        Ok(agent)
    }

    fn stepped(&self, address: &Address, to: AgentState, by: &str, why: &str) -> Result<Agent, RegistryError> {
        let mut agent = self.require(address)?;
        if !agent.state.can_become(to) {
            return Err(refused(&agent, to));
        }
        agent.step(to, by, why);
        Ok(agent)
    }

    fn record(&self, agent: &Agent, outcome: Outcome, by: &str, why: &str) -> Result<(), RegistryError> {
        let detail = json!({ "did": agent.did, "fingerprint": agent.fingerprint, "state": agent.state });
        self.audit
            .record(Entry::new(Kind::Agent, outcome, by).agent(agent.address.as_str()).reason(why).detail(detail))?;
        Ok(())
    }

    fn changed(&self) {
        self.changes.send_modify(|n| *n += 1);
    }
}

fn refused(agent: &Agent, to: AgentState) -> RegistryError {
    use AgentState::{Active, Pending, Suspended};
    let (address, from) = (&agent.address, agent.state);
    let hint = match (from, to) {
        (from, to) if from == to && !from.is_final() => {
            format!("it is {from} already; see `lazaret agent show {address}`")
        }
        (from, _) if from.is_final() => format!("{from} is final; enroll the address again with a new key"),
        (Pending, Active) => format!("nobody has let it in yet; do that with `lazaret agent activate {address}`"),
        (Pending, Suspended) => {
            format!("nobody has let it in yet; to be rid of it run `lazaret agent deregister {address}`")
        }
        (Suspended, Active) => format!("it was let in before; let it in again with `lazaret agent resume {address}`"),
        _ => format!("see `lazaret agent show {address}`"),
    };
    RegistryError::Transition { address: address.clone(), from, to, hint }
}

#[cfg(test)]
mod tests;
