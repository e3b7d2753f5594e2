//! Delegation: what an agent hands on to a sub-agent with a key of its own.
//!
//! A chain is one compact EdDSA JWS per hop, outermost first, each signed by the key of the agent that
//! grants: `{iss, sub, aud, exp, jti, parent_hash, cap, max_depth}`. Invariant: a [`CheckedChain`] exists only
//! where every hop was signed by the one before, is for this daemon, and grants nothing that the hop
//! before does not. Whether its agents are active and no hop was revoked is the registry's to say, at
//! every call ([`super::Registry::standing_of`]).

mod capability;
mod chain;
mod jws;
mod lineage;

pub use capability::{Capabilities, Capability, CapabilityError, MAX_CAPABILITIES};
pub(super) use chain::at as time;
pub use chain::{ChainError, CheckedChain, CheckedHop, MAX_CHAIN, MAX_HOPS, Terms, check, extend, read_lines};
pub use jws::{Claims, JwsError, MAX_JWS, parse};
pub use lineage::{Asserted, Evidence, Hop, Lineage};

#[cfg(test)]
mod tests;
