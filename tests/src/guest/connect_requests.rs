//! HTTP requests that a process may send to a server on this machine: MCP, and what only looks like it.

use crate::messages::message;

/// What the way `late` tells, and waits for.
pub const LATE_CONNECTED: &str = "/tmp/late.connected";
pub const LATE_GO: &str = "/tmp/late.go";

/// Head and body of the request `name`.
pub fn request(name: &str) -> Option<(String, Vec<u8>)> {
    let post = |headers: &str, body: Vec<u8>| {
        let head = format!(
            "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{headers}Content-Length: {}\r\n\r\n",
            body.len()
        );
        Some((head, body))
    };
    match name {
        "session" => post("mcp-session-id: 1868a90c\r\n", br#"{"jsonrpc":"2.0","id":2,"method":"ping"}"#.to_vec()),
        "version" => {
            post("MCP-Protocol-Version: 2025-11-25\r\n", br#"{"jsonrpc":"2.0","id":2,"method":"ping"}"#.to_vec())
        }
        "rest" => post("X-Session-Id: 7\r\n", br#"{"name":"mcp","protocolVersion":"2025-11-25"}"#.to_vec()),
        "ethereum" => post("", br#"{"jsonrpc":"2.0","id":1,"method":"eth_blockNumber","params":[]}"#.to_vec()),
        "quoted" => post("", br#"{"log":"POST /mcp HTTP/1.1\r\nMcp-Session-Id: 1\r\n\r\n"}"#.to_vec()),
        "get" => {
            Some(("GET /?mcp-session-id:1 HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\n\r\n".into(), Vec::new()))
        }
        _ => post("", message(name)?),
    }
}
