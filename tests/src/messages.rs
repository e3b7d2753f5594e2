//! Opening messages, as the helper programs send them: MCP in the shapes that must be recognised, and its
//! neighbours that must be left alone.

/// Names and texts. The text is what goes onto the wire, framing included.
pub fn message(name: &str) -> Option<Vec<u8>> {
    let line = match name {
        "initialize" => INITIALIZE.into(),
        "initialize-reordered" => INITIALIZE_REORDERED.into(),
        "initialize-string-id" => INITIALIZE.replace(r#""id":0"#, r#""id":"a-1""#),
        "initialize-spaced" => format!(" \t{}", INITIALIZE.replace(':', " : ").replace(',', " ,\t")),
        "initialize-escaped" => {
            INITIALIZE.replace("\"method\"", "\"m\\u0065thod\"").replace("protocolVersion", "protocol\\u0056ersion")
        }
        // The version lies behind more text than one page of a pipe holds.
        "initialize-long" => {
            let padding = format!(r#""capabilities":{{"experimental":{{"x":"{}"}}}}"#, "y".repeat(20_000));
            INITIALIZE_REORDERED.replace(r#""capabilities":{}"#, &padding)
        }
        "initialize-second" => format!("{NOTIFICATION}\n{INITIALIZE}"),
        "initialize-framed" => return Some(framed(INITIALIZE)),
        "initialize-after-a-line" => format!("hello\n{INITIALIZE}"),
        // More than a pipe holds, and more than any reader takes at once.
        "initialize-after-text" => format!("{}{INITIALIZE}", "all work and no play {} [1]\n".repeat(6_000)),
        "initialize-late" => INITIALIZE.replace("\"protocolVersion\"", &padded(1_200_000, "protocolVersion")),
        "discover-late" => DISCOVER.replace("\"_meta\"", &padded(200_000, "_meta")),
        "initialize-marked" => format!("\u{feff}\r\n{INITIALIZE}\r"),
        "initialize-all-escaped" => INITIALIZE
            .replace("initialize", "in\\u0069tialize")
            .replace("2025-11-25", "2025\\u002D11\\u002d25")
            .replace("params", "\\u0070aram\\u0073"),
        "initialize-twice-named" => INITIALIZE.replace("\"method\"", r#""method":"x","method""#),
        "initialize-batch" => format!("[[{NOTIFICATION}],[[{INITIALIZE}]]]"),
        "initialize-odd-headers" => {
            return Some(
                format!("X-First: {{\ncontent-LENGTH:{}\nx-other: [\n\n{INITIALIZE}", INITIALIZE.len()).into_bytes(),
            );
        }
        "discover" => DISCOVER.into(),
        "tools-list-2026" => TOOLS_LIST_2026.into(),
        "acp" => ACP.into(),
        "codex" => CODEX.into(),
        // Text about MCP, and then something that is answered.
        "quotes" => {
            let quoted = format!("{{\"level\":\"info\",\"message\":{INITIALIZE:?}}}");
            let wrapped = format!("{{\"direction\":\"out\",\"message\":{INITIALIZE}}}");
            let answer = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"structuredContent":{INITIALIZE}}}}}"#);
            [&quoted, &wrapped, &answer, ACP].join("\n")
        }
        "documentation" => format!("# The handshake\n\n```json\n{INITIALIZE}\n{DISCOVER}\n```\n\nThat is all.\n{ACP}"),
        "log" => format!("2026-11-21 -> {INITIALIZE}\n2026-11-21 -> {DISCOVER}\n{ACP}"),
        "lsp" => return Some(framed(LSP)),
        "dap" => return Some(framed(DAP)),
        _ => return None,
    };
    Some(format!("{line}\n").into_bytes())
}

/// So much before the member whose name stood there.
fn padded(length: usize, member: &str) -> String {
    format!(r#""padding":"{}","{member}""#, "y".repeat(length))
}

fn framed(body: &str) -> Vec<u8> {
    format!("Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"test","version":"1"}}}"#;
const INITIALIZE_REORDERED: &str = r#"{"params":{"clientInfo":{"version":"1","name":"test"},"capabilities":{},"protocolVersion":"2025-06-18"},"method":"initialize","id":7,"jsonrpc":"2.0"}"#;
const NOTIFICATION: &str = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":9}}"#;
const DISCOVER: &str = r#"{"jsonrpc":"2.0","id":1,"method":"server/discover","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"test","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}}}"#;
const TOOLS_LIST_2026: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"test","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}}}"#;
const ACP: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":1,"clientCapabilities":{"fs":{"readTextFile":true,"writeTextFile":true}}}}"#;
const CODEX: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"clientInfo":{"name":"codex_vscode","title":"Codex","version":"0.1.0"}}}"#;
const LSP: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"processId":1,"rootUri":null,"clientInfo":{"name":"editor","version":"1"},"capabilities":{"textDocument":{"synchronization":{"didSave":true}}}}}"#;
const DAP: &str = r#"{"seq":1,"type":"request","command":"initialize","arguments":{"clientID":"editor","adapterID":"x","linesStartAt1":true}}"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_message_is_json_and_says_what_its_name_says() {
        for name in [
            "initialize",
            "initialize-reordered",
            "initialize-string-id",
            "initialize-spaced",
            "initialize-escaped",
            "initialize-long",
        ] {
            let value: serde_json::Value = serde_json::from_slice(&message(name).unwrap()).unwrap();
            assert_eq!(value["method"], "initialize", "{name}");
            assert!(value["params"]["protocolVersion"].is_string(), "{name}");
        }
        for name in ["discover", "tools-list-2026", "acp", "codex"] {
            serde_json::from_slice::<serde_json::Value>(&message(name).unwrap()).unwrap();
        }
        for name in ["initialize-framed", "lsp", "dap"] {
            assert!(message(name).unwrap().starts_with(b"Content-Length: "), "{name}");
        }
        assert_eq!(message("no such"), None);
    }
}
