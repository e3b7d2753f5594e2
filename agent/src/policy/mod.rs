//! Layer 3, first half: may this agent make this call, with these arguments, now?
//!
//! Invariant: the only way to a [`ForwardPermit`] is [`Gates::admit`], through every gate in order
//! (`ARCHITECTURE.md`): registration, routing, rate, revocation, policy, intent. What a gate cannot
//! decide it refuses, and each refusal is one audit record.

mod caller;
pub mod derive;
mod engine;
mod gates;
mod load;
mod permits;
mod rate;

pub use engine::{Description, Engine, Facts, Grounds, PolicySource, Refusal};
pub use gates::Gates;
pub use load::{PolicyError, PolicyFault};
pub use permits::{Denied, ForwardPermit};
pub use rate::{RateUse, Whose};
