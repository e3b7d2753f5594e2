//! What every layer decided, in the order in which it was decided.
//!
//! Invariant: a decision whose record an end of the daemon could take away was not taken. Whoever gets an
//! [`AuditError`] from [`AuditLog::record`] denies. What a power cut can take is [`crate::config::AuditSync`]'s to say.

mod call;
mod flood;
mod log;
mod orphans;
mod record;

pub use call::{CallView, End, Right, Signed, Who};
pub use flood::Flood;
pub use log::{AuditError, AuditLog};
pub use orphans::close_orphans;
pub use record::{Entry, Kind, Outcome, Record};
