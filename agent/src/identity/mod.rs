//! Layer 1: who is calling.
//!
//! An agent is an Ed25519 key with an AMP address. Invariant: a [`SessionIdentity`] exists only
//! for a peer that has proven, on this very connection, that it holds the key which is enrolled
//! and active under the address that it claims.

mod actions;
mod address;
mod card;
mod certificate;
pub mod challenge;
pub mod delegation;
pub mod hooks;
mod keys;
pub mod measure;
mod measurement;
mod peer;
mod registry;
mod rotation;
mod session;
pub mod signed;
pub mod source;
mod token;
pub mod vouch;

pub use actions::{Action, ActionError, Actions};
pub use address::{Address, AddressError};
pub use card::{Card, CardError, CardFields, MAX_LIFETIME as MAX_CARD_LIFETIME};
pub use certificate::{Certificate, NotProven, ProvenCall, verify_call};
pub use challenge::ChallengeError;
pub use delegation::{Asserted, Evidence, Lineage};
pub use keys::{AgentKey, KeyError, KeyError as IdentityError, PublicKey, Signature, default_key_path};
pub use measurement::{Drift, Measurement, Part, PartKind};
pub use peer::{PeerProcess, Strange, name_writers, receive};
pub use registry::{
    Agent, AgentState, Amendment, CallLimits, DelegationRevocation, Draft, Enrolment, Measured, NotActive, Registry,
    RegistryError, Revocation, RevocationReason, Step, Vouch, follow_expiry,
};
pub use rotation::{Rotation, RotationError};
pub use session::{Peer, Session, SessionIdentity, Transport};
pub use source::{KeySource, SourceName, SourceNameError, TokenUri};
pub use token::{Bearer, Grant, IssuedToken, TokenLimits, TokenRefused, TokenView, TokenWish, Tokens};
pub use vouch::{VouchDocument, VouchError, Vouched};
