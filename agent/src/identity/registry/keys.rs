//! An agent's key: rotated with the word of both keys, revoked, and the revocations of others.
//!
//! Invariant: a key that was revoked, here or elsewhere, is never accepted again.

use std::sync::PoisonError;

use jiff::Timestamp;
use serde_json::json;

use super::{Agent, AgentState, Registry, RegistryError, Revocation, RevocationReason, refused};
use crate::audit::{Entry, Kind, Outcome};
use crate::identity::{Address, PublicKey, Rotation};

impl Registry {
    /// Gives an agent the key that its old key and the new one itself have signed for.
    pub fn rotate_signed(&self, rotation: &Rotation, by: &str) -> Result<Agent, RegistryError> {
        let agent = self.require(&rotation.agent)?;
        rotation.verify(&agent.public_key, Timestamp::now())?;
        self.rotate(&rotation.agent, rotation.new, by)
    }

    /// Takes over revocations of keys, wherever they were made; returns how many were new. Of a key that is
    /// revoked already, the record that is here stays. Agents that have such a key are revoked with it.
    pub fn import_revocations(&self, revocations: Vec<Revocation>, by: &str) -> Result<usize, RegistryError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut fresh: Vec<Revocation> = Vec::new();
        for mut revocation in revocations {
            revocation.fingerprint = fingerprint(&revocation.fingerprint)?;
            let again = fresh.iter().any(|other| other.fingerprint == revocation.fingerprint);
            if !again && self.store.get::<Revocation>(&revocation.fingerprint)?.is_none() {
                fresh.push(revocation);
            }
        }
        self.store.put_all(&fresh)?;
        self.changed();
        for revocation in &fresh {
            let entry = Entry::new(Kind::Agent, Outcome::Deny, by).agent(revocation.agent_address.as_str());
            self.audit.record(entry.reason("revocation imported").detail(json!(revocation)))?;
        }
        for mut agent in self.list()?.into_iter().filter(|agent| agent.state.can_become(AgentState::Revoked)) {
            let named = |revocation: &&Revocation| {
                [&agent.fingerprint, &agent.fingerprint_spki].contains(&&revocation.fingerprint)
            };
            let Some(revocation) = fresh.iter().find(named) else { continue };
            let why = format!("its key was revoked elsewhere: {}", revocation.reason);
            agent.revoked = Some(revocation.clone());
            agent.step(AgentState::Revoked, by, &why);
            self.store.put(&agent)?;
            self.changed();
            self.record(&agent, Outcome::Deny, by, &why)?;
        }
        Ok(fresh.len())
    }

    /// Gives an agent a new key; the old one is revoked and points to the new one.
    pub fn rotate(&self, address: &Address, new: PublicKey, by: &str) -> Result<Agent, RegistryError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut agent = self.require(address)?;
        if agent.state.is_final() {
            return Err(refused(&agent, AgentState::Active));
        }
        self.check_new_key(address, &new)?;
        let old = agent.revocation(RevocationReason::KeyRotation, Some(new.fingerprint_raw()));
        agent.set_key(new);
        agent.step(agent.state, by, "key rotated");
        self.record(&agent, Outcome::Permit, by, "key rotated")?;
        self.store.put(&old)?;
        self.store.put(&agent)?;
        self.changed();
        Ok(agent)
    }

    pub(super) fn check_new_key(&self, address: &Address, key: &PublicKey) -> Result<(), RegistryError> {
        if let Some(Revocation { fingerprint, revoked_at: at, reason, .. }) = self.revocation(key)? {
            return Err(RegistryError::RevokedKey { address: address.clone(), fingerprint, at, reason });
        }
        let holder = self.list()?.into_iter().find(|agent| agent.public_key == *key);
        match holder {
            Some(holder) if holder.address != *address || !holder.state.is_final() => {
                Err(if holder.address == *address {
                    RegistryError::Enrolled { address: address.clone(), state: holder.state }
                } else {
                    RegistryError::SharedKey { address: address.clone(), holder: holder.address }
                })
            }
            _ => Ok(()),
        }
    }
}

/// A fingerprint as it is written here: others leave out what pads it.
fn fingerprint(text: &str) -> Result<String, RegistryError> {
    use base64::Engine as _;
    let base64 = base64::engine::general_purpose::STANDARD_NO_PAD;
    let digest = text.strip_prefix("SHA256:").and_then(|rest| base64.decode(rest.trim_end_matches('=')).ok());
    match digest.filter(|digest| digest.len() == 32) {
        Some(digest) => Ok(format!("SHA256:{}", base64::engine::general_purpose::STANDARD.encode(digest))),
        None => Err(RegistryError::NoFingerprint { text: text.chars().take(80).collect() }),
    }
}
