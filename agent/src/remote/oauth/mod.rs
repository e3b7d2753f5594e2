//! OAuth 2.1 as MCP wants it: who guards a server is found out from the server (RFC 9728), the
//! authorization server says where its endpoints are (RFC 8414), a person logs in with PKCE, and the
//! token is made for that one server (RFC 8707).
//!
//! Invariants: each address that a server or its metadata names is judged like the server's own; no
//! credential is sent before that; an issuer is who it says it is, or nothing is taken from it.

pub mod challenge;
mod login;
mod metadata;
mod token;

pub use self::challenge::Challenge;
pub(super) use self::login::secret_in_body;
pub use self::login::{Login, begin, finish};
pub(super) use self::metadata::discover;
pub use self::metadata::{AuthorizationServer, Resource};
pub use self::token::{Client, Tokens};
pub(super) use self::token::{Failed, client_credentials, refresh};

use super::RemoteError;

/// Bytes of one metadata document or token answer.
const LONGEST: usize = 256 << 10;
/// For one request of a login.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

#[derive(Debug, Clone, thiserror::Error)]
pub enum OAuthError {
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error("{server} has no login: its definition names no OAuth; remove it and add it again with --oauth")]
    NotWanted { server: String },
    #[error("{server} wants a login, and nobody is logged in; run `lazaret server login {server}`")]
    NoLogin { server: String },
    #[error("the login at {server} is no longer taken ({why}); run `lazaret server login {server}`")]
    Expired { server: String, why: String },
    #[error("cannot find out how to log in: {0}; ask who runs the server")]
    Metadata(String),
    #[error(
        "the authorization server {issuer} refused: {why}; see what it wants, then run `lazaret server login` again"
    )]
    Refused { issuer: String, why: String },
    #[error("this is not the answer to the login that was begun: {0}; run `lazaret server login` again")]
    NotOurs(&'static str),
    #[error("there is no secret {0} in the definition; add the server again with --secret {0}")]
    NoSecret(String),
    #[error("cannot keep the login: {0}")]
    Store(String),
}

/// What somebody else wrote, fit for a line of text.
fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// The fuzz target of what others answer to a login.
#[cfg(any(test, fuzzing))]
pub fn fuzz(bytes: &[u8]) {
    token::fuzz(bytes);
    metadata::fuzz(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        login::fuzz(text);
    }
}

#[cfg(test)]
mod tests;
