//! The messages of the challenge and the texts that are signed.

use serde::{Deserialize, Serialize};

use crate::identity::{Address, Certificate, IssuedToken, KeySource, PublicKey, Signature, TokenWish};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Message {
    Hello(Hello),
    Proof(Proof),
    Welcome(Welcome),
    Refused { reason: String, next_step: String },
    Token(IssuedToken),
    Hook(HookNote),
    Noted {},
}

/// What a client's hook says of a tool use or a sub-agent. Nobody proves it; the daemon takes it from
/// processes of the same user only, and shows it as asserted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HookNote {
    pub client: String,
    pub event: String,
    pub session: Option<String>,
    pub agent_id: Option<String>,
    pub agent_type: Option<String>,
    pub tool_use: Option<String>,
    pub tool: Option<String>,
}

/// The daemon introduces itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    pub v: u32,
    /// The daemon's did: whom the proof must be for.
    pub aud: String,
    pub nonce: String,
    pub daemon_pub: PublicKey,
}

/// The connector proves that it holds the agent's key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Proof {
    pub agent: Address,
    pub did: String,
    pub nonce: String,
    pub session_pub: PublicKey,
    /// Unix seconds after which the proof is worth nothing.
    pub exp: i64,
    /// Of an agent that acts for another one: a compact JWS per hop, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub delegation: Vec<String>,
    /// A token is wanted in place of a session; signed, so that a proof for the one does not serve for the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenWish>,
    pub sig: Signature,
}

/// The daemon proves itself, and names the session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    pub session: String,
    pub sig: Signature,
}

/// JCS by construction: members in code point order, and no value that JCS would write otherwise
/// than `serde_json` does (strings of ASCII, one integer below 2^53 or refused as out of time).
#[derive(Serialize)]
struct Signed<'a> {
    agent: &'a Address,
    aud: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    delegation: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<i64>,
    nonces: [&'a str; 2],
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<&'a str>,
    session_pub: &'a PublicKey,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<TokenWish>,
}

/// What the agent's key signs.
pub(super) fn proof_text(hello: &Hello, proof: &Proof) -> Vec<u8> {
    certified_text(&Certificate::of(hello, proof))
}

/// The same, from what the log keeps of it.
pub(in crate::identity) fn certified_text(certificate: &Certificate) -> Vec<u8> {
    let [theirs, ours] = &certificate.nonces;
    text(
        "lazaret-connect-v2\n",
        &Signed {
            agent: &certificate.agent,
            aud: &certificate.aud,
            delegation: &certificate.delegation,
            exp: Some(certificate.exp),
            nonces: [theirs, ours],
            session: None,
            session_pub: &certificate.session_pub,
            token: certificate.token,
        },
    )
}

/// What the daemon's key signs: it names the agent's did as the audience.
pub(super) fn welcome_text(hello: &Hello, proof: &Proof, session: &str) -> Vec<u8> {
    text(
        "lazaret-welcome-v2\n",
        &Signed {
            agent: &proof.agent,
            aud: &proof.did,
            delegation: &[],
            exp: None,
            nonces: [&hello.nonce, &proof.nonce],
            session: Some(session),
            session_pub: &proof.session_pub,
            token: proof.token,
        },
    )
}

fn text(prefix: &str, signed: &Signed<'_>) -> Vec<u8> {
    let mut bytes = prefix.as_bytes().to_vec();
    #[expect(clippy::expect_used, reason = "strings and an integer always encode")]
    serde_json::to_writer(&mut bytes, signed).expect("a signed text is JSON");
    bytes
}

#[cfg(test)]
pub(in crate::identity) fn prove(
    hello: &Hello,
    agent: &Address,
    key: &dyn KeySource,
    session_pub: PublicKey,
    nonce: String,
    exp: i64,
    token: Option<TokenWish>,
) -> Result<Proof, crate::identity::KeyError> {
    let mut proof = unsigned(agent, key, session_pub, nonce, exp);
    proof.token = token;
    proof.sig = key.sign(&proof_text(hello, &proof))?;
    Ok(proof)
}

/// The signature is a placeholder, to be made over everything else.
pub(super) fn unsigned(agent: &Address, key: &dyn KeySource, session_pub: PublicKey, nonce: String, exp: i64) -> Proof {
    let (agent, did) = (agent.clone(), key.public().did());
    let sig = Signature::from_bytes(&[0; 64]);
    Proof { agent, did, nonce, session_pub, exp, token: None, delegation: Vec::new(), sig }
}
