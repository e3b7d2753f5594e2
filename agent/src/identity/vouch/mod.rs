//! A human's word for an agent: an SSH signature over its key, what it is made of, what it may do
//! and until when.
//!
//! Invariant: a vouch counts only while the signature verifies with a key that `allowed_signers`
//! names at this moment, for this namespace, and the document is about the key that the agent has.

mod certificate;
mod document;
mod signers;
mod sshsig;
#[cfg(test)]
pub(crate) mod testing;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use document::VouchDocument;
pub use signers::{SignerFile, Signers, SignersError};
pub use sshsig::{NAMESPACE, Signed, verify};

use super::Measurement;

#[derive(Debug, thiserror::Error)]
pub enum VouchError {
    #[error("cannot read the vouch document: {0}; print it anew with `lazaret agent vouch ADDRESS --print`")]
    Document(String),
    #[error("cannot take this vouch: {what}; print the document anew with `lazaret agent vouch ADDRESS --print`")]
    Stale { what: String },
    #[error(
        "cannot read the signature: it is no armoured SSH signature ({0}); make one with `ssh-keygen -Y sign -n {NAMESPACE} -f KEY FILE`"
    )]
    Armour(String),
    #[error(
        "cannot take the signature: it is for the namespace {0:?}; make it with `ssh-keygen -Y sign -n {NAMESPACE}`"
    )]
    Namespace(String),
    #[error(
        "cannot take the signature: {0} keys are not supported; use an ed25519, rsa, ecdsa (256 or 384 bits) or sk- key"
    )]
    Algorithm(String),
    #[error("cannot take the signature: it does not fit the document; sign exactly the bytes that --print gave")]
    Mismatch,
    #[error(
        "cannot take the signature: nobody touched the security key when it was made; sign again without no-touch-required"
    )]
    NoTouch,
    #[error("cannot take the signature of the key {key}: {why}")]
    Signer { key: String, why: String },
    #[error(transparent)]
    Signers(#[from] SignersError),
}

/// A vouch as it is kept: all that is needed to verify it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vouched {
    pub document: VouchDocument,
    /// What `document.measurement` is the digest of.
    pub measurement: Option<Measurement>,
    /// Armoured SSHSIG over the document's canonical text.
    pub signature: String,
    /// Principals that `allowed_signers` gave the key when the vouch was taken.
    pub by: String,
    /// The signing key, as `ssh-keygen -l` names it.
    pub signing_key: String,
    pub algorithm: String,
    pub at: Timestamp,
    /// Which operator handed it in.
    pub taken_from: String,
    #[serde(default)]
    pub revoked: Option<Withdrawn>,
}

/// A vouch that was taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdrawn {
    pub at: Timestamp,
    pub by: String,
    pub why: String,
}
