//! Who stands at the other end of one connection.

use std::sync::Arc;

use jiff::Timestamp;

use super::measure::Witness;
use super::signed::{CallSignature, LineSigner, LineVerifier};
use super::{Address, Lineage, Measurement, PublicKey, Strange, TokenWish};
use crate::kernel::tree::Process;

/// The process behind a socket, as the kernel names it (`SO_PEERCRED`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    pub uid: u32,
    pub gid: u32,
    pub pid: Option<i32>,
}

/// How an agent reaches the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transport {
    /// `mcp.sock`, by the connector.
    #[default]
    Unix,
    /// Loopback HTTP, with a token.
    Http,
}

impl Transport {
    /// As policies see it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unix => "unix",
            Self::Http => "http",
        }
    }
}

/// An agent that has proven its key on this connection, or holds a token that was given to one that had. Only
/// [`super::challenge::accept`] and [`super::Tokens`] make one; whether the agent is still active is asked anew at
/// every call.
#[derive(Debug, Clone)]
pub struct SessionIdentity {
    pub(super) address: Address,
    pub(super) did: String,
    pub(super) session: String,
    pub(super) session_pub: PublicKey,
    pub(super) peer: Peer,
    pub(super) since: Timestamp,
    /// Every line comes signed with `session_pub`.
    pub(super) signs: bool,
    /// Of the line that this call came on.
    pub(super) signature: Option<CallSignature>,
    pub(super) witness: Option<Arc<Witness>>,
    pub(super) transport: Transport,
    /// What the proof asked for in place of a session.
    pub(super) wish: Option<TokenWish>,
    pub(super) lineage: Lineage,
    /// Id of the token that each request proves, where it is one.
    pub(super) token: Option<String>,
}

impl SessionIdentity {
    pub fn address(&self) -> &Address {
        &self.address
    }

    pub fn did(&self) -> &str {
        &self.did
    }

    /// Id of the session: random, unique, no secret.
    pub fn session(&self) -> &str {
        &self.session
    }

    /// The key that the session's calls are signed with.
    pub fn session_pub(&self) -> &PublicKey {
        &self.session_pub
    }

    pub fn uid(&self) -> u32 {
        self.peer.uid
    }

    pub fn pid(&self) -> Option<i32> {
        self.peer.pid
    }

    pub fn since(&self) -> Timestamp {
        self.since
    }

    /// What lets the session's lines through; `None` where the transport proves each request by other means.
    pub fn verifier(&self) -> Option<LineVerifier> {
        self.signs.then(|| LineVerifier::new(self.session.clone(), self.session_pub))
    }

    /// The same identity as of one line that it has signed.
    pub fn with_signature(&self, signature: CallSignature) -> Self {
        Self { signature: Some(signature), ..self.clone() }
    }

    pub fn signature(&self) -> Option<&CallSignature> {
        self.signature.as_ref()
    }

    /// Has the client above the connector measured, now and whenever something of it changes.
    pub fn witnessed(mut self, witness: Arc<Witness>) -> Self {
        self.witness = Some(witness);
        self
    }

    /// Whether the call may count as this session's: signed where calls are signed, and the processes behind it are
    /// still those that opened it.
    pub fn genuine(&self) -> Result<(), Strange> {
        if self.signs && self.signature.is_none() {
            return Err(Strange::Unsigned);
        }
        self.witness.as_ref().map_or(Ok(()), |witness| witness.check())
    }

    /// What the agent is made of at this moment; `None` where nobody can tell, as over HTTP. The first one of a
    /// session may take as long as reading the client's executable.
    pub fn measurement(&self) -> Option<Measurement> {
        self.witness.as_ref().map(|witness| Measurement::clone(&witness.now()))
    }

    /// Pid of the client that is measured.
    pub fn client(&self) -> Option<u32> {
        self.witness.as_ref().map(|witness| witness.client())
    }

    /// The same as one process, which a pid alone does not name.
    pub fn client_process(&self) -> Option<Process> {
        self.witness.as_ref().map(|witness| witness.client_process())
    }

    /// Whether this measurement has not been told by [`SessionIdentity::has_told`] yet.
    pub(super) fn is_news(&self, measurement: &Measurement) -> bool {
        self.witness.as_ref().is_some_and(|witness| witness.is_news(measurement))
    }

    pub(super) fn has_told(&self, measurement: &Measurement) {
        if let Some(witness) = &self.witness {
            witness.has_told(measurement);
        }
    }

    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// The token that is to be issued; there is no session then.
    pub fn wish(&self) -> Option<TokenWish> {
        self.wish
    }

    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// For whom it acts, outermost first.
    pub fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    #[cfg(test)]
    pub fn of_uid(mut self, uid: u32, session: &str) -> Self {
        self.peer.uid = uid;
        self.session = session.into();
        self
    }

    #[cfg(test)]
    pub fn for_test(address: &Address, key: &PublicKey) -> Self {
        Self {
            address: address.clone(),
            did: key.did(),
            session: "test".into(),
            session_pub: *key,
            peer: Peer { uid: 1000, gid: 1000, pid: Some(1) },
            since: Timestamp::now(),
            signs: false,
            signature: None,
            witness: None,
            transport: Transport::Unix,
            wish: None,
            lineage: Lineage::top(address, key, None),
            token: None,
        }
    }

    #[cfg(test)]
    pub fn with_lineage(mut self, lineage: Lineage) -> Self {
        self.lineage = lineage;
        self
    }

    /// One whose lines must be signed, and its signer.
    #[cfg(test)]
    pub fn signing_for_test(address: &Address, key: super::AgentKey) -> (Self, LineSigner) {
        let identity = Self { signs: true, ..Self::for_test(address, &key.public()) };
        let signer = LineSigner::new(identity.session.clone(), key);
        (identity, signer)
    }
}

/// The connector's end of the same connection.
#[derive(Debug)]
pub struct Session {
    pub id: String,
    pub agent: Address,
    /// The daemon that proved itself.
    pub daemon: PublicKey,
    /// Signs the lines of this session; its key never leaves the connector's memory.
    pub signer: LineSigner,
}

impl Session {
    pub fn public(&self) -> PublicKey {
        self.signer.public()
    }
}
