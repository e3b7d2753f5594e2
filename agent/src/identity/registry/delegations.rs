//! Delegations that are presented here: whose they are, and those that were revoked.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Agent, NotActive, Registry, RegistryError};
use crate::audit::{Entry, Kind, Outcome};
use crate::identity::delegation::{self, CheckedChain, Evidence, Hop, Lineage};
use crate::identity::{Address, PublicKey, SessionIdentity};
use crate::store::Record;

/// A delegation that is never accepted again, whoever presents it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DelegationRevocation {
    pub jti: String,
    pub revoked_at: Timestamp,
    pub by: String,
}

impl Record for DelegationRevocation {
    const TABLE: &'static str = "revoked_delegations";
    fn key(&self) -> String {
        self.jti.clone()
    }
}

impl Registry {
    /// Refuses unless every agent that a session's own `agent` acts for may act now, and no delegation between
    /// them has ended.
    pub fn check_line(&self, session: &SessionIdentity, agent: &Agent) -> Result<(), NotActive> {
        self.ancestors(session)?;
        let lineage = session.lineage();
        for jti in lineage.delegations() {
            self.check_delegation(&agent.address, jti)?;
        }
        let address = agent.address.clone();
        match lineage.exp() {
            Some(exp) if exp <= Timestamp::now().as_second() => Err(NotActive::DelegationOver { address, exp }),
            None if agent.sub_agent => Err(NotActive::NoDelegation(address)),
            _ => Ok(()),
        }
    }

    /// The agents that a session's own acts for, outermost first; each of them may act now. They are not here to be
    /// measured: their vouch is for what they were when they connected last.
    pub fn ancestors(&self, session: &SessionIdentity) -> Result<Vec<Agent>, NotActive> {
        let active = |hop: &Hop| -> Result<Agent, NotActive> {
            let agent = self.standing(&hop.address, &hop.did).map_err(|e| above(session.address(), e))?;
            Ok(self.as_last_seen(agent)?)
        };
        session.lineage().ancestors().iter().map(active).collect()
    }

    /// The line of agents behind one that has proven `key`: a top agent where it presents no `chain`.
    pub fn lineage(
        &self,
        agent: &Agent,
        key: &PublicKey,
        chain: &[String],
        audience: &str,
    ) -> Result<Lineage, NotActive> {
        if chain.is_empty() {
            return match agent.sub_agent {
                true => Err(NotActive::NoDelegation(agent.address.clone())),
                false => Ok(Lineage::top(&agent.address, key, agent.owner.clone())),
            };
        }
        let failed = |source| NotActive::Delegation { address: agent.address.clone(), source };
        let checked = delegation::check(chain, audience, Timestamp::now().as_second()).map_err(failed)?;
        let subject = checked.last().subject;
        if subject != *key {
            return Err(failed(delegation::ChainError::Subject { found: subject.did(), wanted: key.did() }));
        }
        self.known(agent, key, &checked)
    }

    fn known(&self, agent: &Agent, key: &PublicKey, checked: &CheckedChain) -> Result<Lineage, NotActive> {
        let root_key = checked.hops()[0].issuer;
        let root = self.holder(agent, &root_key, 1)?;
        if root.sub_agent {
            return Err(above(&agent.address, NotActive::NoDelegation(root.address)));
        }
        let mut lineage = Lineage::top(&root.address, &root_key, root.owner.clone());
        for (n, hop) in checked.hops().iter().enumerate() {
            self.check_delegation(&agent.address, &hop.jti)?;
            let address = match hop.subject == *key {
                true => agent.address.clone(),
                false => self.holder(agent, &hop.subject, n + 2)?.address,
            };
            let (did, jti) = (hop.subject.did(), Some(hop.jti.clone()));
            lineage.hops.push(Hop { address, did, jti, evidence: Evidence::Proven });
            lineage.depth += 1;
        }
        lineage.capabilities = Some(checked.last().capabilities.clone());
        // Each hop ends no later than the one before.
        lineage.exp = Some(checked.last().exp);
        Ok(lineage)
    }

    /// The active agent that has this key.
    fn holder(&self, child: &Agent, key: &PublicKey, place: usize) -> Result<Agent, NotActive> {
        let found = self.list()?.into_iter().find(|agent| agent.public_key == *key);
        let found = found.ok_or_else(|| NotActive::UnknownParent { address: child.address.clone(), place })?;
        self.standing(&found.address, &found.did).map_err(|cause| above(&child.address, cause))
    }

    fn check_delegation(&self, address: &Address, jti: &str) -> Result<(), NotActive> {
        match self.delegation_revocation(jti)? {
            None => Ok(()),
            Some(DelegationRevocation { jti, revoked_at: at, .. }) => {
                Err(NotActive::DelegationRevoked { address: address.clone(), jti, at })
            }
        }
    }

    pub fn delegation_revocation(&self, jti: &str) -> Result<Option<DelegationRevocation>, RegistryError> {
        Ok(self.store.get(jti)?)
    }

    /// Ends a delegation and all that was granted on it: open sessions lose it at once. It need not have
    /// been seen here before.
    pub fn revoke_delegation(&self, jti: &str, by: &str) -> Result<DelegationRevocation, RegistryError> {
        if jti.len() != 32 || !jti.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(RegistryError::NoDelegationId(jti.chars().take(80).collect()));
        }
        let _writing = self.writing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(revoked) = self.delegation_revocation(jti)? {
            return Ok(revoked);
        }
        let revoked = DelegationRevocation { jti: jti.into(), revoked_at: Timestamp::now(), by: by.into() };
        self.store.put(&revoked)?;
        self.changed();
        let entry = Entry::new(Kind::Agent, Outcome::Deny, by).reason("delegation revoked");
        self.audit.record(entry.detail(json!({ "delegation": jti })))?;
        Ok(revoked)
    }
}

fn above(address: &Address, cause: NotActive) -> NotActive {
    NotActive::Parent { address: address.clone(), cause: Box::new(cause) }
}
