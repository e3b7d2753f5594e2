//! Prompts, resources and completions of real servers come through the door as they are bare, in both eras, and what an
//! agent may not use is not there.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use lazaret_tests::host::{self, House, Needs, Peer};
use serde_json::Value;

const AGENT: &str = "claude-code@ann.lazaret.local";
const BARE_NAMES: &str = "[http]\nlisten = \"127.0.0.1:0\"\n[proxy]\nexpose = \"direct\"\nprefix = false\n";

fn approve_own(house: &House, name: &str, more: &[&str]) {
    let path = host::file("servers/offers.py");
    let source = ["server", "add", name, "--local", path.to_str().expect("UTF-8")];
    house.ok(&[&source[..], more, &["--", "python3", "{src}"]].concat());
    house.ok(&["server", "approve", name, "--yes"]);
}

fn bare(house: &House) -> Peer {
    house.bare("/usr/bin/python3".as_ref(), &[host::file("servers/offers.py").to_str().expect("UTF-8")])
}

/// The line without its id.
fn said(line: &str) -> String {
    let (_, rest) = line.split_once("\"id\":").expect("an id");
    rest[rest.find(',').expect("more than an id")..].to_owned()
}

fn code(line: &str) -> i64 {
    let answer: Value = serde_json::from_str(line).expect("JSON");
    answer["error"]["code"].as_i64().unwrap_or_default()
}

/// Method and params of everything that the fixture offers, and of what it does not.
const ASKED: [(&str, &str); 17] = [
    ("prompts/list", "{}"),
    ("resources/list", "{}"),
    ("resources/templates/list", "{}"),
    ("prompts/get", r#"{"name":"plain"}"#),
    ("prompts/get", r#"{"name":"with_args","arguments":{"who":"\u0041nn","what":"\/"}}"#),
    ("prompts/get", r#"{"name":"with_args","arguments":{"who":"é","unknown":"1"},"x-unknown":1.0}"#),
    ("prompts/get", r#"{"name":"with_image"}"#),
    ("resources/read", r#"{"uri":"test://static-text"}"#),
    ("resources/read", r#"{"uri":"test://static-binary"}"#),
    ("resources/read", r#"{"uri":"test://template/a%20b/data"}"#),
    ("resources/read", r#"{"uri":"test://template/\u00e9/data"}"#),
    ("resources/read", r#"{"uri":"test://no-such"}"#),
    (
        "completion/complete",
        r#"{"ref":{"type":"ref/prompt","name":"with_args"},"argument":{"name":"who","value":"x"}}"#,
    ),
    (
        "completion/complete",
        r#"{"ref":{"type":"ref/resource","uri":"test://template/{id}/data"},"argument":{"name":"id","value":"7"}}"#,
    ),
    (
        "completion/complete",
        r#"{"ref":{"type":"ref/prompt","name":"with_args"},"argument":{"name":"what","value":""},"context":{"arguments":{"who":"x"}}}"#,
    ),
    ("tools/call", r#"{"name":"chat","arguments":{}}"#),
    ("tools/call", r#"{"name":"curious","arguments":{}}"#),
];

#[test]
fn without_prefixes_a_single_server_answers_byte_for_byte_as_it_does_bare() {
    let Some(mut house) = House::or_skip(Needs::Docker) else { return };
    house.write_config(BARE_NAMES);
    house.start("enforce");
    house.ok(&["agent", "enroll", AGENT]);
    approve_own(&house, "offers", &[]);
    let (mut bare, mut door) = (bare(&house), house.connect(AGENT));
    for (method, params) in ASKED {
        let expected = match (method, params) {
            // Run bare it would wait for an answer.
            ("tools/call", params) if params.contains("curious") => {
                r#","result":{"content":[{"type":"text","text":"[-32601, -32601, -32601]"}]}}"#.to_owned()
            }
            _ => said(&bare.request(method, params)),
        };
        assert_eq!(said(&door.request(method, params)), expected, "{method} {params}");
    }
    let tools = door.request("tools/list", "{}");
    assert!(tools.contains(r#""name":"chat""#) && !tools.contains("torn"), "{tools}");
    assert!(said(&door.request("tools/call", r#"{"name":"torn","arguments":{"a":[]}}"#)).contains("was not found"));
    let shown = house.ok(&["server", "show", "offers"]);
    assert!(shown.contains("not-served") && shown.contains("tool torn"), "{shown}");
    assert!(shown.contains("offers        tools, completions, logging, prompts, resources"), "{shown}");
    for method in ["resources/subscribe", "resources/unsubscribe"] {
        assert_eq!(code(&door.request(method, r#"{"uri":"test://static-text"}"#)), -32601, "{method}");
    }

    // The newer era, over HTTP: the same members, and those that it demands.
    let token = house.ok(&["token", "--agent", AGENT]).trim().to_owned();
    for (method, params) in ASKED {
        let answer = alone(&house, &token, method, params);
        let expected = said(&door.request(method, params));
        if expected.contains("\"error\"") {
            assert_eq!(said(&answer), expected, "{method} {params}");
            continue;
        }
        let own = expected.trim_end_matches('}');
        assert!(said(&answer).starts_with(own), "{method} {params}\n{answer}\n{expected}");
        assert!(answer.contains(r#""resultType":"complete""#), "{answer}");
        if method.starts_with("resources/") || method.ends_with("/list") {
            assert!(answer.contains(r#""ttlMs":0"#) && answer.contains(r#""cacheScope":"private""#), "{answer}");
        }
    }
}

/// One request of 2026-07-28 by itself; the answer's body.
fn alone(house: &House, token: &str, method: &str, params: &str) -> String {
    let url = house.json(&["status", "--json"])["http_url"].as_str().expect("HTTP is served").to_owned();
    let address = url.trim_start_matches("http://").trim_end_matches("/mcp").to_owned();
    let meta = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;
    let comma = if params == "{}" { "" } else { "," };
    let params = format!("{}{comma}{meta}}}", params.strip_suffix('}').expect("an object"));
    let value: Value = serde_json::from_str(&params).expect("JSON");
    let name = value["name"].as_str().or(value["uri"].as_str()).filter(|_| !method.starts_with("completion"));
    let name = match name {
        Some(name) if name.is_ascii() => format!("Mcp-Name: {name}\r\n"),
        Some(name) => format!("Mcp-Name: =?base64?{}?=\r\n", base64(name.as_bytes())),
        None => String::new(),
    };
    let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
    let mut stream = TcpStream::connect(&address).expect("the door listens");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket has a timeout");
    let request = format!(
        "POST /mcp HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n\
         MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: {method}\r\n{name}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).expect("the door reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the door answers");
    answer.lines().find(|line| line.contains("\"jsonrpc\"")).unwrap_or_else(|| panic!("{answer}")).to_owned()
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |group: &[u8]| {
        let bits = group.iter().enumerate().fold(0u32, |bits, (n, byte)| bits | u32::from(*byte) << (16 - 8 * n));
        let letter = |n: usize| char::from(LETTERS[(bits >> (18 - 6 * n)) as usize & 63]);
        (0..4).map(|n| if n <= group.len() { letter(n) } else { '=' }).collect::<String>()
    };
    bytes.chunks(3).map(group).collect()
}

#[test]
fn the_reference_server_gives_its_prompts_and_resources_as_it_does_bare() {
    let Some(mut house) = House::or_skip(Needs::Docker) else { return };
    house.start("enforce");
    house.ok(&["agent", "enroll", AGENT]);
    house.ok(&["server", "add", "everything", "--npm", "@modelcontextprotocol/server-everything@2026.8.31"]);
    house.ok(&["server", "approve", "everything", "--yes"]);
    let mut bare = house.bare(Path::new("node"), &[host::everything().to_str().expect("UTF-8")]);
    let mut door = house.connect(AGENT);
    let name = |text: &str| text.replace(r#""name":""#, r#""name":"everything__"#);
    let uri = |text: &str| text.replace(r#""uri":""#, r#""uri":"lazaret://everything/"#);
    for (method, params) in [
        ("prompts/get", r#"{"name":"simple-prompt"}"#),
        ("prompts/get", r#"{"name":"args-prompt","arguments":{"city":"K\u00f6ln"}}"#),
        ("prompts/get", r#"{"name":"args-prompt"}"#),
        ("resources/read", r#"{"uri":"demo://resource/static/document/architecture.md"}"#),
        ("resources/read", r#"{"uri":"demo://resource/static/document/no-such.md"}"#),
        (
            "completion/complete",
            r#"{"ref":{"type":"ref/resource","uri":"demo://resource/dynamic/text/{resourceId}"},"argument":{"value":"1"}}"#,
        ),
    ] {
        let through = uri(&if method == "prompts/get" { name(params) } else { params.to_owned() });
        // An argument's name is not a prompt's.
        let through = through.replace(r#""argument":{"#, r#""argument":{"name":"resourceId","#);
        let params = params.replace(r#""argument":{"#, r#""argument":{"name":"resourceId","#);
        let (expected, found) = (bare.request(method, &params), door.request(method, &through));
        let part = |line: &str| {
            let answer: Value = serde_json::from_str(line).expect("JSON");
            (answer["result"].to_string(), answer["error"].to_string())
        };
        assert_eq!(part(&found), part(&expected), "{method} {params}");
    }
    let listed = |peer: &mut Peer, method: &str, member: &str, key: &str| -> Vec<String> {
        let answer: Value = serde_json::from_str(&peer.request(method, "{}")).expect("JSON");
        let all = answer["result"][member].as_array().cloned().unwrap_or_default();
        let mut all: Vec<String> = all.iter().filter_map(|one| one[key].as_str()).map(str::to_owned).collect();
        all.sort();
        all
    };
    for (method, member, key, prefix) in [
        ("prompts/list", "prompts", "name", "everything__"),
        ("resources/list", "resources", "uri", "lazaret://everything/"),
        ("resources/templates/list", "resourceTemplates", "uriTemplate", "lazaret://everything/"),
    ] {
        let expected: Vec<_> =
            listed(&mut bare, method, member, key).into_iter().map(|name| format!("{prefix}{name}")).collect();
        assert!(!expected.is_empty(), "{method}");
        assert_eq!(listed(&mut door, method, member, key), expected, "{method}");
    }
}

#[test]
fn actions_policies_and_changes_hold_for_prompts_and_resources_too() {
    let Some(mut house) = House::or_skip(Needs::Docker) else { return };
    let policies = house.path("policy.d");
    std::fs::create_dir_all(&policies).expect("a directory can be made");
    let policy = r#"permit(principal, action, resource);
        @id("secrets") forbid(principal, action == Action::"read_resource", resource) when { context.path_ancestors.contains("/srv/secret") };"#;
    std::fs::write(policies.join("p.cedar"), policy).expect("a policy can be written");
    house.start("enforce");
    approve_own(&house, "offers", &["--isolation", "per-session"]);
    house.ok(&["agent", "enroll", AGENT]);
    let narrow = "narrow@ann.lazaret.local";
    house.ok(&["agent", "enroll", narrow, "--allow", "offers/prompt:plain"]);

    let mut session = house.connect(AGENT);
    let read = |uri: &str| format!(r#"{{"uri":"lazaret://offers/{uri}"}}"#);
    assert!(session.request("resources/read", &read("test://static-text")).contains("contents"));
    let denied = session.request("resources/read", &read("file:///srv/x/../secret/key"));
    assert!(code(&denied) == -32003 && denied.contains("policy secrets forbids"), "{denied}");
    let records = house.ok(&["audit", "tail", "-n", "50", "--json"]);
    assert!(records.contains("resource:test://static-text"), "{records}");

    let mut other = house.connect(narrow);
    let prompts = other.request("prompts/list", "{}");
    assert!(prompts.contains("offers__plain") && !prompts.contains("with_image"), "{prompts}");
    assert!(other.request("prompts/get", r#"{"name":"offers__plain"}"#).contains("messages"));
    assert_eq!(code(&other.request("prompts/get", r#"{"name":"offers__with_image"}"#)), -32602);
    for method in ["resources/list", "resources/templates/list", "completion/complete"] {
        let params = r#"{"ref":{},"argument":{}}"#;
        assert_eq!(
            code(&other.request(method, if method.starts_with('c') { params } else { "{}" })),
            -32601,
            "{method}"
        );
    }

    // A server of one session alone: what it says while it works is said to that session.
    session.send(r#"{"jsonrpc":"2.0","id":900,"method":"logging/setLevel","params":{"level":"info"}}"#);
    session.send(
        r#"{"jsonrpc":"2.0","id":901,"method":"tools/call","params":{"name":"call_tool","arguments":{"server":"offers","tool":"chat"},"_meta":{"progressToken":"t"}}}"#,
    );
    let mut heard = Vec::new();
    while !heard.last().is_some_and(|line: &String| line.contains("\"id\":901")) {
        heard.push(session.hear());
    }
    let messages: Vec<_> = heard.iter().filter(|line| line.contains("notifications/message")).collect();
    assert_eq!(messages.len(), 2, "debug is less than info: {heard:#?}");
    let progress = heard.iter().filter(|line| line.contains(r#""progressToken":"t","progress":"#)).count();
    assert_eq!(progress, 3, "{heard:#?}");

    house.ok(&["server", "deny", "offers", "--why", "a test"]);
    let gone = session.request("prompts/get", r#"{"name":"offers__plain"}"#);
    assert_eq!(code(&gone), -32601, "{gone}");
}
