//! Servers on stdio that are not MCP: `benign-server lsp` (language server, `Content-Length` frames; also answers
//! as a debug adapter) and `benign-server acp` (Agent Client Protocol or another JSON-RPC, one message per line).
//!
//! Each answers every request once and ends with its input.

use std::io::{BufRead as _, Read as _, Write as _};

use serde_json::{Value, json};

fn main() -> std::io::Result<()> {
    let framed = std::env::args().nth(1).as_deref() == Some("lsp");
    let mut input = std::io::stdin().lock();
    loop {
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut body = line.clone().into_bytes();
        if framed {
            let length = line.trim().strip_prefix("Content-Length: ").and_then(|length| length.parse().ok());
            let Some(length) = length else { continue };
            input.read_line(&mut line)?;
            body = vec![0; length];
            input.read_exact(&mut body)?;
        }
        let request: Value = serde_json::from_slice(&body)?;
        let answer = if request["type"] == "request" {
            json!({"seq": 1, "type": "response", "request_seq": request["seq"], "success": true})
        } else {
            json!({"jsonrpc": "2.0", "id": request["id"], "result": {"capabilities": {}, "protocolVersion": 1}})
        };
        let mut output = std::io::stdout().lock();
        if framed {
            let text = answer.to_string();
            write!(output, "Content-Length: {}\r\n\r\n{text}", text.len())?;
        } else {
            writeln!(output, "{answer}")?;
        }
        output.flush()?;
    }
}
