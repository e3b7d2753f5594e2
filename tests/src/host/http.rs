//! Requests to a house's door over HTTP, as this process sends them.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use super::{House, PATIENCE};

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}"#;

/// One session of a token.
pub struct HttpSession {
    address: String,
    headers: String,
}

impl HttpSession {
    /// `None` where the token is not taken; then its answer.
    pub fn open(house: &House, token: &str) -> Result<Self, String> {
        let url = house.json(&["status", "--json"])["http_url"].as_str().expect("HTTP is served").to_owned();
        let address = url.trim_start_matches("http://").trim_end_matches("/mcp").to_owned();
        let mut session = Self { address, headers: format!("Authorization: Bearer {token}\r\n") };
        let began = session.post(INITIALIZE);
        let id = began.lines().find(|line| line.to_lowercase().starts_with("mcp-session-id:"));
        let id = id.ok_or_else(|| began.clone())?;
        session.headers.push_str(&format!("{}\r\n", id.trim()));
        Ok(session)
    }

    /// One request; the answer as it came.
    pub fn post(&self, body: &str) -> String {
        let Self { address, headers } = self;
        let mut stream = TcpStream::connect(address).expect("the door listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket has a timeout");
        let request = format!(
            "POST /mcp HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Accept: application/json, text/event-stream\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).expect("the door reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the door answers");
        answer
    }

    /// Calls a tool of a server behind the door.
    pub fn call_through(&self, server: &str, tool: &str) -> String {
        self.post(&format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"call_tool","arguments":{{"server":"{server}","tool":"{tool}"}}}}}}"#
        ))
    }
}
