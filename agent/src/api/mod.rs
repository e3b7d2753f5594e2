//! How operators reach the daemon: HTTP with JSON over `admin.sock`.
//!
//! [`server`] is the daemon's side, [`client`] the CLI's, [`types`] what goes between them.
//! Invariant: nobody but root, the daemon's own user and the members of the group `lazaret` gets
//! anything but a refusal, and the decision is made on the peer's credentials ([`peer`]), not on
//! the mode of the socket file.

pub mod client;
pub mod peer;
mod routes;
pub mod server;
mod socket;
pub mod types;
pub mod users;

pub use server::{ApiError, serve};
