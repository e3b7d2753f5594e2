//! A new key for an agent: the old key signs for it, and the new one too.
//!
//! Invariant: neither who stole the old key alone nor who merely knows a public key can put it in an
//! agent's place: both signatures cover both keys, the address and the time.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Address, KeyError, KeySource, PublicKey, Signature};
use crate::proxy::json::Json;

const PREFIX: &str = "lazaret-rotate-v1\n";
/// For how long a rotation can be handed in, in seconds; clocks may differ as much the other way.
const LIFETIME: i64 = 300;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RotationError {
    #[error(
        "cannot rotate the key of {0}: the old key has not signed for the new one; run `lazaret agent rotate {0}` where the old key is, or revoke the agent and enroll it anew"
    )]
    Old(Address),
    #[error("cannot rotate the key of {0}: the new key has not signed for itself; run `lazaret agent rotate {0}`")]
    New(Address),
    #[error(
        "cannot rotate the key of {0}: the rotation was signed at another time; run `lazaret agent rotate {0}` again"
    )]
    Time(Address),
    #[error("cannot rotate the key of {0}: the new key is the old one; name another")]
    Same(Address),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    pub agent: Address,
    pub new: PublicKey,
    /// Unix seconds.
    pub at: i64,
    pub old_signature: Signature,
    pub new_signature: Signature,
}

impl Rotation {
    pub fn sign(agent: &Address, old: &dyn KeySource, new: &dyn KeySource, now: Timestamp) -> Result<Self, KeyError> {
        let at = now.as_second();
        let text = text(agent, &old.public(), &new.public(), at);
        Ok(Self {
            agent: agent.clone(),
            new: new.public(),
            at,
            old_signature: old.sign(text.as_bytes())?,
            new_signature: new.sign(text.as_bytes())?,
        })
    }

    pub fn verify(&self, old: &PublicKey, now: Timestamp) -> Result<(), RotationError> {
        let refuse = |why: fn(Address) -> RotationError| Err(why(self.agent.clone()));
        if *old == self.new {
            return refuse(RotationError::Same);
        }
        if now.as_second().saturating_sub(self.at).unsigned_abs() > LIFETIME.unsigned_abs() {
            return refuse(RotationError::Time);
        }
        let text = text(&self.agent, old, &self.new, self.at);
        if old.verify(text.as_bytes(), &self.old_signature).is_err() {
            return refuse(RotationError::Old);
        }
        if self.new.verify(text.as_bytes(), &self.new_signature).is_err() {
            return refuse(RotationError::New);
        }
        Ok(())
    }
}

fn text(agent: &Address, old: &PublicKey, new: &PublicKey, at: i64) -> String {
    let value = serde_json::json!({ "agent": agent, "at": at, "new": new.did(), "old": old.did() });
    format!("{PREFIX}{}", Json::from_value(&value).canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::AgentKey;

    #[test]
    fn both_keys_must_have_signed_for_this_agent_at_this_time() {
        let agent: Address = "claude@acme.lazaret.local".parse().unwrap();
        let key = || AgentKey::generate().unwrap();
        let (old, new, thief) = (key(), key(), key());
        let now = Timestamp::now();
        let good = Rotation::sign(&agent, &old, &new, now).unwrap();
        assert_eq!(good.verify(&old.public(), now), Ok(()));
        let change = |change: fn(&mut Rotation)| {
            let mut rotation = good.clone();
            change(&mut rotation);
            rotation.verify(&old.public(), now)
        };
        assert!(matches!(
            change(|r| r.agent = "other@acme.lazaret.local".parse().unwrap()),
            Err(RotationError::Old(_))
        ));
        assert!(matches!(change(|r| r.at += 1), Err(RotationError::Old(_))));
        assert!(matches!(change(|r| r.new_signature = r.old_signature), Err(RotationError::New(_))));
        assert!(matches!(change(|r| r.at -= LIFETIME + 1), Err(RotationError::Time(_))));
        assert!(matches!(change(|r| r.at = i64::MIN), Err(RotationError::Time(_))));
        let stolen = Rotation::sign(&agent, &thief, &new, now).unwrap();
        assert!(matches!(stolen.verify(&old.public(), now), Err(RotationError::Old(_))));
        let same = Rotation::sign(&agent, &old, &old, now).unwrap();
        assert!(matches!(same.verify(&old.public(), now), Err(RotationError::Same(_))));
    }
}
