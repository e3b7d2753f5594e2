//! Real clients reach the door over HTTP with a token; a token that somebody else holds, or that has ended, opens nothing.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use lazaret_tests::host::{self, Health, House, Needs, text};
use serde_json::{Value, json};

const AGENT: &str = "claude-code@ann.lazaret.local";
const HTTP: &str = "[http]\nlisten = \"127.0.0.1:0\"\n";
const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}"#;

/// A daemon that serves HTTP, an agent, and an approved server.
fn house() -> Option<House> {
    let mut house = House::or_skip(Needs::Docker)?;
    house.write_config(HTTP);
    house.start("enforce");
    house.ok(&["agent", "enroll", AGENT]);
    let path = host::file("servers/oddities.py");
    house.ok(&["server", "add", "odd", "--local", path.to_str().expect("UTF-8"), "--", "python3", "{src}"]);
    house.ok(&["server", "approve", "odd", "--yes"]);
    Some(house)
}

fn url(house: &House) -> String {
    house.json(&["status", "--json"])["http_url"].as_str().expect("HTTP is served").to_owned()
}

fn token(house: &House) -> String {
    house.ok(&["token", "--agent", AGENT]).trim().to_owned()
}

/// One request as this process; the answer as it came.
fn post(house: &House, token: &str, headers: &str, body: &str) -> String {
    let address = url(house).trim_start_matches("http://").trim_end_matches("/mcp").to_owned();
    let mut stream = TcpStream::connect(&address).expect("the door listens");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket has a timeout");
    let request = format!(
        "POST /mcp HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n{headers}\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).expect("the door reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the door answers");
    answer
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

/// A script of this package with the token on its standard input.
fn python(house: &House, sdk: &str, script: &str, token: &str, args: &[&str]) -> Value {
    let mut child = house
        .in_scope(host::python(sdk))
        .arg(host::file(script))
        .args(args)
        .arg(url(house))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("Python can be run");
    child.stdin.take().expect("stdin is piped").write_all(token.as_bytes()).expect("the script reads");
    let output = child.wait_with_output().expect("the script ends");
    assert!(output.status.success(), "{sdk} {script}: {}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("the script prints JSON")
}

fn names(tools: &Value) -> BTreeSet<&str> {
    tools.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

#[test]
fn the_python_sdks_list_search_describe_and_call_in_both_eras() {
    let Some(house) = house() else { return };
    let token = token(&house);
    let own = BTreeSet::from(["search_tools", "describe_tool", "call_tool"]);
    for sdk in ["sdk1", "sdk2"] {
        let args = ["gives back arguments", "odd", "mirror", r#"{"k": "v"}"#];
        let said = python(&house, sdk, "python/through_http.py", &token, &args);
        assert_eq!(said["version"], "2025-11-25", "{sdk}");
        assert_eq!(names(&said["tools"]), own, "{sdk}");
        assert!(said["search"].to_string().contains("mirror"), "{sdk}: {:#}", said["search"]);
        assert!(said["described"].to_string().contains("exactly as they arrived"), "{sdk}: {:#}", said["described"]);
        assert!(
            said["called"]["content"][0]["text"].as_str().is_some_and(|echo| echo.contains("\"k\"")),
            "{sdk}: {said:#}"
        );
    }
    let said = python(&house, "sdk2", "python/alone_over_http.py", &token, &["odd", "mirror", r#"{"k": "v"}"#]);
    assert_eq!(said["version"], "2026-07-28");
    assert_eq!(names(&said["tools"]), own);
    assert!(said["called"].to_string().contains("\\\"k\\\""), "{said:#}");

    let records = house.ok(&["audit", "tail", "-n", "200", "--json"]);
    assert!(records.contains("token issued"), "{records}");
    let secret = token.rsplit('_').next().expect("a token has parts");
    assert!(!records.contains(secret) && !house.log().contains(secret), "the secret stands in no record");
}

#[test]
fn an_answer_over_http_is_byte_for_byte_what_the_bare_server_gives() {
    let Some(house) = house() else { return };
    let token = token(&house);
    let script = host::file("servers/oddities.py");
    let mut bare = house.bare("/usr/bin/python3".as_ref(), &[script.to_str().expect("UTF-8")]);
    let began = post(&house, &token, "", INITIALIZE);
    let session = began.lines().find(|line| line.to_lowercase().starts_with("mcp-session-id:")).expect("a session");
    let strange = r#"{"z":1.0,"big":12345678901234567890123,"a":{"y":-0.0,"x":1E+2},"text":"caf\u00e9\/"}"#;
    for (tool, arguments) in [("odd", "{}"), ("mirror", strange)] {
        let call = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"call_tool","arguments":{{"server":"odd","tool":"{tool}","arguments":{arguments}}}}}}}"#
        );
        let answer = post(&house, &token, &format!("{session}\r\n"), &call);
        // A cold start takes longer than plain JSON is waited for.
        let line = answer.lines().map(|line| line.trim_start_matches("data: ")).find(|line| line.starts_with('{'));
        let line = line.unwrap_or_else(|| panic!("no message: {answer}"));
        assert_eq!(host::result_of(line), bare.call(tool, arguments), "{tool}");
    }
}

#[test]
fn claude_code_connects_over_http_and_the_kernel_takes_the_door_for_the_door() {
    let Some(house) = house() else { return };
    let entry = json!({
        "type": "http", "url": url(&house), "headers": {"Authorization": format!("Bearer {}", token(&house))},
    });
    let config = json!({"mcpServers": {"lazaret": entry}}).to_string();
    std::fs::write(house.claude_config(), config).expect("the home directory is writable");
    let health = house.claude_mcp_list();
    assert_eq!(health.get("lazaret"), Some(&Health::Connected), "{health:?}");
    // With a helper no token stands in the file, and each start has a new one.
    let helper = format!("{} token --agent {AGENT} --headers", host::binary().display());
    let entry = json!({"type": "http", "url": url(&house), "headersHelper": helper});
    let config = json!({"mcpServers": {"lazaret": entry}}).to_string();
    std::fs::write(house.claude_config(), config).expect("the home directory is writable");
    let health = house.claude_mcp_list();
    assert_eq!(health.get("lazaret"), Some(&Health::Connected), "{health:?}");
    assert_eq!(house.json(&["shadow", "list", "--json"])["shadows"], json!([]), "nothing went around the door");
    let inventory = house.json(&["inventory", "--json"]);
    let text = inventory.to_string();
    assert!(!text.contains(&token(&house)), "no token is shown: {text}");
    assert_eq!(house.json(&["status", "--json"])["around_the_door"], 0, "{inventory:#}");
}

#[test]
fn a_token_opens_nothing_for_others_elsewhere_or_later() {
    let Some(mut house) = house() else { return };
    let token = token(&house);
    assert_eq!(status(&post(&house, &token, "", INITIALIZE)), "200");

    let thief = |uid: &str| {
        let output = Command::new("/usr/bin/setpriv")
            .args([
                "--reuid",
                uid,
                "--regid",
                uid,
                "--clear-groups",
                "--",
                "/usr/bin/python3",
                "-c",
                THIEF,
                &url(&house),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .and_then(|mut child| {
                child.stdin.take().expect("stdin is piped").write_all(token.as_bytes())?;
                child.wait_with_output()
            });
        text(&output.expect("a process of another user can be run").stdout)
    };
    let stolen = thief("65534");
    assert!(stolen.starts_with("401") && stolen.contains("uid 65534") && stolen.contains("lazaret token"), "{stolen}");
    assert!(thief("0").starts_with("200"), "the owner's process gets in the same way");

    let Some(mut other) = House::or_skip(Needs::Docker) else { return };
    other.write_config(HTTP);
    other.start("observe");
    other.ok(&["agent", "enroll", AGENT]);
    assert_eq!(status(&post(&other, &token, "", INITIALIZE)), "401", "another daemon knows nothing of it");

    let tampered: String = token.chars().rev().enumerate().map(|(at, c)| if at == 3 { next(c) } else { c }).collect();
    let tampered: String = tampered.chars().rev().collect();
    assert_eq!(status(&post(&house, &tampered, "", INITIALIZE)), "401");

    house.ok(&["agent", "suspend", AGENT, "--reason", "test"]);
    let refused = post(&house, &token, "", INITIALIZE);
    assert!(status(&refused) == "401" && refused.contains("suspended"), "{refused}");
    assert_eq!(house.refused(&["token", "--agent", AGENT]).0, 5, "nor is there a new one");
    house.ok(&["agent", "resume", AGENT]);
    assert_eq!(status(&post(&house, &token, "", INITIALIZE)), "200");

    let listed = house.json(&["agent", "token", "list", "--json"]);
    let id = listed["tokens"][0]["id"].as_str().expect("a token is listed").to_owned();
    assert!(token.contains(&id) && !listed.to_string().contains(token.rsplit('_').next().expect("parts")));
    house.ok(&["agent", "token", "revoke", &id]);
    assert_eq!(status(&post(&house, &token, "", INITIALIZE)), "401", "a revoked token is not taken again");

    let short = house.ok(&["token", "--agent", AGENT, "--ttl", "1s"]).trim().to_owned();
    let expired = lazaret_tests::poll(Duration::from_secs(30), || {
        let answer = post(&house, &short, "", INITIALIZE);
        (status(&answer) == "401").then_some(answer)
    });
    assert!(expired.expect("it expires").contains("expired at"), "it says so");

    let last = house.ok(&["token", "--agent", AGENT]).trim().to_owned();
    house.ok(&["agent", "revoke", AGENT]);
    assert_eq!(status(&post(&house, &last, "", INITIALIZE)), "401", "a token ends with its agent");
    house.stop();
}

/// Presents the token of its standard input, and prints status and body.
const THIEF: &str = r#"
import sys, urllib.request, urllib.error
body = b'{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}'
headers = {"Authorization": "Bearer " + sys.stdin.read().strip(), "Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
try:
    answer = urllib.request.urlopen(urllib.request.Request(sys.argv[1], body, headers))
    print(answer.status, answer.read().decode())
except urllib.error.HTTPError as refused:
    print(refused.code, refused.read().decode())
"#;

fn next(digit: char) -> char {
    if digit == '0' { '1' } else { '0' }
}

#[test]
fn policies_see_that_a_call_came_over_http() {
    let Some(mut house) = house() else { return };
    house.stop();
    let policies = house.path("policy.d");
    std::fs::create_dir(&policies).expect("the house is writable");
    let text = "permit(principal, action, resource);\nforbid(principal, action, resource) when { context.transport == \"http\" };\n";
    std::fs::write(policies.join("http.cedar"), text).expect("the house is writable");
    house.start("enforce");
    let mut connector = house.connect(AGENT);
    assert!(connector.call_through("odd", "mirror", "{}").contains("{}"), "the connector may");
    let said = python(&house, "sdk2", "python/alone_over_http.py", &token(&house), &["odd", "mirror", "{}"]);
    assert_eq!(said["called"]["isError"], true, "{said:#}");
    assert!(said["called"].to_string().contains("Denied (policy)"), "{said:#}");
}

#[test]
fn http_is_off_by_default_and_never_leaves_this_host() {
    let Some(mut house) = House::or_skip(Needs::Nothing) else { return };
    house.write_config("[http]\nlisten = \"0.0.0.0:0\"\n");
    let (code, said) = house.start_refused("observe");
    assert!(code == 4 && said.contains("loopback"), "{code}: {said}");
    house.write_config("");
    house.start("observe");
    assert_eq!(house.json(&["status", "--json"])["http_url"], Value::Null);
    house.ok(&["agent", "enroll", AGENT]);
    let (code, said) = house.refused(&["token", "--agent", AGENT]);
    assert!(code == 5 && said.contains("[http]"), "{code}: {said}");
}
