//! Taking vouches, finding out what they are worth, taking them back.
//!
//! Invariant: the signature is verified before a vouch is on record, and again whenever
//! `allowed_signers` became another file.

use std::sync::PoisonError;

use jiff::Timestamp;
use serde_json::json;

use super::{Agent, Measured, NotActive, Registry, RegistryError, Vouch};
use crate::audit::{Entry, Kind, Outcome};
use crate::identity::vouch::{NAMESPACE, Vouched, Withdrawn};
use crate::identity::{Actions, Address, Measurement, VouchDocument, VouchError};

/// What a human is asked to sign.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Draft {
    /// The bytes to sign.
    pub document: String,
    pub measurement: Option<Measurement>,
    /// Keys whose signature would count, as `authorized_keys` writes them.
    pub signers: Vec<String>,
}

impl Registry {
    /// Keeps what an agent was found to be made of; called each time that it connects.
    pub fn measured(&self, address: &Address, measurement: &Measurement) -> Result<(), RegistryError> {
        if self.last_measured(address)?.is_some_and(|last| last.measurement == *measurement) {
            return Ok(());
        }
        let (address, measurement) = (address.clone(), measurement.clone());
        Ok(self.store.put(&Measured { address, measurement, at: Timestamp::now() })?)
    }

    pub fn last_measured(&self, address: &Address) -> Result<Option<Measured>, RegistryError> {
        Ok(self.store.get(address.as_str())?)
    }

    /// The document for an agent as it is now; `measurement` where the last one that was seen is not meant.
    pub fn draft_vouch(
        &self,
        address: &Address,
        measurement: Option<Measurement>,
        capabilities: Option<Actions>,
        not_after: Timestamp,
    ) -> Result<Draft, RegistryError> {
        let agent = self.require(address)?;
        let measurement = match measurement {
            Some(given) => Some(Measurement::of(given.parts)),
            None => self.last_measured(address)?.map(|last| last.measurement),
        };
        let capabilities = capabilities.unwrap_or_else(|| agent.actions.clone());
        let document =
            VouchDocument::new(address.clone(), agent.did, measurement.as_ref(), capabilities, not_after).canonical();
        let signers = self.signers.current().map_err(VouchError::from)?.keys(NAMESPACE, Timestamp::now());
        Ok(Draft { document, measurement, signers })
    }

    /// Takes a signed document. It takes the place of an earlier vouch.
    pub fn vouch(
        &self,
        address: &Address,
        document: &str,
        signature: &str,
        measurement: Option<Measurement>,
        by: &str,
    ) -> Result<Agent, RegistryError> {
        let now = Timestamp::now();
        let signed = self.signers.verify(document.as_bytes(), signature, now)?;
        let text = document;
        let document = VouchDocument::parse(text)?;
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut agent = self.require(address)?;
        let stale = |what: &str| Err(VouchError::Stale { what: what.into() }.into());
        if document.agent != agent.address {
            return stale(&format!("it is for {}", document.agent));
        }
        if document.did != agent.did {
            return stale("it is for another key than the agent has now");
        }
        if agent.state.is_final() {
            return stale(&format!("the agent is {}", agent.state));
        }
        if document.not_after <= now {
            return stale("its end has passed already");
        }
        let measurement = match (&document.measurement, measurement) {
            (None, _) => None,
            (Some(digest), Some(given)) => {
                let given = Measurement::of(given.parts);
                if given.digest != *digest {
                    return stale("the measurement that comes with it is not the one that was signed");
                }
                Some(given)
            }
            (Some(digest), None) => match self.last_measured(address)? {
                Some(last) if last.measurement.digest == *digest => Some(last.measurement),
                Some(_) => return stale("the agent has changed since the document was printed"),
                None => return stale("no measurement of the agent is known; give it with --measurement"),
            },
        };
        agent.vouched = Some(Vouched {
            document,
            measurement,
            signature: signature.into(),
            by: signed.by,
            signing_key: signed.key,
            algorithm: signed.algorithm,
            at: now,
            taken_from: by.into(),
            revoked: None,
        });
        let mut agent = self.as_last_seen(agent)?;
        agent.step(agent.state, by, "vouched for");
        self.record_vouch(&agent, Outcome::Permit, by, "vouched for")?;
        self.store.put(&agent)?;
        self.changed();
        Ok(agent)
    }

    /// Takes a vouch back.
    pub fn withdraw_vouch(&self, address: &Address, by: &str, why: &str) -> Result<Agent, RegistryError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut agent = self.require(address)?;
        let Some(vouched) = agent.vouched.as_mut().filter(|vouched| vouched.revoked.is_none()) else {
            return Err(RegistryError::NotVouched(address.clone()));
        };
        vouched.revoked = Some(Withdrawn { at: Timestamp::now(), by: by.into(), why: why.into() });
        agent.vouch = Vouch::Revoked;
        agent.step(agent.state, by, &format!("vouch taken back: {why}"));
        self.store.put(&agent)?;
        self.changed();
        self.record_vouch(&agent, Outcome::Deny, by, &format!("vouch taken back: {why}"))?;
        Ok(agent)
    }

    /// Refuses an agent whose vouch is not valid where one is demanded.
    pub fn demand_vouch(&self, agent: &Agent) -> Result<(), NotActive> {
        if self.require_vouch && agent.vouch != Vouch::Valid {
            return Err(NotActive::Vouch { address: agent.address.clone(), vouch: agent.vouch });
        }
        Ok(())
    }

    /// An agent that was just read, with the vouch that it has now for a process that was measured so.
    pub(super) fn judged(&self, mut agent: Agent, measured: Option<&Measurement>) -> Agent {
        agent.distrusted = match &agent.vouched {
            Some(vouched) if vouched.revoked.is_none() => self.signers.distrust(vouched),
            _ => None,
        };
        agent.vouch = agent.vouch_state(measured, Timestamp::now());
        agent
    }

    pub(super) fn as_last_seen(&self, agent: Agent) -> Result<Agent, RegistryError> {
        if agent.vouched.is_none() {
            return Ok(self.judged(agent, None));
        }
        let last = self.last_measured(&agent.address)?;
        Ok(self.judged(agent, last.as_ref().map(|last| &last.measurement)))
    }

    fn record_vouch(&self, agent: &Agent, outcome: Outcome, by: &str, why: &str) -> Result<(), RegistryError> {
        let detail = agent.vouched.as_ref().map(|vouched| {
            json!({
                "did": agent.did,
                "signed_by": vouched.by,
                "signing_key": vouched.signing_key,
                "document": vouched.document,
                "signature": vouched.signature,
            })
        });
        let entry = Entry::new(Kind::Agent, outcome, by).agent(agent.address.as_str()).reason(why);
        self.audit.record(entry.detail(detail.unwrap_or_default()))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
