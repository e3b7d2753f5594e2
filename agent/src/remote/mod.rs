//! The ways to servers that somebody else runs: names, addresses, TLS, HTTP, and logins.
//!
//! Invariants: the address that was judged is the one that is connected to; a credential goes to
//! the origin of its definition and to no other, and a token to nobody but the server that it was
//! made for; every answer is bounded in size and time. MCP itself is not known here.

mod address;
mod credentials;
mod headers;
mod http;
pub mod oauth;
pub mod sse;
#[cfg(test)]
pub(crate) mod testing;
mod tls;

use std::sync::Arc;

pub use self::address::Lookup;
pub use self::credentials::{Bearer, Credentials, LoginView};
pub use self::headers::{retry_after, secret_headers};
pub use self::http::{Ask, Http, body, is_type};
use crate::admission::Remote;

#[derive(Debug, Clone, thiserror::Error)]
pub enum RemoteError {
    #[error("cannot reach {host}: {why}")]
    Address { host: String, why: String },
    #[error("cannot reach {host}: {cause}; see whether it runs and whether this host may connect to it")]
    Connect { host: String, cause: String },
    #[error("cannot trust {host}: {cause}; see its certificate, and the certificate authorities of this host")]
    Tls { host: String, cause: String },
    #[error(
        "{from} sends its callers on to {to}, which is another origin; it was not followed. Name that URL if it is meant"
    )]
    Redirect { from: String, to: String },
    #[error("the connection to {host} broke: {cause}")]
    Broken { host: String, cause: String, sent: bool },
    #[error("{host} sent more than {limit} bytes")]
    TooLong { host: String, limit: usize },
    #[error("{host} did not answer within {secs} s")]
    Timeout { host: String, secs: u64 },
    #[error("cannot use the header {name}: {why}")]
    Header { name: String, why: String },
}

impl RemoteError {
    /// Whether the other side may have got the request.
    pub fn was_sent(&self) -> bool {
        match self {
            Self::Broken { sent, .. } => *sent,
            Self::TooLong { .. } | Self::Timeout { .. } => true,
            _ => false,
        }
    }
}

/// What all remote servers of a daemon share.
pub struct Remotes {
    lookup: Lookup,
    tls: tls::Trust,
    pub credentials: Credentials,
}

impl Remotes {
    pub fn new(store: Arc<crate::store::Store>) -> Self {
        Self { lookup: address::system(), tls: tls::Trust::system(), credentials: Credentials::new(store) }
    }

    /// A way to what this definition names, and to whatever that may name in turn.
    pub fn http(&self, remote: &Remote) -> Http {
        Http::new(remote.reachable(), self.lookup.clone(), self.tls.clone())
    }
}

/// How many certificate authorities of this host there are, or why none are.
pub fn trusted_authorities() -> Result<usize, String> {
    tls::Trust::system().count()
}
