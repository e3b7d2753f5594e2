//! What the kernel takes for an MCP message. The recogniser is shared code (`lazaret_common::mcp`);
//! the kernel runs it on what goes through pipes, UNIX sockets and terminals.

use lazaret_common::mcp::Parser;
use lazaret_common::sift::{confirms, ends_run, first, may_say, says, starts};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// Feeds `pieces` as separate writes, as the kernel does.
fn is_mcp(pieces: &[&[u8]]) -> bool {
    let mut parser = Parser::NEW;
    for piece in pieces {
        for byte in *piece {
            if parser.take(*byte) {
                break;
            }
        }
        if parser.found_at_end() {
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

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2024-11-05"}}"#;
const DISCOVER: &str = r#"{"jsonrpc":"2.0","id":1,"method":"server/discover"}"#;
const LIST: &str =
    r#"{"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;

#[test]
fn every_era_is_recognised() {
    for message in [INITIALIZE, DISCOVER, LIST] {
        assert!(text(message), "{message}");
    }
}

#[test]
fn framing_and_order_do_not_matter() {
    let body = r#"{"params":{"clientInfo":{"a":"}{"},"protocolVersion":"2025-11-25"},"method":"initialize"}"#;
    for framed in [
        format!("{body}\n"),
        format!("{body}\r\n"),
        format!("\u{feff} \r\n\t{body}"),
        format!("\0{body}\0"),
        format!("\u{1e}{body}\n"),
        format!("Content-Length: {}\r\n\r\n{body}", body.len()),
        format!("content-LENGTH:{}\nContent-Type: application/json\nX-Other: {{\n\n{body}", body.len()),
        format!("Content-Length: 2\r\n\r\n{{}}Content-Length: {}\r\n\r\n{body}", body.len()),
        format!("[{{\"method\":\"x\"}},{body}]"),
        format!("[[], [{{\"method\":\"x\"}},[[{body}]]]]"),
        format!("{{\"method\":\"log\"}}\n{body}"),
        format!("{{\"method\":\"log\"}}{body}"),
        body.replace("protocolVersion", "protocol\\u0056ersion").replace("initialize", "\\u0069nitialize"),
        body.replace("initialize", "\\u0069\\u006E\\u0069\\u0074\\u0069\\u0061\\u006C\\u0069\\u007A\\u0065"),
        body.replace("2025-11-25", "2025\\u002d11\\u002d25"),
        r#"{"method":"server\/discover"}"#.into(),
        r#"{"method":"nothing","method":"server/discover"}"#.into(),
        r#"{"method":"server/discover","method":"nothing"}"#.into(),
        body.replace(':', " : ").replace(',', "\n,"),
        body.replace("\"method\"", &format!("\"x\":\"{}\",\"method\"", "y".repeat(200_000))),
        body.replace("\"method\"", &format!("\"x\":{}{},\"method\"", "[".repeat(300), "]".repeat(300))),
    ] {
        assert!(text(&framed), "{}", &framed[..framed.len().min(400)]);
    }
}

#[test]
fn other_lines_before_a_message_do_not_hide_it() {
    for message in [INITIALIZE, DISCOVER, LIST] {
        for before in ["hello\n", "a\nb\r\nc\n", "{not json}\n", "{\"cut off\n", "[INFO] start\n", "\u{1}\n", "Cx\n \t"]
        {
            assert!(text(&format!("{before}{message}\n")), "{before}{message}");
            assert!(text(&format!("{before}{message}\n{{\"method\":\"notifications/initialized\"}}\n")));
            assert!(is_mcp(&[before.as_bytes(), message.as_bytes()]), "{before}{message}");
        }
    }
}

#[test]
fn a_message_that_documentation_quotes_is_none() {
    for message in [INITIALIZE, DISCOVER, LIST] {
        for quoted in [
            format!("# Protocol\n\n```json\n{message}\n```\n"),
            format!("The client says:\n{message}\nand the server answers.\n"),
            format!("int main() {{\n  puts(R\"(\n{message}\n)\");\n}}\n"),
            format!("2026-11-21 client -> server {message}\n"),
            format!("\"{message}\"\n"),
            format!("// {message}\n"),
            format!("data: {message}\n\n"),
            format!("event: message\ndata: {message}\n\n"),
            format!("$ echo '{message}' | server\n"),
            format!("GET / HTTP/1.1\nHost: x\n\n{message}\nend"),
        ] {
            assert!(!text(&quoted), "{quoted}");
        }
    }
    // As a file that is written for people has it, over several lines.
    let pretty = "Example:\n{\n  \"method\": \"server/discover\",\n  \"id\": 1\n}\n";
    assert!(!text(pretty));
}

#[test]
fn other_protocols_are_left_alone() {
    for benign in [
        // LSP, DAP, BSP, ACP, codex app-server
        "Content-Length: 9\r\n\r\n{\"jsonrpc\":\"2.0\",\"id\":0,\"method\":\"initialize\",\"params\":{\"processId\":1}}",
        r#"{"seq":1,"type":"request","command":"initialize","arguments":{"adapterID":"x"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"build/initialize","params":{"bspVersion":"2.1.0","version":"2024-11-05"}}"#,
        r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":1}}"#,
        r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"v1-alpha22"}}"#,
        r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"1.0.0"}}"#,
        r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"version":"2025-11-25"}}"#,
        r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":["protocolVersion","2025-11-25"]}"#,
        r#"{"jsonrpc":"2.0","id":0,"method":"initialized","params":{"protocolVersion":"2025-11-25"}}"#,
        r#"{"id":0,"method":"initialize","params":{"clientInfo":{"name":"x","protocolVersion":"2025-11-25"}}}"#,
        // an answer, text that quotes a message, members in the wrong place
        r#"{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-11-25"}}"#,
        r#"{"jsonrpc":"2.0","id":0,"result":{"method":"initialize","params":{"protocolVersion":"2025-11-25"}}}"#,
        r#"{"jsonrpc":"2.0","id":0,"result":{"content":[{"type":"text","text":"{\"method\":\"server/discover\"}"}]}}"#,
        r#"{"log":"{\"method\":\"initialize\",\"params\":{\"protocolVersion\":\"2025-11-25\"}}"}"#,
        r#"{"log":"x\n{\"method\":\"server/discover\"}\n"}"#,
        r#"{"ts":1,"message":{"method":"server/discover"}}"#,
        r#"[{"ts":1,"message":[{"method":"server/discover"}]}]"#,
        r#"{"method":"initialize","protocolVersion":"2025-11-25"}"#,
        r#"[{"method":"initialize"},{"params":{"protocolVersion":"2025-11-25"}}]"#,
        r#"{"params":{"method":"server/discover"}}"#,
        r#"{"method":["server/discover"]}"#,
        r#"{"server/discover":"method"}"#,
        r#"{"params":{"_meta":{"io.modelcontextprotocol/protocolVersion":2026}}}"#,
        r#"{"params":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}"#,
        r#"{"params":{"arguments":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}}"#,
        r#"{"result":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#,
        // no JSON
        "INFO {\"method\":\"server/discover\"}",
        "{method:\"server/discover\"}",
        "{\"a\" \"method\":\"server/discover\"}",
        "{\"a\":1 \"method\":\"server/discover\"}",
        "{,\"method\":\"server/discover\"}",
        "(\"method\":\"server/discover\"}",
        "[\"method\":\"server/discover\"]",
        "{\"a\":\"x\ny\",\"method\":\"server/discover\"}",
        "{\"a\":\"\\x\",\"method\":\"server/discover\"}",
        "{\"a\":#,\"method\":\"server/discover\"}",
    ] {
        assert!(!text(benign), "{benign}");
        assert!(!text(&format!("{benign}\n{benign}\n")), "{benign}");
        let bytes: Vec<&[u8]> = benign.as_bytes().chunks(7).collect();
        assert!(!is_mcp(&bytes[..1]), "{benign}");
    }
}

#[test]
fn what_is_not_closed_has_no_effect_on_the_next_line() {
    for junk in ["{\"a\":\"", "[[[[", "{\"x\":{", "{\"a\":1,\"b"] {
        // In the same write, and by the same writer.
        assert!(text(&format!("{junk}\n{INITIALIZE}\n")) || junk.ends_with(['[', '{']), "{junk}");
    }
}

fn at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The second look, as the kernel does it: in blocks, each of which starts with the last word of the one before.
fn is_suspicious(message: &[u8]) -> bool {
    const BLOCK: usize = 64;
    let padded: Vec<u8> = [0; 16].iter().chain(message).chain(&[0; 2 * BLOCK]).copied().collect();
    (8..16 + message.len()).step_by(BLOCK).any(|from| {
        let words = (from..from + BLOCK).step_by(8);
        let may = words.clone().any(|word| may_say(at(&padded, word)) != 0);
        let said = words.clone().any(|word| says(at(&padded, word), at(&padded, word - 1), at(&padded, word + 1)) != 0);
        assert!(may || !said);
        said && (from - 1..from + BLOCK).any(|near| confirms(at(&padded, near)))
    })
}

/// What a parser does that goes over runs at once, as the kernel's does.
fn take_at_once(parser: &mut Parser, bytes: &[u8]) -> bool {
    let padded: Vec<u8> = bytes.iter().chain(&[0; 16]).copied().collect();
    let mut from = 0;
    while from < bytes.len() {
        if parser.is_idle() {
            let word = at(&padded, from);
            from += if ends_run(word) == 0 { 8 } else { first(ends_run(word)) as usize };
            if ends_run(word) == 0 || from >= bytes.len() {
                continue;
            }
            if padded[from] == b'"' && parser.leaves() {
                from += 1;
            }
        }
        if let Some(mut skim) = parser.skims() {
            while skim.take(padded[from]) {
                from += 1;
            }
            parser.skimmed(skim);
        }
        if from < bytes.len() {
            let byte = padded[from];
            from += 1;
            if !(byte == b'"' && parser.enters()) && parser.take(byte) {
                return true;
            }
        }
    }
    false
}

fn may_start(text: &[u8]) -> bool {
    let padded: Vec<u8> = [0; 16].iter().chain(text).chain(&[0; 32]).copied().collect();
    (16..16 + text.len())
        .step_by(8)
        .any(|from| starts(at(&padded, from), || at(&padded, from - 1), || at(&padded, from - 2)) != 0)
}

#[test]
fn ordinary_messages_are_not_suspicious() {
    for message in [
        r#"{"jsonrpc":"2.0","id":12,"method":"tools/call","params":{"name":"read_file","arguments":{"path":"/usr/dir"}}}"#,
        r#"{"jsonrpc":"2.0","method":"textDocument/didChange","params":{"version":3,"initialValue":"nullValue"}}"#,
        r#"{"html":"\u003cb\u003e \u0026 \u00e9 \u2019","path":"\/usr\/dir"}"#,
    ] {
        assert!(!is_suspicious(message.as_bytes()), "{message}");
    }
}

#[test]
fn plain_text_has_no_start_of_a_message() {
    for text in ["hello, world\nthis is {} text\n", "fn main() {\n    if x { y[0] }\n}\n", "a [1]\nb {2}\n"] {
        assert!(!may_start(text.as_bytes()), "{text}");
    }
}

/// What the recogniser is to find, told from the tree of a real parser.
fn is_mcp_value(value: &Value) -> bool {
    if let Some(batch) = value.as_array() {
        return batch.iter().any(is_mcp_value);
    }
    let params = &value["params"];
    value["method"] == "server/discover"
        || (value["method"] == "initialize" && is_date(&params["protocolVersion"]))
        || is_date(&params["_meta"]["io.modelcontextprotocol/protocolVersion"])
}

fn is_date(value: &Value) -> bool {
    value.as_str().is_some_and(|text| {
        text.len() == 10
            && text
                .bytes()
                .enumerate()
                .all(|(i, byte)| if i == 4 || i == 7 { byte == b'-' } else { byte.is_ascii_digit() })
    })
}

const NAMES: &[&str] = &[
    "method",
    "params",
    "_meta",
    "protocolVersion",
    "io.modelcontextprotocol/protocolVersion",
    "id",
    "result",
    "a\"b\\",
];
const STRINGS: &[&str] = &[
    "initialize",
    "server/discover",
    "2025-06-18",
    "2025-6-18",
    "tools/list",
    "",
    "params",
    "{\"method\":\"server/discover\"}",
    "é\u{1F600}\n{",
    "\u{7f}\t",
];

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<i32>().prop_map(|number| json!(f64::from(number) / 8.0)),
        prop::sample::select(STRINGS).prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 48, 6, |inner| {
        let name = prop_oneof![4 => prop::sample::select(NAMES).prop_map(str::to_owned), 1 => "[a-z\"\\\\]{1,8}"];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((name, inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// A request that may be a handshake or miss it by little.
fn any_request() -> impl Strategy<Value = Value> {
    let value = || prop_oneof![3 => prop::sample::select(STRINGS).prop_map(Value::from), 1 => any_json()];
    (value(), value(), value(), any_json(), any::<[bool; 3]>()).prop_map(|(method, version, meta, other, with)| {
        let mut params = json!({"x": other});
        if with[0] {
            params["protocolVersion"] = version;
        }
        if with[1] {
            params["_meta"] = json!({"progressToken": 1, "io.modelcontextprotocol/protocolVersion": meta});
        }
        let request = json!({"jsonrpc": "2.0", "params": params, "id": "x", "method": method});
        if with[2] { json!([request, other]) } else { request }
    })
}

/// Writes some characters of strings as escapes, and white space where it may stand.
fn disguise(value: &Value, every: usize) -> String {
    let mut count = 0;
    let mut inside = false;
    let mut escaped = false;
    let mut out = String::new();
    for c in value.to_string().chars() {
        let was = inside && !escaped;
        if c == '"' && !escaped {
            inside = !inside;
        }
        count += 1;
        if was && inside && c != '\\' && c.is_ascii_alphanumeric() && count % every == 0 {
            out.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else if !inside && ":,{}[]".contains(c) && count % every == 1 {
            out.push_str(&format!("\t {c}\r "));
        } else {
            out.push(c);
        }
        escaped = was && c == '\\';
    }
    out
}

fn pieces<'a>(message: &'a str, cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(message.len())).collect();
    at.extend([0, message.len()]);
    at.sort_unstable();
    at.windows(2).map(|w| &message.as_bytes()[w[0]..w[1]]).collect()
}

proptest! {
    #[test]
    fn what_is_gone_over_at_once_ends_where_single_bytes_end(
        value in prop_oneof![any_json(), any_request()],
        junk in "[\\[\\]{}\":,\\\\u0-9a-f \n]{0,40}",
        every in 2usize..60,
        pretty: bool,
        cut: prop::sample::Index,
    ) {
        let message = if pretty { format!("{value:#}") } else { disguise(&value, every) };
        let at = cut.index(message.len() + 1);
        let at = (0..=at).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
        for text in [message.clone(), [&message[..at], &junk, &message[at..]].concat()] {
            let (mut one, mut other) = (Parser::NEW, Parser::NEW);
            let stops = text.bytes().any(|byte| one.take(byte));
            prop_assert_eq!(take_at_once(&mut other, text.as_bytes()), stops, "{}", text);
            prop_assert_eq!(one, other, "{}", text);
        }
    }

    #[test]
    fn no_bytes_are_fatal(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        is_mcp(&[&bytes]);
    }

    #[test]
    fn no_text_of_the_grammar_is_fatal(text in "[\\[\\]{}\":,\\\\u0-9a-f \n]{0,300}") {
        is_mcp(&[text.as_bytes()]);
    }

    #[test]
    fn json_is_mcp_if_a_real_parser_says_so(value in prop_oneof![any_json(), any_request()]) {
        let text_of = value.to_string();
        prop_assert_eq!(text(&text_of), is_mcp_value(&value));
        // Behind other text, and with more of it behind.
        prop_assert_eq!(text(&format!("hello\n{text_of}\n")), is_mcp_value(&value));
        let quoted = format!("hello\n{text_of}\nthat was it\n");
        prop_assert!(!text(&quoted));
    }

    #[test]
    fn disguises_change_nothing(
        value in any_request(),
        every in 2usize..9,
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let message = disguise(&value, every);
        let same: Value = serde_json::from_str(&message).expect("still JSON");
        prop_assert_eq!(&same, &value);
        prop_assert_eq!(is_mcp(&pieces(&message, &cuts)), is_mcp_value(&value));
        if is_mcp_value(&value) {
            prop_assert!(is_suspicious(message.as_bytes()));
            prop_assert!(may_start(message.as_bytes()));
        }
    }

    #[test]
    fn the_first_pass_misses_nothing_at_any_offset(
        before in "[ a-zA-Z\",:{}]{0,40}",
        after in "[ a-z]{0,40}",
        word in prop::sample::select(vec![
            "protocolVersion", "server/discover", "server\\/discover", "\\u0076", "\\u002F", "\\u0039", "server\\u002fd",
        ]),
    ) {
        let message = [before.as_str(), word, after.as_str()].concat();
        prop_assert!(is_suspicious(message.as_bytes()));
    }

    #[test]
    fn the_look_for_starts_misses_none(
        before in "([a-z {\\[]{0,30}\n){0,4}[ \t\r\u{feff}]{0,12}",
        message in prop::sample::select(vec![INITIALIZE, DISCOVER, LIST]),
    ) {
        let text_of = format!("{before}{message}");
        prop_assert!(may_start(text_of.as_bytes()));
    }
}
