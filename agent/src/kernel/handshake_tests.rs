//! What the kernel takes for an MCP message. The recogniser is shared code (`lazaret_common::mcp`);
//! the kernel runs it on what is written to pipes and UNIX sockets.

use lazaret_common::mcp::{Parser, says};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Feeds `pieces` as separate writes, as the kernel does.
fn is_mcp(pieces: &[&[u8]]) -> bool {
    let mut parser = Parser::NEW;
    for piece in pieces {
        for byte in *piece {
            if parser.take(*byte) {
                break;
            }
        }
        if parser.found() {
            return true;
        }
        if !parser.is_open() {
            parser = Parser::NEW;
        }
    }
    false
}

fn text(text: &str) -> bool {
    is_mcp(&[text.as_bytes()])
}

#[test]
fn every_era_is_recognised() {
    assert!(text(r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2024-11-05"}}"#));
    assert!(text(r#"{"jsonrpc":"2.0","id":1,"method":"server/discover"}"#));
    assert!(text(
        r#"{"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#
    ));
}

#[test]
fn framing_and_order_do_not_matter() {
    let body = r#"{"params":{"clientInfo":{"a":"}{"},"protocolVersion":"2025-11-25"},"method":"initialize"}"#;
    for framed in [
        format!("{body}\n"),
        format!("\u{feff} \r\n\t{body}"),
        format!("Content-Length: {}\r\n\r\n{body}", body.len()),
        format!("[{{\"method\":\"x\"}},{body}]"),
        format!("{{\"method\":\"log\"}}\n{body}"),
        body.replace("protocolVersion", "protocol\\u0056ersion").replace("initialize", "\\u0069nitialize"),
        r#"{"method":"server\/discover"}"#.into(),
        body.replace(':', " : ").replace(',', "\n,"),
    ] {
        assert!(text(&framed), "{framed}");
    }
}

#[test]
fn other_protocols_are_left_alone() {
    for benign in [
        // LSP, DAP, ACP, codex app-server
        "Content-Length: 9\r\n\r\n{\"jsonrpc\":\"2.0\",\"id\":0,\"method\":\"initialize\",\"params\":{\"processId\":1}}",
        r#"{"seq":1,"type":"request","command":"initialize","arguments":{"adapterID":"x"}}"#,
        r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":1}}"#,
        r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"v1-alpha22"}}"#,
        r#"{"id":0,"method":"initialize","params":{"clientInfo":{"name":"x","protocolVersion":"2025-11-25"}}}"#,
        // an answer, a log line that quotes a message, members in the wrong place
        r#"{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-11-25"}}"#,
        r#"{"log":"{\"method\":\"initialize\",\"params\":{\"protocolVersion\":\"2025-11-25\"}}"}"#,
        r#"{"method":"initialize","protocolVersion":"2025-11-25"}"#,
        r#"[{"method":"initialize"},{"params":{"protocolVersion":"2025-11-25"}}]"#,
        r#"{"params":{"method":"server/discover"}}"#,
        "INFO {\"method\":\"server/discover\"}",
    ] {
        assert!(!text(benign), "{benign}");
    }
}

/// The first pass, as the kernel does it.
fn is_suspicious(message: &[u8]) -> bool {
    let padded: Vec<u8> = [0; 2].iter().chain(message).chain(&[0; 32]).copied().collect();
    (0..message.len() + 2).step_by(6).any(|at| says(u64::from_le_bytes(padded[at..at + 8].try_into().unwrap())) != 0)
}

#[test]
fn ordinary_messages_are_not_suspicious() {
    for message in [
        r#"{"jsonrpc":"2.0","id":12,"method":"tools/call","params":{"name":"read_file","arguments":{"path":"/usr/share/doc"}}}"#,
        r#"{"jsonrpc":"2.0","method":"textDocument/didChange","params":{"version":3}}"#,
    ] {
        assert!(!is_suspicious(message.as_bytes()), "{message}");
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec(("[a-z\"\\\\]{1,8}", inner), 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_bytes_are_fatal(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        is_mcp(&[&bytes]);
    }

    #[test]
    fn json_without_the_words_is_never_mcp(value in any_json()) {
        prop_assert!(!text(&value.to_string()));
    }

    #[test]
    fn an_initialize_is_found_between_any_members_and_in_any_pieces(
        before in any_json(),
        inside in any_json(),
        after in any_json(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let message = json!({
            "a": before,
            "params": { "x": inside, "protocolVersion": "2025-06-18", "y": after },
            "id": 1,
            "method": "initialize",
        }).to_string();
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(message.len())).collect();
        at.extend([0, message.len()]);
        at.sort_unstable();
        let pieces: Vec<&[u8]> = at.windows(2).map(|w| &message.as_bytes()[w[0]..w[1]]).collect();
        prop_assert!(is_mcp(&pieces));
        prop_assert!(is_suspicious(message.as_bytes()));
    }

    #[test]
    fn the_first_pass_misses_nothing_at_any_offset(
        before in "[ a-zA-Z\",:{}]{0,40}",
        after in "[ a-z]{0,40}",
        word in prop::sample::select(vec!["protocolVersion", "server/discover", "server\\/discover", "\\u0076"]),
    ) {
        let message = [before.as_str(), word, after.as_str()].concat();
        prop_assert!(is_suspicious(message.as_bytes()));
    }
}
