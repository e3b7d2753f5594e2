//! A minimal MCP server on stdio that leaves a trace of how far it came.
//!
//! `shadow-server [--started FILE] [--read FILE] [--takes WAY] [--by WAY] [--connect SOCKET --connected FILE]`
//!
//! It makes `--started` first of all, `--read` as soon as it has one byte of stdin, and says in `--connected` how
//! its connect to the UNIX socket went. `--by` chooses how stdin is read: see `reading.rs`; `--takes` where it comes
//! from, if not from whoever started it: see `taking.rs`. It answers `initialize`,
//! `server/discover` and `tools/list`, and ends with its input.

use std::collections::HashMap;
use std::io::Write as _;
use std::os::unix::net::UnixStream;

use lazaret_tests::reading::Input;
use lazaret_tests::taking;
use serde_json::{Value, json};

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let option: HashMap<&str, &str> =
        arguments.chunks_exact(2).map(|pair| (pair[0].as_str(), pair[1].as_str())).collect();
    if let Some(path) = option.get("--started") {
        std::fs::write(path, std::process::id().to_string())?;
    }
    if let (Some(socket), Some(path)) = (option.get("--connect"), option.get("--connected")) {
        let outcome = UnixStream::connect(socket).map_or_else(|e| e.to_string(), |_| "connected".into());
        std::fs::write(path, outcome)?;
    }

    if let Some(way) = option.get("--takes") {
        taking::take(way)?;
    }
    let mut input = Input::by(option.get("--by").copied().unwrap_or("read"));
    let mut pending = Vec::new();
    let mut first = true;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = input.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        if std::mem::take(&mut first)
            && let Some(path) = option.get("--read")
        {
            std::fs::write(path, count.to_string())?;
        }
        // Only what is new is looked at: a long message may come byte by byte.
        let mut searched = pending.len();
        if !input.only_looked() {
            pending.extend_from_slice(&buffer[..count]);
        }
        while let Some(end) = pending[searched..].iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=searched + end).collect();
            searched = 0;
            answer(&line)?;
        }
        // A framed message ends without a newline.
        if pending.ends_with(b"}") && serde_json::from_slice::<Value>(&pending).is_ok() {
            answer(&std::mem::take(&mut pending))?;
        }
    }
}

fn answer(line: &[u8]) -> std::io::Result<()> {
    let Ok(request) = serde_json::from_slice::<Value>(line) else { return Ok(()) };
    let info = json!({"name": "thing", "version": "1.0.0"});
    let result = match request["method"].as_str() {
        Some("initialize") => json!({
            "protocolVersion": request["params"]["protocolVersion"],
            "capabilities": {"tools": {}},
            "serverInfo": info,
        }),
        Some("server/discover") => json!({
            "supportedVersions": ["2026-07-28"],
            "capabilities": {"tools": {}},
            "serverInfo": info,
        }),
        Some("tools/list") => json!({"tools": [{"name": "touch", "inputSchema": {"type": "object"}}]}),
        _ => return Ok(()),
    };
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", json!({"jsonrpc": "2.0", "id": request["id"], "result": result}))?;
    stdout.flush()
}
