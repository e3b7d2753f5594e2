//! Servers that somebody else runs: the same door, quarantine and pins, and no cage.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use lazaret_tests::host::{self, House, Needs, text};
use serde_json::Value;

const AGENT: &str = "claude-code@ann.lazaret.local";
const KEY: &str = "hunter2-of-the-peer";

/// A process that serves, and what it prints; it ends with its test.
struct Served {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Served {
    fn start(command: &mut Command) -> Self {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it can be run");
        let (send, lines) = channel();
        let out: Box<dyn std::io::Read + Send> = Box::new(child.stdout.take().expect("stdout is piped"));
        let err: Box<dyn std::io::Read + Send> = Box::new(child.stderr.take().expect("stderr is piped"));
        for pipe in [out, err] {
            let send = send.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    if send.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        Self { child, lines, said: Vec::new() }
    }

    /// The next line that is wanted.
    fn until(&mut self, wanted: impl Fn(&str) -> bool) -> String {
        loop {
            let line = self.lines.recv_timeout(host::PATIENCE);
            let line = line.unwrap_or_else(|e| panic!("it did not say what was waited for ({e}): {:#?}", self.said));
            self.said.push(line.clone());
            if wanted(&line) {
                return line;
            }
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that nobody has at this moment; whoever is to get it says so when it does not.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port can be had");
    listener.local_addr().expect("it is bound").port()
}

fn sdk(path: &str) -> PathBuf {
    host::tools().join("npm/node_modules/@modelcontextprotocol").join(path)
}

fn python(script: &str, args: &[&str]) -> String {
    let output = Command::new(host::python("sdk2")).args(["-c", script]).args(args).output().expect("python runs");
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// The result of one call, asked for without anything of ours in between.
fn bare(url: &str, tool: &str, arguments: &str) -> String {
    const CLIENT: &str = r#"
import json, sys, urllib.request
url, params = sys.argv[1], sys.argv[2]
headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
def post(body):
    answer = urllib.request.urlopen(urllib.request.Request(url, body.encode(), headers))
    if answer.headers.get("Mcp-Session-Id"):
        headers["Mcp-Session-Id"] = answer.headers["Mcp-Session-Id"]
    return [line[6:] for line in answer.read().decode().splitlines() if line.startswith("data: ")]
hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
post(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}))
headers["MCP-Protocol-Version"] = "2025-11-25"
post(json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}))
for line in post('{"jsonrpc":"2.0","id":2,"method":"tools/call","params":' + params + '}'):
    if '"result"' in line:
        print(line)
"#;
    let line = python(CLIENT, &[url, &format!(r#"{{"name":"{tool}","arguments":{arguments}}}"#)]);
    host::result_of(line.trim_end())
}

fn is_error(result: &str) -> bool {
    serde_json::from_str::<Value>(result).expect("a result is JSON")["isError"] == true
}

fn server(house: &House, name: &str) -> Value {
    house.json(&["server", "show", name, "--json"])["servers"][0].clone()
}

fn an_entry_of_a_client_s_config_becomes_a_quarantined_server(house: &House, url: &str) {
    let entry = serde_json::json!({"mcpServers": {"every": {"url": url, "headers": {"X-Api-Key": KEY}}}});
    std::fs::create_dir_all(house.home().join(".cursor")).expect("a directory can be made");
    std::fs::write(house.home().join(".cursor/mcp.json"), entry.to_string()).expect("the config can be written");
    let (code, said) = house.refused(&["server", "add", "every", "--from-config", "cursor:every"]);
    assert!(code == 2 && said.contains("--plain-http"), "what it loosens is said by the operator: {code}: {said}");
    let (code, said) = house.refused(&["server", "add", "every", "--from-config", "no-such"]);
    assert!(code == 2 && said.contains("lazaret inventory"), "{code}: {said}");
    let said = house.cli(&["server", "add", "every", "--from-config", "every", "--private", "--plain-http"]);
    assert!(said.status.success(), "{}", text(&said.stderr));
    let shown = server(house, "every");
    assert_eq!((&shown["state"], &shown["active"]), (&Value::from("quarantined"), &Value::from(false)), "{shown:#}");
    assert_eq!(shown["launch"]["secrets"], serde_json::json!(["X_API_KEY"]));
    for text in [text(&said.stderr), shown.to_string(), house.ok(&["client", "list", "--json"]), house.log()] {
        assert!(!text.contains(KEY), "the header's value is shown: {text}");
    }
    house.ok(&["server", "approve", "every", "--yes"]);
    let inventory = house.json(&["inventory", "--json"]);
    let of_config = inventory["servers"].as_array().into_iter().flatten().find(|entry| entry["known_by"] == "config");
    assert_eq!(of_config.expect("the entry is listed")["state"], "approved");
}

#[test]
fn a_remote_server_answers_as_it_does_bare_and_is_left_without_a_session() {
    let Some(mut house) = House::or_skip(Needs::Nothing) else { return };
    let port = free_port();
    let mut everything =
        Served::start(Command::new("node").arg(host::everything()).arg("streamableHttp").env("PORT", port.to_string()));
    everything.until(|line| line.contains("listening on port"));
    house.start("enforce");
    let url = format!("http://127.0.0.1:{port}/mcp");
    an_entry_of_a_client_s_config_becomes_a_quarantined_server(&house, &url);
    let (code, said) = house.refused(&["server", "add", "all", "--url", &url, "--private"]);
    assert!(code == 2 && said.contains("--plain-http"), "{code}: {said}");
    house.ok(&["server", "add", "all", "--url", &url, "--private", "--plain-http"]);
    house.ok(&["server", "approve", "all", "--yes"]);
    let shown = server(&house, "all");
    assert_eq!((&shown["active"], &shown["launch"]["source"]["kind"]), (&Value::from(true), &Value::from("remote")));
    assert_eq!(shown["tools"]["approved"], 13, "{shown:#}");
    house.ok(&["agent", "enroll", AGENT]);
    let mut session = house.connect(AGENT);
    for (tool, arguments) in [
        ("echo", r#"{"message":"a\u00e4\ud83d\ude00 \"b\""}"#),
        ("get-sum", r#"{"a":1.50,"b":2}"#),
        ("get-structured-content", r#"{"location":"New York"}"#),
        ("get-tiny-image", "{}"),
        ("no-such-argument", "{}"),
    ] {
        if tool == "no-such-argument" {
            assert!(is_error(&session.call_through("all", tool, arguments)));
            continue;
        }
        assert_eq!(session.call_through("all", tool, arguments), bare(&url, tool, arguments), "{tool}");
    }
    let inventory = house.json(&["inventory", "--json"]);
    let entry = inventory["servers"].as_array().into_iter().flatten().find(|entry| entry["name"] == "all");
    assert!(entry.is_some_and(|entry| entry["url"] == url.as_str()), "{inventory:#}");
    assert!(house.ok(&["server", "logs", "all"]).is_empty(), "it had nothing to complain of");
    house.ok(&["server", "remove", "all", "--yes"]);
    everything.until(|line| line.contains("session termination"));
    assert!(is_error(&session.call_through("all", "echo", r#"{"message":"x"}"#)));
}

#[test]
fn a_remote_server_that_changes_is_caught_and_its_secret_is_shown_nowhere() {
    let Some(mut house) = House::or_skip(Needs::Nothing) else { return };
    let peer = host::file("servers/remote_peer.py");
    let mut peer = Served::start(Command::new(host::python("sdk2")).arg(peer).env("PEER_KEY", KEY));
    let port = peer.until(|line| line.parse::<u16>().is_ok());
    house.start("enforce");
    let url = format!("http://127.0.0.1:{port}/mcp");
    let add = ["server", "add", "rug", "--url", &url, "--private", "--plain-http"];

    house.ok(&add);
    let (_, said) = house.refused(&["server", "review", "rug"]);
    assert!(said.contains("it wants a login") && said.contains("--header"), "{said}");
    house.ok(&["server", "remove", "rug", "--yes"]);

    let key = house.path("key");
    std::fs::write(&key, KEY).expect("a file can be written");
    let secret = format!("KEY=@{}", key.display());
    house.ok(&[&add[..], &["--header", "X-Key=secret:KEY", "--secret", &secret]].concat());
    house.ok(&["server", "approve", "rug", "--yes"]);
    house.ok(&["agent", "enroll", AGENT]);
    let mut session = house.connect(AGENT);
    let good = session.call_through("rug", "add", "{}");
    assert!(good.contains(r#""n":1.5"#) && !is_error(&good), "{good}");

    // Its sessions are gone: the next call has a new one, which is compared like the first.
    assert!(!is_error(&session.call_through("rug", "turn", r#"{"forget":true}"#)));
    assert_eq!(session.call_through("rug", "add", "{}"), good);

    // It says nothing of a change, and then it does.
    for (turn, field) in [
        (r#"{"field":"description","value":"Adds, and reads ~/.ssh"}"#, "description"),
        (r#"{"field":"annotations","value":{"readOnlyHint":true},"aloud":true}"#, "annotations"),
    ] {
        session.call_through("rug", "turn", turn);
        let caught =
            lazaret_tests::poll(host::PATIENCE, || is_error(&session.call_through("rug", "add", "{}")).then_some(()));
        let fell = server(&house, "rug");
        assert!(caught.is_some(), "it still answers: {fell:#}");
        assert_eq!(fell["state"], "quarantined", "{fell:#}");
        let why = fell["history"].as_array().and_then(|steps| steps.last()).expect("it has a history")["why"].clone();
        assert!(why.as_str().is_some_and(|why| why.contains(&format!("changed its {field}"))), "{why}");
        house.ok(&["server", "approve", "rug", "--yes"]);
        assert_eq!(session.call_through("rug", "add", "{}"), good);
    }

    // Another secret is no other definition; another header is.
    let told = [
        house.ok(&["server", "show", "rug", "--full"]),
        house.ok(&["server", "show", "rug", "--json"]),
        house.ok(&["server", "logs", "rug"]),
        house.ok(&["audit", "tail", "--jsonl"]),
        house.ok(&["inventory", "--json"]),
        house.log(),
    ];
    assert!(told[0].contains("secret KEY"), "{}", told[0]);
    for text in told {
        assert!(!text.contains(KEY), "the secret is told: {text}");
    }
    house.ok(&["server", "deny", "rug", "--why", "it reads keys"]);
    peer.until(|line| line == "session ended");
    house.ok(&[&["server", "add", "copy"], &add[3..], &["--header", "X-Key=secret:KEY", "--secret", &secret]].concat());
    house.ok(&["server", "review", "copy"]);
    assert_eq!(server(&house, "copy")["state"], "denied", "what was denied stays so under another name");
}

#[test]
fn a_person_logs_in_at_a_server_that_is_protected_by_oauth() {
    let Some(mut house) = House::or_skip(Needs::Nothing) else { return };
    let (mcp, auth) = (free_port(), free_port());
    let example = sdk("sdk/dist/esm/examples/server/simpleStreamableHttp.js");
    let mut protected = Served::start(
        Command::new("node")
            .arg(example)
            .args(["--oauth", "--oauth-strict"])
            .env("MCP_PORT", mcp.to_string())
            .env("MCP_AUTH_PORT", auth.to_string()),
    );
    protected.until(|line| line.contains("Streamable HTTP Server listening"));
    house.start("enforce");
    let url = format!("http://localhost:{mcp}/mcp");
    house.ok(&["server", "add", "mine", "--url", &url, "--private", "--plain-http", "--oauth"]);
    let (_, said) = house.refused(&["server", "review", "mine"]);
    assert!(said.contains("lazaret server login mine"), "{said}");

    let mut login = Served::start(house.lazaret().args(["server", "login", "mine"]));
    let page = login.until(|line| line.starts_with("http://localhost:") && line.contains("/authorize?"));
    assert!(page.contains("code_challenge_method=S256") && page.contains("&resource="), "{page}");
    let shown =
        python("import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())", &[&page]);
    assert!(shown.contains("Lazaret has the answer"), "{shown}");
    login.until(|line| line.contains("mine: logged in by"));

    house.ok(&["server", "approve", "mine", "--yes"]);
    house.ok(&["agent", "enroll", AGENT]);
    let mut session = house.connect(AGENT);
    let answer = session.call_through("mine", "greet", r#"{"name":"Ann"}"#);
    assert!(answer.contains("Hello, Ann!") && !is_error(&answer), "{answer}");
    let view = server(&house, "mine")["login"].clone();
    assert!(view["logged_in"] == true && view["until"].is_string() && view["scope"] == "mcp:tools", "{view}");

    // The example prints the tokens that it is shown.
    let token = protected
        .said
        .iter()
        .find_map(|line| line.trim().strip_prefix("token: '")?.strip_suffix("',").map(str::to_owned));
    let token = token.unwrap_or_else(|| {
        let line = protected.until(|line| line.trim().starts_with("token: '"));
        line.trim().trim_start_matches("token: '").trim_end_matches("',").to_owned()
    });
    for told in [
        house.ok(&["server", "show", "mine", "--full"]),
        house.ok(&["server", "show", "mine", "--json"]),
        house.ok(&["server", "logs", "mine"]),
        house.ok(&["audit", "tail", "--jsonl"]),
        house.log(),
    ] {
        assert!(!told.contains(&token), "the token is told: {told}");
    }

    // A restart keeps the login; forgetting it ends what it was for.
    house.stop();
    house.start("enforce");
    let mut session = house.connect(AGENT);
    assert!(!is_error(&session.call_through("mine", "greet", r#"{"name":"Ann"}"#)));
    house.ok(&["server", "login", "mine", "--logout"]);
    let answer = session.call_through("mine", "greet", r#"{"name":"Ann"}"#);
    assert!(is_error(&answer) && answer.contains("lazaret server login mine"), "{answer}");
}
