//! Layer 2: what may serve tool calls, and what it must look like to do so.
//!
//! Owns servers and their tools ([`Admission`]), the pins that approvals belong to ([`pins`]),
//! reviews ([`review`]), launch definitions ([`launch`]) and the configs of MCP clients
//! ([`clients`], [`watch`], [`install`]). Invariant: nothing is approved but by a person's
//! decision on exactly the digest that the review saw, and a change takes the approval away.

pub mod clients;
pub mod egress;
mod files;
pub mod findings;
pub mod former;
pub mod install;
pub mod launch;
pub mod model;
pub mod offer;
pub mod pins;
pub mod remote;
pub mod review;
mod service;
mod watch;

pub use egress::Egress;
pub use findings::Finding;
pub use model::{
    AdmissionState, Isolation, LaunchDefinition, Mount, Review, Server, Source, Tool, Transition, loads_code,
};
pub use offer::Offer;
pub use remote::{OAuth, OAuthGrant, Reachable, Remote, SecretHeader};
pub use review::ReviewError;
pub use service::{Admission, DeniedPin, valid_name};
pub use watch::{ClientWatch, ConfigChange, Definition, EntryChange, What, Writer, WriterParent};

use crate::audit::AuditError;
use crate::store::StoreError;

#[derive(Debug, thiserror::Error)]
pub enum AdmissionError {
    #[error("cannot deny {0}: no reason was given, and whoever meets it next will ask for one; write it as --why")]
    NoReason(String),
    #[error("cannot find the server {0:?}: no entry has that name; see `lazaret server list`")]
    NoServer(String),
    #[error(
        "cannot find the tool {tool:?} of {server}: the last review did not list it; see `lazaret tool list {server}`"
    )]
    NoTool { server: String, tool: String },
    #[error("cannot add the server {0}: the name is taken; choose another, or `lazaret server remove {0}` first")]
    Taken(String),
    #[error(
        "cannot use {0:?} as a server's name: it must be 1 to 64 of a-z, 0-9, '.', '_' and '-', start with a letter or digit, have no \"__\" and not end in '_'"
    )]
    Name(String),
    #[error("cannot approve {0}: nobody has looked at it yet; run `lazaret server review {0}` and read what it found")]
    NotReviewed(String),
    #[error(
        "cannot approve {server}: it is no longer what was shown (expected {expected}, now {found}); read `lazaret server show {server}` again"
    )]
    PinChanged { server: String, expected: String, found: String },
    #[error(
        "cannot decide on the tool {tool:?} of {server}: it is no longer what was shown (expected {expected}, now {found}); read `lazaret tool show {server}:{tool}` again"
    )]
    ToolChanged { server: String, tool: String, expected: String, found: String },
    #[error(
        "cannot approve {server}: {pin} was denied by {by} ({why}); to reverse that decision, run `lazaret server approve {server} --pin {pin}`"
    )]
    WasDenied { server: String, pin: String, by: String, why: String },
    #[error(
        "cannot quarantine {server}: it is denied, which is stronger; to reverse the denial, approve its pin by name"
    )]
    IsDenied { server: String },
    #[error(
        "cannot compare the reviews of {0}: none was decided on and then replaced by another; see `lazaret server show {0}`"
    )]
    NoFormer(String),
    #[error("cannot record the review of {server}: {what}; the server is at fault, tell its author or deny it")]
    BadListing { server: String, what: String },
    #[error("cannot watch the configs of MCP clients: {0}; see whether the host is out of threads or memory")]
    Watch(std::io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Audit(#[from] AuditError),
}
