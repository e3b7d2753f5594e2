//! What counts as MCP over HTTP, and what must not.

use lazaret_common::http::Http;
use proptest::prelude::*;

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25"}}"#;

/// Each piece is one write, as the kernel feeds it: what stops, stops for that write.
fn is_mcp(pieces: &[&[u8]]) -> bool {
    let mut http = Http::NEW;
    for piece in pieces {
        if !http.is_open() {
            http = Http::NEW;
        }
        for byte in *piece {
            if http.take(*byte) {
                break;
            }
        }
        if http.found() {
            return true;
        }
    }
    false
}

fn text(request: &str) -> bool {
    is_mcp(&[request.as_bytes()])
}

fn post(headers: &str, body: &str) -> String {
    format!("POST /mcp HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn mcp_headers_and_bodies_convict() {
    assert!(text(&post("Mcp-Session-Id: 1\r\n", "{}")));
    assert!(text(&post("mcp-protocol-version: 2025-11-25\r\n", "{}")));
    assert!(text(&post("", INITIALIZE)));
    assert!(text("DELETE /mcp HTTP/1.1\r\nMCP-SESSION-ID: 1\r\n\r\n"));
    assert!(text(&format!(
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{INITIALIZE}\r\n0\r\n\r\n",
        INITIALIZE.len()
    )));
    assert!(text(INITIALIZE), "bare JSON over TCP");
}

#[test]
fn pieces_and_later_requests_convict() {
    let request = post("", INITIALIZE);
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let head = format!("{head}\r\n\r\n");
    assert!(is_mcp(&[head.as_bytes(), body.as_bytes()]));
    let bytes: Vec<&[u8]> = request.as_bytes().chunks(1).collect();
    assert!(is_mcp(&bytes));
    let first = post("", r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#);
    assert!(is_mcp(&[first.as_bytes(), request.as_bytes()]));
    assert!(text(&format!("{first}{request}")), "pipelined");
}

#[test]
fn other_http_is_left_alone() {
    for benign in [
        &post("", r#"{"jsonrpc":"2.0","id":1,"method":"eth_blockNumber","params":[]}"#),
        &post("X-Mcp-Session-Id: 1\r\nSession-Id: mcp-session-id\r\n", r#"{"protocolVersion":"2025-11-25"}"#),
        &post("", r#"{"log":"POST / HTTP/1.1\r\nMcp-Session-Id: 1\r\n\r\n"}"#),
        &post("", "name=mcp&body={\"method\":\"server/discover\"}"),
        "OPTIONS /mcp HTTP/1.1\r\nAccess-Control-Request-Headers: mcp-session-id\r\n\r\n",
        "GET /?mcp-session-id:1 HTTP/1.1\r\n\r\n",
        "POST /x SMTP/1.1\r\nMcp-Session-Id: 1\r\n\r\n",
        "EHLO localhost\r\nMcp-Session-Id: 1\r\n",
        "HTTP/1.1 200 OK\r\nMcp-Session-Id: 1\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{0}Mcp-Session-Id: 1",
    ] {
        assert!(!text(benign), "{benign}");
    }
}

proptest! {
    #[test]
    fn no_bytes_are_fatal(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        is_mcp(&[&bytes]);
    }

    #[test]
    fn how_a_request_is_cut_does_not_matter(cuts in prop::collection::vec(1usize..40, 1..20)) {
        let request = post("Accept: text/event-stream\r\n", INITIALIZE);
        let mut rest = request.as_bytes();
        let mut pieces = Vec::new();
        for cut in cuts {
            let (piece, behind) = rest.split_at(cut.min(rest.len()));
            pieces.push(piece);
            rest = behind;
        }
        pieces.push(rest);
        prop_assert!(is_mcp(&pieces));
    }

    #[test]
    fn a_header_of_any_other_name_is_left_alone(name in "[A-Za-z-]{1,24}") {
        prop_assume!(!["mcp-session-id", "mcp-protocol-version"].contains(&name.to_ascii_lowercase().as_str()));
        let request = post(&format!("{name}: 1\r\n"), "{}");
        prop_assert!(!text(&request));
    }
}
