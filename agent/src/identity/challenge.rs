//! The mutual challenge that opens every connection, before any MCP line:
//!
//! ```text
//! daemon    -> hello    its key, a nonce
//! connector -> proof    the agent, a nonce, a session key; signed with the agent's key
//! daemon    -> welcome  the session; signed with the daemon's key    (or: refused, why, what to do)
//! ```
//!
//! Who wants a token for an HTTP client says so in the proof; then the daemon's last message is the token, and no session
//! follows.
//! A client's hook answers the hello with a note instead, hears `noted`, and is no session.
//!
//! One JSON object a line. Each signature covers both nonces and names the one whom it is for,
//! under a prefix of its own, so that none serves on another connection, for another daemon, or
//! in the other direction. A nonce lives as long as its connection: there is nothing to replay.

mod issue;
mod lines;
mod wire;

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use tokio::io::{AsyncBufRead, AsyncWrite};
use tokio::runtime::{Handle, RuntimeFlavor};

pub use issue::{ask_token, issue};
pub(super) use wire::certified_text;
#[cfg(test)]
pub(super) use wire::prove;
pub use wire::{Hello, HookNote, Message, Proof, Welcome};

use super::signed::LineSigner;
use super::{
    Address, AgentKey, Certificate, KeyError, KeySource, Lineage, NotActive, Peer, PeerProcess, PublicKey, Registry,
    Session, SessionIdentity, Strange, TokenWish, Transport,
};
use crate::audit::{AuditError, Entry, Kind, Outcome};

/// A proof is valid for this long.
pub const PROOF_LIFETIME: Duration = Duration::from_secs(30);
/// Clocks of the two ends may differ by this much; they are on one host.
pub const CLOCK_SKEW: Duration = Duration::from_secs(5);
/// The whole challenge takes at most this long.
pub const DEADLINE: Duration = Duration::from_secs(5);
/// No message of the challenge is longer than this, newline included;
/// a chain of delegations is most of the longest one.
pub const MAX_LINE: usize = 48 << 10;

/// 2: every line of the client is signed (`signed.rs`).
const VERSION: u32 = 2;

#[derive(Debug, thiserror::Error)]
pub enum ChallengeError {
    #[error("cannot connect: {reason}; {next_step}")]
    Refused { reason: String, next_step: String },
    #[error("cannot connect: the other end said nothing for {} s; see `lazaret status`", DEADLINE.as_secs())]
    TooSlow,
    #[error("cannot connect: the other end closed the connection; see `lazaret status`")]
    Closed,
    #[error(
        "cannot connect: the other end sent a line of more than {MAX_LINE} bytes; it does not speak Lazaret's protocol"
    )]
    TooLong,
    #[error(
        "cannot connect: the other end sent something that is not Lazaret's protocol ({0}); check the socket's path"
    )]
    Malformed(String),
    #[error(
        "cannot connect: the daemon speaks version {0} of the protocol, this connector version {VERSION}; install the same release of both"
    )]
    Version(u32),
    #[error(
        "cannot connect: whatever listens at the socket could not prove that it is the daemon {0}; see `lazaret status`"
    )]
    FalseDaemon(String),
    #[error("cannot connect: {0}; check the socket's path")]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Audit(#[from] AuditError),
}

/// Who came, once it is known.
#[derive(Debug)]
pub enum Visitor {
    Agent(Box<SessionIdentity>),
    /// A client's hook, which says something and leaves.
    Hook(HookNote),
}

/// As [`meet`], for connections that only agents make.
#[cfg(test)]
pub async fn accept<R, W>(
    reader: &mut R,
    writer: &mut W,
    peer: Peer,
    process: Option<&Result<PeerProcess, Strange>>,
    daemon: &AgentKey,
    registry: &Registry,
) -> Result<SessionIdentity, ChallengeError>
where
    R: AsyncBufRead + Unpin,
    W: AsyncWrite + Unpin,
{
    match meet(reader, writer, peer, process, daemon, registry).await? {
        Visitor::Agent(identity) => Ok(*identity),
        Visitor::Hook(_) => Err(ChallengeError::Malformed("out of turn".into())),
    }
}

/// Tells a hook that its note was taken; what becomes of the hook then is its own affair.
pub async fn thank<W: AsyncWrite + Unpin>(writer: &mut W) {
    let _gone = tokio::time::timeout(DEADLINE, lines::send(writer, &Message::Noted {})).await;
}

/// A hook's side: says `note` to the daemon, and returns once the daemon has it.
pub async fn tell<R, W>(reader: &mut R, writer: &mut W, note: HookNote) -> Result<(), ChallengeError>
where
    R: AsyncBufRead + Unpin,
    W: AsyncWrite + Unpin,
{
    greeted(reader).await?;
    lines::send(writer, &Message::Hook(note)).await?;
    match lines::receive(reader).await? {
        Message::Noted {} => Ok(()),
        Message::Refused { reason, next_step } => Err(ChallengeError::Refused { reason, next_step }),
        _ => Err(ChallengeError::Malformed("out of turn".into())),
    }
}

/// The daemon's did, as it introduces itself to whoever connects.
pub async fn audience<R: AsyncBufRead + Unpin>(reader: &mut R) -> Result<String, ChallengeError> {
    tokio::time::timeout(DEADLINE, greeted(reader)).await.unwrap_or(Err(ChallengeError::TooSlow)).map(|hello| hello.aud)
}

async fn greeted<R: AsyncBufRead + Unpin>(reader: &mut R) -> Result<Hello, ChallengeError> {
    let hello = match lines::receive(reader).await? {
        Message::Hello(hello) => hello,
        Message::Refused { reason, next_step } => return Err(ChallengeError::Refused { reason, next_step }),
        _ => return Err(ChallengeError::Malformed("out of turn".into())),
    };
    if hello.v != VERSION {
        return Err(ChallengeError::Version(hello.v));
    }
    Ok(hello)
}

/// The daemon's side. On an error the peer has been told why, and nothing more is to be sent.
/// Both outcomes are on record when it returns; of many refusals of one uid some are only counted.
pub async fn meet<R, W>(
    reader: &mut R,
    writer: &mut W,
    peer: Peer,
    process: Option<&Result<PeerProcess, Strange>>,
    daemon: &AgentKey,
    registry: &Registry,
) -> Result<Visitor, ChallengeError>
where
    R: AsyncBufRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let exchange = async {
        let process =
            match process.map(|process| at_the_disk(|| process.as_ref().map_err(Clone::clone).and_then(known))) {
                None => None,
                Some(Ok(process)) => Some(process),
                Some(Err(strange)) => return refuse(writer, registry, peer, strange.into()).await,
            };
        let hello = Hello { v: VERSION, aud: daemon.public().did(), nonce: nonce()?, daemon_pub: daemon.public() };
        lines::send(writer, &Message::Hello(hello.clone())).await?;
        let proof = match lines::receive(reader).await {
            Ok(Message::Proof(proof)) => proof,
            Ok(Message::Hook(note)) => return Ok(Visitor::Hook(note)),
            Ok(_) => return refuse(writer, registry, peer, not_ours("out of turn")).await,
            Err(ChallengeError::Malformed(what)) => return refuse(writer, registry, peer, not_ours(&what)).await,
            Err(e @ ChallengeError::TooLong) => return refuse(writer, registry, peer, not_ours(&e.to_string())).await,
            Err(ChallengeError::Io(e)) => match Strange::in_error(&e) {
                Some(strange) => return refuse(writer, registry, peer, strange.clone().into()).await,
                None => return Err(e.into()),
            },
            Err(e) => return Err(e),
        };
        let session = nonce()?;
        let admitted = at_the_disk(|| {
            let known = admit(&hello, &proof, peer, registry, Timestamp::now())?;
            process.map_or(Ok(()), PeerProcess::check)?;
            Ok(known)
        });
        match admitted {
            Ok(Known { did, lineage }) => {
                let identity = SessionIdentity {
                    address: proof.agent.clone(),
                    did,
                    session: session.clone(),
                    session_pub: proof.session_pub,
                    peer,
                    since: Timestamp::now(),
                    signs: true,
                    signature: None,
                    witness: None,
                    transport: Transport::Unix,
                    wish: proof.token,
                    lineage,
                    token: None,
                };
                at_the_disk(|| record_welcome(registry, &identity, &Certificate::of(&hello, &proof)))?;
                let sig = daemon.sign(&wire::welcome_text(&hello, &proof, &session));
                lines::send(writer, &Message::Welcome(Welcome { session, sig })).await?;
                Ok(Visitor::Agent(Box::new(identity)))
            }
            Err(refusal) => refuse(writer, registry, peer, Refusal { claimed: Some(proof.agent), ..refusal }).await,
        }
    };
    tokio::time::timeout(DEADLINE, exchange).await.unwrap_or(Err(ChallengeError::TooSlow))
}

/// The connector's side. `expected` is the daemon's key where it is known beforehand.
pub async fn present<R, W>(
    reader: &mut R,
    writer: &mut W,
    agent: &Address,
    key: &dyn KeySource,
    expected: Option<&PublicKey>,
) -> Result<Session, ChallengeError>
where
    R: AsyncBufRead + Unpin,
    W: AsyncWrite + Unpin,
{
    prove_for(reader, writer, agent, key, expected, None, &[]).await
}

/// The same for an agent that acts for another one by this chain of delegations.
pub async fn present_delegated<R, W>(
    reader: &mut R,
    writer: &mut W,
    agent: &Address,
    key: &dyn KeySource,
    expected: Option<&PublicKey>,
    delegation: &[String],
) -> Result<Session, ChallengeError>
where
    R: AsyncBufRead + Unpin,
    W: AsyncWrite + Unpin,
{
    prove_for(reader, writer, agent, key, expected, None, delegation).await
}

async fn prove_for<R, W>(
    reader: &mut R,
    writer: &mut W,
    agent: &Address,
    key: &dyn KeySource,
    expected: Option<&PublicKey>,
    token: Option<TokenWish>,
    delegation: &[String],
) -> Result<Session, ChallengeError>
where
    R: AsyncBufRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let exchange = async {
        let hello = greeted(reader).await?;
        let daemon = hello.daemon_pub;
        if daemon.did() != hello.aud || expected.is_some_and(|expected| *expected != daemon) {
            return Err(ChallengeError::FalseDaemon(expected.unwrap_or(&daemon).did()));
        }
        let session_key = AgentKey::generate()?;
        let exp = Timestamp::now().as_second() + PROOF_LIFETIME.as_secs() as i64;
        let mut proof = wire::unsigned(agent, key, session_key.public(), nonce()?, exp);
        (proof.token, proof.delegation) = (token, delegation.to_vec());
        proof.sig = key.sign(&wire::proof_text(&hello, &proof))?;
        lines::send(writer, &Message::Proof(proof.clone())).await?;
        match lines::receive(reader).await? {
            Message::Welcome(Welcome { session, sig }) => {
                let text = wire::welcome_text(&hello, &proof, &session);
                daemon.verify(&text, &sig).map_err(|_| ChallengeError::FalseDaemon(daemon.did()))?;
                let signer = LineSigner::new(session.clone(), session_key);
                Ok(Session { id: session, agent: agent.clone(), daemon, signer })
            }
            Message::Refused { reason, next_step } => Err(ChallengeError::Refused { reason, next_step }),
            _ => Err(ChallengeError::Malformed("out of turn".into())),
        }
    };
    tokio::time::timeout(DEADLINE, exchange).await.unwrap_or(Err(ChallengeError::TooSlow))
}

/// Why somebody is not let in.
struct Refusal {
    claimed: Option<Address>,
    reason: String,
    next_step: String,
}

impl Refusal {
    fn new(reason: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self { claimed: None, reason: reason.into(), next_step: next_step.into() }
    }
}

fn not_ours(what: &str) -> Refusal {
    Refusal::new(
        format!("this is not Lazaret's connector ({what})"),
        "let your MCP client start `lazaret connect --agent ADDRESS`",
    )
}

impl From<NotActive> for Refusal {
    fn from(refusal: NotActive) -> Self {
        if let NotActive::Registry(e) = &refusal {
            // What is wrong with the state is for the operator, not for a stranger.
            tracing::error!("cannot look up an agent that connects: {e}");
            return Self::new("the registry cannot be read", refusal.next_step());
        }
        Self::new(refusal.to_string(), refusal.next_step())
    }
}

/// What a proof has shown.
struct Known {
    did: String,
    lineage: Lineage,
}

/// The whole judgement on a proof. The order matters: nobody learns
/// anything about an agent before having proven to hold the key that goes with the answer.
fn admit(hello: &Hello, proof: &Proof, peer: Peer, registry: &Registry, now: Timestamp) -> Result<Known, Refusal> {
    let stranger = || Refusal::from(NotActive::Unknown(proof.agent.clone()));
    let key = PublicKey::from_did(&proof.did).map_err(|_| stranger())?;
    key.verify(&wire::proof_text(hello, proof), &proof.sig).map_err(|_| stranger())?;

    let lifetime = (PROOF_LIFETIME + CLOCK_SKEW).as_secs() as i64;
    let skew = CLOCK_SKEW.as_secs() as i64;
    // Saturating: `exp` is the peer's number.
    let left = proof.exp.saturating_sub(now.as_second());
    if left < -skew {
        return Err(Refusal::new(
            "the proof has expired",
            "start the connector again; check that the clock is not being set",
        ));
    }
    if left > lifetime {
        return Err(Refusal::new(
            "the proof is valid for too long",
            "start the connector again; check that the clock is not being set",
        ));
    }
    if proof.nonce.len() < 32 || proof.nonce == hello.nonce {
        return Err(Refusal::new(
            "the proof has no nonce of its own",
            "install the same release of connector and daemon",
        ));
    }
    let revoked = registry.revocation(&key).map_err(NotActive::from)?;
    if let Some(revocation) = revoked.filter(|revocation| revocation.agent_address == proof.agent) {
        return Err(NotActive::RevokedKey { address: proof.agent.clone(), at: revocation.revoked_at }.into());
    }
    let agent = registry.standing_for(&proof.agent, &proof.did, peer.uid)?;
    let lineage = registry.lineage(&agent, &key, &proof.delegation, &hello.aud)?;
    Ok(Known { did: agent.did, lineage })
}

async fn refuse<W: AsyncWrite + Unpin>(
    writer: &mut W,
    registry: &Registry,
    peer: Peer,
    refusal: Refusal,
) -> Result<Visitor, ChallengeError> {
    let Refusal { claimed, reason, next_step } = refusal;
    let detail = json!({ "gate": "challenge", "uid": peer.uid, "pid": peer.pid });
    let mut entry = Entry::new(Kind::Denial, Outcome::Deny, format!("uid:{}", peer.uid)).reason(&reason).detail(detail);
    entry.agent = claimed.map(String::from);
    at_the_disk(|| registry.record_refusal(peer.uid, entry))?;
    // The peer may have gone already; it is refused all the same.
    let _ = lines::send(writer, &Message::Refused { reason: reason.clone(), next_step: next_step.clone() }).await;
    Err(ChallengeError::Refused { reason, next_step })
}

/// The process itself, once it was looked at.
fn known(process: &PeerProcess) -> Result<&PeerProcess, Strange> {
    process.examine().map(|()| process)
}

impl From<Strange> for Refusal {
    fn from(strange: Strange) -> Self {
        Self::new(strange.to_string(), strange.next_step())
    }
}

/// With the certificate, from which anybody can tell later whose key signed the session's calls.
fn record_welcome(
    registry: &Registry,
    identity: &SessionIdentity,
    certificate: &Certificate,
) -> Result<(), AuditError> {
    let detail = json!({
        "did": identity.did,
        "session": identity.session,
        "session_pub": identity.session_pub,
        "uid": identity.peer.uid,
        "pid": identity.peer.pid,
        "certificate": certificate,
        "human": identity.lineage.human,
        "depth": identity.lineage.depth,
        "chain": identity.lineage.hops,
        "capabilities": identity.lineage.capabilities,
    });
    let agent = identity.address.as_str();
    let why = if identity.wish.is_some() { "proved its key for a token" } else { "connected" };
    let entry = Entry::new(Kind::Agent, Outcome::Permit, agent).agent(agent).reason(why).detail(detail);
    registry.audit().record(entry).map(drop)
}

/// Runs what reads and writes the state; where the runtime has several threads, none of its other
/// tasks waits for that.
fn at_the_disk<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// 32 random bytes in hex.
fn nonce() -> Result<String, KeyError> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes).map_err(KeyError::Randomness)?;
    Ok(hex::encode(bytes))
}

/// The fuzz target: one line of a challenge.
#[cfg(any(test, fuzzing))]
pub fn fuzz(line: &[u8]) {
    let Ok(message) = serde_json::from_slice::<Message>(line) else { return };
    let written = serde_json::to_string(&message).expect("a message can be written");
    let again: Message = serde_json::from_str(&written).expect("it reads back");
    assert_eq!(serde_json::to_string(&again).expect("it can be written again"), written);
    let Message::Proof(proof) = message else { return };
    let daemon = super::AgentKey::of_seed([9; 32]).public();
    let hello = Hello { v: 2, aud: daemon.did(), nonce: "a".repeat(64), daemon_pub: daemon };
    let Ok(key) = PublicKey::from_did(&proof.did) else { return };
    let text = wire::proof_text(&hello, &proof);
    // The seed's is a proof for this hello; it serves for no other, and with nothing in it changed.
    if key.verify(&text, &proof.sig).is_ok() {
        let mut other = hello.clone();
        other.nonce.replace_range(..1, "b");
        assert!(key.verify(&wire::proof_text(&other, &proof), &proof.sig).is_err(), "it is no proof for another hello");
        let mut later = proof.clone();
        later.exp ^= 1;
        assert!(key.verify(&wire::proof_text(&hello, &later), &proof.sig).is_err(), "its end is signed");
        let mut nonce = proof.clone();
        nonce.nonce.push('0');
        assert!(key.verify(&wire::proof_text(&hello, &nonce), &proof.sig).is_err(), "its nonce is signed");
    }
}

#[cfg(test)]
mod tests;
