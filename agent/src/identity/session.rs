//! Who stands at the other end of one connection.

use jiff::Timestamp;

use super::{Address, AgentKey, PublicKey};

/// The process behind a socket, as the kernel names it (`SO_PEERCRED`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    pub uid: u32,
    pub gid: u32,
    pub pid: Option<i32>,
}

/// An agent that has proven its key on this connection. Only [`super::challenge::accept`] makes
/// one; whether the agent is still active is asked anew at every call.
#[derive(Debug, Clone)]
pub struct SessionIdentity {
    pub(super) address: Address,
    pub(super) did: String,
    pub(super) session: String,
    pub(super) session_pub: PublicKey,
    pub(super) peer: Peer,
    pub(super) since: Timestamp,
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

    #[cfg(test)]
    pub fn for_test(address: &Address, key: &PublicKey) -> Self {
        Self {
            address: address.clone(),
            did: key.did(),
            session: "test".into(),
            session_pub: *key,
            peer: Peer { uid: 1000, gid: 1000, pid: Some(1) },
            since: Timestamp::now(),
        }
    }
}

/// The connector's end of the same connection.
#[derive(Debug)]
pub struct Session {
    pub id: String,
    pub agent: Address,
    /// The daemon that proved itself.
    pub daemon: PublicKey,
    /// Signs the calls of this session; it never leaves the connector's memory.
    pub key: AgentKey,
}
