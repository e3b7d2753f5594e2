//! The protocol revisions that the door speaks, and how it names itself in them.

use super::json::Json;

/// Reached by `initialize`, oldest first.
pub const HANDSHAKE: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", LATEST_HANDSHAKE];
pub const LATEST_HANDSHAKE: &str = "2025-11-25";
/// Named by every request in its `_meta`.
pub const STATELESS: [&str; 1] = ["2026-07-28"];

pub const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
pub const META_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
pub const META_CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
pub const META_SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";
/// 2026-07-28: from which severity on the request wants to hear log messages.
pub const META_LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
pub const META_SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";
/// On a call that was refused because of a rate limit: which one, and when to come again.
pub const META_RATE_LIMIT: &str = "lazaret/rateLimit";
/// On a list of resources: servers that could not be asked.
pub const META_UNLISTED: &str = "lazaret/unlisted";
/// Keys below this belong to one hop and are not passed on.
pub const META_RESERVED: &str = "io.modelcontextprotocol/";

/// `Implementation` of the specification.
pub fn implementation() -> Json {
    Json::object([
        ("name", Json::string("lazaret")),
        ("title", Json::string("Lazaret")),
        ("version", Json::string(env!("CARGO_PKG_VERSION"))),
    ])
}

/// What each request of the stateless era says of itself. Nothing is offered to the server.
pub fn request_meta() -> Json {
    Json::object(request_members())
}

pub fn request_members() -> [(&'static str, Json); 3] {
    [
        (META_VERSION, Json::string(STATELESS[0])),
        (META_CAPABILITIES, Json::object::<&str>([])),
        (META_CLIENT_INFO, implementation()),
    ]
}
