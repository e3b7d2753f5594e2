//! Whose key signed a call, told from the audit log alone.
//!
//! Two records answer it: the one of the connection holds the [`Certificate`], by which the agent's key vouches for
//! the session's key; the call's intent holds the session's signature on the line that the call came on. Neither the
//! daemon nor its database has to be believed: it holds none of these keys.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::challenge::{self, Hello, Proof};
use super::signed::{self, CallSignature};
use super::{Address, PublicKey, Signature, TokenWish};
use crate::audit::Record;

/// The proof of a challenge, with what it was signed over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    pub agent: Address,
    pub did: String,
    /// The did of the daemon that it was made for.
    pub aud: String,
    /// The daemon's, then the connector's.
    pub nonces: [String; 2],
    pub session_pub: PublicKey,
    pub exp: i64,
    /// Of a sub-agent: a compact JWS per hop, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub delegation: Vec<String>,
    /// It was made for a token, not for a session on the socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenWish>,
    pub sig: Signature,
}

impl Certificate {
    pub(super) fn of(hello: &Hello, proof: &Proof) -> Self {
        Self {
            agent: proof.agent.clone(),
            did: proof.did.clone(),
            aud: hello.aud.clone(),
            nonces: [hello.nonce.clone(), proof.nonce.clone()],
            session_pub: proof.session_pub,
            exp: proof.exp,
            delegation: proof.delegation.clone(),
            token: proof.token,
            sig: proof.sig,
        }
    }

    fn verify(&self) -> Result<(), NotProven> {
        let key = PublicKey::from_did(&self.did).map_err(|_| NotProven::Certificate)?;
        key.verify(&challenge::certified_text(self), &self.sig).map_err(|_| NotProven::Certificate)
    }
}

/// A call that its agent cannot deny.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProvenCall {
    pub agent: Address,
    pub did: String,
    pub session: String,
    pub seq: u64,
    /// Of the line, as the agent's client wrote it.
    pub line_digest: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotProven {
    #[error("the call's record has no signature: it came over a transport that signs no calls")]
    Unsigned,
    #[error(
        "the two records are not of one session: give the record of the connection that the call's `session` names"
    )]
    OtherSession,
    #[error("a record cannot be read as one of a signed session: {0}; it was altered, or another release wrote it")]
    Malformed(&'static str),
    #[error("the agent's key did not sign for the session's key: a record was altered")]
    Certificate,
    #[error("the session's key did not sign this call: a record was altered")]
    Signature,
}

/// Checks the intent of a call against the record of the connection that it came on (`reason` `connected`, the same
/// `detail.session`). Whether the agent's key was the enrolled one, and unrevoked, at that time the log says elsewhere.
pub fn verify_call(connected: &Record, intent: &Record) -> Result<ProvenCall, NotProven> {
    let member = |record: &Record, name: &str| record.detail.get(name).cloned().unwrap_or(Value::Null);
    let signature = member(intent, "signature");
    if signature.is_null() {
        return Err(NotProven::Unsigned);
    }
    let signature: CallSignature =
        serde_json::from_value(signature).map_err(|_| NotProven::Malformed("detail.signature"))?;
    let certificate: Certificate = serde_json::from_value(member(connected, "certificate"))
        .map_err(|_| NotProven::Malformed("detail.certificate"))?;
    let session = member(intent, "session");
    let Some(session) = session.as_str().filter(|_| member(connected, "session") == session) else {
        return Err(NotProven::OtherSession);
    };
    certificate.verify()?;
    let named =
        [&connected.agent, &intent.agent].iter().all(|agent| agent.as_deref() == Some(certificate.agent.as_str()));
    if !named || certificate.session_pub != signature.session_pub {
        return Err(NotProven::Certificate);
    }
    let text = signed::signed_text(session, signature.seq, &signature.line_digest);
    signature.session_pub.verify(&text, &signature.sig).map_err(|_| NotProven::Signature)?;
    Ok(ProvenCall {
        agent: certificate.agent,
        did: certificate.did,
        session: session.into(),
        seq: signature.seq,
        line_digest: signature.line_digest,
    })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::audit::{Kind, Outcome};
    use crate::identity::AgentKey;

    fn record(kind: Kind, detail: Value) -> Record {
        let agent = Some("claude@acme.lazaret.local".to_owned());
        Record {
            seq: 1,
            time: Timestamp::UNIX_EPOCH,
            kind,
            outcome: Outcome::Permit,
            actor: String::new(),
            agent,
            server: None,
            tool: None,
            call_id: None,
            reason: None,
            detail,
        }
    }

    /// The records of a connection and of a call on it.
    fn records() -> (Record, Record) {
        let (agent, session, daemon) =
            (AgentKey::generate().unwrap(), AgentKey::generate().unwrap(), AgentKey::generate().unwrap());
        let hello = Hello { v: 2, aud: daemon.public().did(), nonce: "a".repeat(64), daemon_pub: daemon.public() };
        let address = "claude@acme.lazaret.local".parse().unwrap();
        let proof =
            challenge::prove(&hello, &address, &agent, session.public(), "b".repeat(64), 1_800_000_000, None).unwrap();
        let line_digest = format!("sha256:{}", "0".repeat(64));
        let signature = CallSignature {
            session_pub: session.public(),
            seq: 3,
            sig: session.sign(&signed::signed_text("s", 3, &line_digest)),
            line_digest,
        };
        (
            record(Kind::Agent, json!({ "session": "s", "certificate": Certificate::of(&hello, &proof) })),
            record(Kind::Call, json!({ "session": "s", "signature": signature })),
        )
    }

    #[test]
    fn a_call_is_proven_from_its_two_records() {
        let (connected, intent) = records();
        let proven = verify_call(&connected, &intent).unwrap();
        assert_eq!((proven.agent.as_str(), proven.seq, proven.session.as_str()), ("claude@acme.lazaret.local", 3, "s"));
        assert_eq!(proven.did, connected.detail["certificate"]["did"]);
    }

    #[test]
    fn a_record_with_anything_altered_proves_nothing() {
        let (connected, intent) = records();
        let (other_connected, other_intent) = records();
        assert!(verify_call(&other_connected, &intent).is_err());
        assert!(verify_call(&connected, &other_intent).is_err());
        for member in ["did", "aud", "exp", "nonces", "session_pub", "sig", "agent"] {
            let mut altered = connected.clone();
            altered.detail["certificate"][member] = match member {
                "exp" => json!(1_900_000_000),
                "agent" => json!("other@acme.lazaret.local"),
                "aud" => json!("did:key:z6Mk"),
                "nonces" => json!(["c", "d"]),
                _ => other_connected.detail["certificate"][member].clone(),
            };
            if altered != connected {
                assert_eq!(verify_call(&altered, &intent), Err(NotProven::Certificate), "{member}");
            }
        }
        for (member, value) in [
            ("seq", json!(4)),
            ("line_digest", json!(format!("sha256:{}", "1".repeat(64)))),
            ("sig", other_intent.detail["signature"]["sig"].clone()),
        ] {
            let mut altered = intent.clone();
            altered.detail["signature"][member] = value;
            assert_eq!(verify_call(&connected, &altered), Err(NotProven::Signature), "{member}");
        }
        let mut unsigned = intent.clone();
        unsigned.detail["signature"] = Value::Null;
        assert_eq!(verify_call(&connected, &unsigned), Err(NotProven::Unsigned));
        let mut elsewhere = intent.clone();
        elsewhere.detail["session"] = json!("t");
        assert_eq!(verify_call(&connected, &elsewhere), Err(NotProven::OtherSession));
        let mut renamed = intent;
        renamed.agent = Some("other@acme.lazaret.local".into());
        assert_eq!(verify_call(&connected, &renamed), Err(NotProven::Certificate));
    }
}
