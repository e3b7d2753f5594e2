//! The door: MCP on the way in (connectors), on the way out (cages), and everything between.
//!
//! ```text
//! connector -- mcp.sock -- listener: challenge -- session -- forward: gates -- hub -- upstream -- cage
//! HTTP client -- loopback -- http: token ---------/
//! ```
//!
//! Nothing else in the house knows MCP's framing. Invariants: what is forwarded is the very value
//! that was judged, numbers, order, escapes and unknown members included; the only way to a
//! server's tool is [`forward`], and it starts at the gates.

pub mod connector;
pub mod door;
pub mod envelope;
mod forward;
pub mod framing;
pub mod http;
pub mod hub;
pub mod json;
pub mod listener;
pub mod mirrored;
mod one_writer;
pub mod session;
mod surroundings;
#[cfg(test)]
mod testing;
pub mod upstream;
pub mod versions;

pub use connector::ConnectError;
pub use hub::{ContainerLog, Hub, HubError};
pub use listener::{ListenError, bind, serve};
pub use upstream::{RemoteLink, Upstream, UpstreamError, UpstreamLimits};
