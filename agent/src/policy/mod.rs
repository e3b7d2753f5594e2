//! Layer 3, first half: may this agent make this call, with these arguments, now?
//!
//! Invariant: the only way to a [`ForwardPermit`] is [`Gates::admit`], through every gate in order
//! (`ARCHITECTURE.md`): registration, routing, rate, revocation, policy, intent. What a gate cannot
//! decide it refuses, and each refusal is one audit record.

pub mod asks;
mod caller;
pub mod cases;
pub mod derive;
mod engine;
mod gates;
pub mod input;
mod load;
mod permits;
mod rate;

pub use asks::{AskError, AskView, Asks, GrantView, HumanApproval};
pub use engine::{Description, Engine, Explanation, Facts, Grounds, Near, PolicySource, Refusal, Ruling};
pub use gates::{Admitted, Gates, Waited};
pub use load::{PolicyError, PolicyFault, try_text};
pub use permits::{Asking, Denied, ForwardPermit};
pub use rate::{RateUse, Whose};
