//! Who is at the other end of a session: the client above the connector is measured, nobody speaks for it, and what it
//! asked for can be proven from the log alone.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use lazaret_tests::host::{self, Health, House, Needs, Peer, text};
use serde_json::Value;

const AGENT: &str = "claude-code@ann.lazaret.local";

/// Audit records with this reason, oldest first.
fn records(house: &House, reason: &str) -> Vec<Value> {
    let log = house.ok(&["audit", "tail", "--lines", "200", "--jsonl"]);
    let records = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("one record per line"));
    records.filter(|record| record["reason"] == reason).collect()
}

fn wait_for(house: &House, reason: &str, count: usize) -> Vec<Value> {
    let found =
        lazaret_tests::poll(host::PATIENCE, || Some(records(house, reason)).filter(|found| found.len() >= count));
    let found = found.unwrap_or_else(|| panic!("not {count} records {reason:?}:\n{}", house.log()));
    assert_eq!(found.len(), count, "{found:#?}");
    found
}

/// Kind, name and how it changed, of each part that a record of drift names.
fn drift(record: &Value) -> Vec<(String, String, String)> {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let drift = record["detail"]["drift"].as_array().expect("a drift");
    drift.iter().map(|one| (word(&one["part"]["kind"]), word(&one["part"]["name"]), word(&one["how"]))).collect()
}

/// Ends a process that stands in the way when a test is over, whether it passed or not.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ended = self.0.kill().and_then(|()| self.0.wait());
    }
}

#[test]
fn claude_code_is_measured_the_same_at_each_start_and_what_changes_is_named() {
    let Some(mut house) = House::or_skip(Needs::Nothing) else { return };
    house.start("observe");
    house.ok(&["agent", "enroll", AGENT]);
    let connector = host::binary();
    house.configure_claude(&[("lazaret", &connector, &["connect", "--agent", AGENT])]);
    assert_eq!(house.claude_mcp_list().get("lazaret"), Some(&Health::Connected));
    let first = wait_for(&house, "measured for the first time", 1).remove(0);
    let parts = first["detail"]["parts"].as_array().expect("parts").clone();
    let name = |kind: &str| {
        let part = parts.iter().find(|part| part["kind"] == kind).unwrap_or_else(|| panic!("no {kind}: {parts:#?}"));
        part["name"].as_str().expect("a name").to_owned()
    };
    assert!(name("executable").ends_with("claude-code-linux-x64/claude"), "{}", name("executable"));
    assert_eq!(name("argv"), "claude-code");
    assert_eq!(PathBuf::from(name("mcp_config")), house.claude_config());
    assert!(parts.iter().any(|part| part["kind"] == "tools") && parts.iter().any(|part| part["kind"] == "policy"));
    assert_eq!(parts.iter().filter(|part| part["kind"] == "executable").count(), 1, "nothing is between: {parts:#?}");

    // A second start counts itself in its own file of state, and is the same agent.
    assert_eq!(house.claude_mcp_list().get("lazaret"), Some(&Health::Connected));
    wait_for(&house, "connected", 2);
    std::fs::write(house.home().join("CLAUDE.md"), "Be careful.").expect("the home directory is writable");
    assert_eq!(house.claude_mcp_list().get("lazaret"), Some(&Health::Connected));
    let changed = wait_for(&house, "its measurement changed", 1).remove(0);
    let claude_md = house.home().join("CLAUDE.md").to_str().expect("UTF-8").to_owned();
    assert_eq!(drift(&changed), [("instructions".to_owned(), claude_md, "added".to_owned())]);

    std::fs::write(house.home().join(".mcp.json"), r#"{"mcpServers":{}}"#).expect("the home directory is writable");
    assert_eq!(house.claude_mcp_list().get("lazaret"), Some(&Health::Connected));
    let changed = wait_for(&house, "its measurement changed", 2).remove(1);
    let mcp_json = house.home().join(".mcp.json").to_str().expect("UTF-8").to_owned();
    assert_eq!(drift(&changed), [("mcp_config".to_owned(), mcp_json, "added".to_owned())]);
}

/// A shell under the name of Claude Code, which runs `script` with the connector as its arguments.
fn claude(house: &House, script: &str) -> Command {
    let name = house.home().join("bin/claude");
    if !name.exists() {
        std::fs::create_dir_all(house.home().join("bin")).expect("the home directory is writable");
        std::fs::copy("/bin/sh", &name).expect("the home directory is writable");
    }
    let mut command = house.in_scope(&name);
    command.args(["-c", script]).arg(host::binary()).args(["connect", "--agent", AGENT]);
    command
}

const DIRECTLY: &str = r#""$0" "$@"; exit"#;

#[test]
fn a_change_is_seen_on_the_open_session_and_a_script_in_between_is_a_part() {
    let Some(mut house) = House::or_skip(Needs::Nothing) else { return };
    house.start("observe");
    house.ok(&["agent", "enroll", AGENT]);
    let mut session = Peer::start(&mut claude(&house, DIRECTLY));
    wait_for(&house, "measured for the first time", 1);
    session.call_through("nowhere", "nothing", "{}");
    assert_eq!(records(&house, "its measurement changed").len(), 0);
    std::fs::write(house.home().join("CLAUDE.md"), "Be quick.").expect("the home directory is writable");
    session.call_through("nowhere", "nothing", "{}");
    let changed = wait_for(&house, "its measurement changed", 1);
    let claude_md = house.home().join("CLAUDE.md").to_str().expect("UTF-8").to_owned();
    assert_eq!(drift(&changed[0]), [("instructions".to_owned(), claude_md, "added".to_owned())]);

    let mut wrapped = Peer::start(&mut claude(&house, r#"/bin/sh -c '"$0" "$@"; exit' "$0" "$@"; exit"#));
    wrapped.call_through("nowhere", "nothing", "{}");
    let changed = wait_for(&house, "its measurement changed", 2);
    let kinds: Vec<_> = drift(&changed[1]).into_iter().map(|(kind, _, how)| (kind, how)).collect();
    let added = |kind: &str| (kind.to_owned(), "added".to_owned());
    assert_eq!(kinds, [added("executable"), added("argv")], "{:#?}", changed[1]);
}

#[test]
fn a_copied_address_and_a_drifted_agent_are_refused_and_told_what_to_do() {
    let Some(mut house) = House::or_skip(Needs::Nothing) else { return };
    let (key, signers) = (house.home().join("operator"), house.home().join("allowed_signers"));
    let made = Command::new("ssh-keygen").args(["-q", "-N", "", "-t", "ed25519", "-f"]).arg(&key).status();
    if made.is_err() {
        lazaret_tests::skip("measure", "ssh-keygen is not installed; `cargo xtask setup` does that");
        return;
    }
    let public = std::fs::read_to_string(key.with_extension("pub")).expect("ssh-keygen made both halves");
    std::fs::write(&signers, format!("ann@acme.example {public}")).expect("the home directory is writable");
    house.write_config(&format!("[identity]\nallowed_signers = {signers:?}\n"));
    house.start("observe");
    house.ok(&["agent", "enroll", AGENT]);
    let mut session = Peer::start(&mut claude(&house, DIRECTLY));
    wait_for(&house, "measured for the first time", 1);
    house.ok(&["agent", "vouch", AGENT, "--key", key.to_str().expect("UTF-8")]);
    let ask = |session: &mut Peer| session.call_through("nowhere", "nothing", "{}");
    let honest = ask(&mut session);
    assert!(honest.contains("was not found"), "{honest}");

    // The same key and the same command line of the connector, below another program.
    let mut thief = house.connect(AGENT);
    let told = ask(&mut thief);
    assert!(told.contains("registration") && told.contains("not what was vouched for any more"), "{told}");
    assert!(told.contains("executable") && told.contains("lazaret agent show"), "{told}");
    assert!(ask(&mut session).contains("was not found"), "the honest one goes on");

    std::fs::write(house.home().join("CLAUDE.md"), "Be evil.").expect("the home directory is writable");
    let told = ask(&mut session);
    let claude_md = house.home().join("CLAUDE.md").to_str().expect("UTF-8").to_owned();
    assert!(told.contains(&format!("added instructions {claude_md}")), "{told}");
    let output = house.cli(&["agent", "show", AGENT]);
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "a drifted agent is a negative verdict: {shown}");
    assert!(shown.contains("drifted") && shown.contains(&claude_md), "{shown}");
    house.ok(&["agent", "vouch", AGENT, "--key", key.to_str().expect("UTF-8")]);
    let honest = ask(&mut session);
    assert!(honest.contains("was not found"), "{honest}");
}

#[test]
fn a_relay_that_carries_an_honest_connector_s_proof_is_refused() {
    let Some(mut house) = House::or_skip(Needs::Nothing) else { return };
    house.start("observe");
    house.ok(&["agent", "enroll", AGENT]);
    let trap = house.home().join("trap");
    std::fs::create_dir(&trap).expect("the home directory is writable");
    let heard = house.home().join("heard");
    let relay = Command::new("python3")
        .arg(host::file("python/relay.py"))
        .args([&trap.join("mcp.sock"), &house.run_dir().join("mcp.sock"), &heard])
        .stdout(Stdio::piped())
        .spawn();
    let mut relay = Ends(relay.expect("Python can be run"));
    let mut line = String::new();
    let listens = relay.0.stdout.take().expect("stdout is piped");
    BufReader::new(listens).read_line(&mut line).expect("the relay says that it listens");

    let output = house
        .in_scope(host::binary())
        .args(["connect", "--agent", AGENT])
        .env("LAZARET_RUN_DIR", &trap)
        .stdin(Stdio::null())
        .output()
        .expect("the binary can be run");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains("is not Lazaret's connector but") && said.contains("python"), "{said}");
    let mut heard_text = String::new();
    std::fs::File::open(&heard).and_then(|mut heard| heard.read_to_string(&mut heard_text)).expect("the relay's log");
    assert!(!heard_text.contains("welcome") && !heard_text.contains("nonce"), "{heard_text}");
    assert!(records(&house, "connected").is_empty());
}

#[test]
fn a_traced_connector_is_refused() {
    let Some(mut house) = House::or_skip(Needs::Nothing) else { return };
    house.start("observe");
    house.ok(&["agent", "enroll", AGENT]);
    let output = house
        .in_scope("/usr/bin/python3")
        .arg(host::file("python/trace.py"))
        .arg(host::binary())
        .args(["connect", "--agent", AGENT])
        .stdin(Stdio::null())
        .output()
        .expect("Python can be run");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains("traces the connector") && said.contains("detach the debugger"), "{said}");
}

#[test]
fn a_connector_whose_client_died_calls_nothing_any_more() {
    let Some(mut house) = House::or_skip(Needs::Nothing) else { return };
    house.start("observe");
    house.ok(&["agent", "enroll", AGENT]);
    let mut client = house.in_scope("/bin/sh");
    client
        .args(["-c", r#"exec 3<&0; "$0" "$@" <&3 3<&- & exec 3<&-; wait"#])
        .arg(host::binary())
        .args(["connect", "--agent", AGENT]);
    let mut session = Peer::start(&mut client);
    let before = session.call_through("nowhere", "nothing", "{}");
    assert!(before.contains("was not found"), "{before}");
    session.kill();
    let after = session.call_through("nowhere", "nothing", "{}");
    assert!(after.contains("registration") && after.contains("start the MCP client again"), "{after}");
}

#[test]
fn a_call_is_proven_from_the_log_by_another_implementation() {
    let Some(mut house) = House::or_skip(Needs::Docker) else { return };
    house.start("enforce");
    let path = host::file("servers/oddities.py");
    house.ok(&["server", "add", "odd", "--local", path.to_str().expect("UTF-8"), "--", "python3", "{src}"]);
    house.ok(&["server", "approve", "odd", "--yes"]);
    house.ok(&["agent", "enroll", AGENT]);
    let mut session = house.connect(AGENT);
    session.call_through("odd", "mirror", r#"{"a":1.0}"#);
    let log = house.ok(&["audit", "tail", "--lines", "200", "--jsonl"]);
    let call: Value = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("one record per line"))
        .find(|record| record["kind"] == "call")
        .expect("the call is on record");
    let connected = records(&house, "connected").pop().expect("the connection is on record");
    let (signature, certificate) = (&call["detail"]["signature"], &connected["detail"]["certificate"]);
    assert_eq!(signature["session_pub"], certificate["session_pub"]);
    assert_eq!(call["detail"]["session"], connected["detail"]["session"]);

    let agent = house.json(&["agent", "show", AGENT, "--json"])["agents"][0].clone();
    let connect_text = format!(
        "lazaret-connect-v2\n{{\"agent\":{},\"aud\":{},\"exp\":{},\"nonces\":{},\"session_pub\":{}}}",
        certificate["agent"], certificate["aud"], certificate["exp"], certificate["nonces"], certificate["session_pub"]
    );
    let line_text = format!(
        "lazaret-line-v1\n{{\"line_digest\":{},\"seq\":{},\"session\":{}}}",
        signature["line_digest"], signature["seq"], call["detail"]["session"]
    );
    let verify = |key: &Value, message: &str, signature: &Value| {
        let files = ["key", "message", "signature"].map(|name| house.home().join(name));
        // SubjectPublicKeyInfo of an Ed25519 key (RFC 8410), in front of its 32 bytes.
        let pem = format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            shell(&format!(
                "(printf '\\060\\052\\060\\005\\006\\003\\053\\145\\160\\003\\041\\000'; printf %s '{}' | base64 -d) | base64 -w0",
                key.as_str().expect("a key")
            ))
        );
        std::fs::write(&files[0], pem).expect("the home directory is writable");
        std::fs::write(&files[1], message).expect("the home directory is writable");
        shell(&format!(
            "printf %s '{}' | base64 -d > '{}'",
            signature.as_str().expect("a signature"),
            files[2].display()
        ));
        let verified = Command::new("openssl")
            .args(["pkeyutl", "-verify", "-pubin", "-rawin", "-inkey"])
            .arg(&files[0])
            .arg("-in")
            .arg(&files[1])
            .arg("-sigfile")
            .arg(&files[2])
            .output()
            .expect("openssl can be run");
        verified.status.success()
    };
    assert!(verify(&agent["public_key"], &connect_text, &certificate["sig"]), "{connect_text}");
    assert!(verify(&signature["session_pub"], &line_text, &signature["sig"]), "{line_text}");
    let other_line = line_text.replace("\"seq\":", "\"seq\":1");
    assert!(!verify(&signature["session_pub"], &other_line, &signature["sig"]), "another line verifies too");
}

fn shell(script: &str) -> String {
    let output = Command::new(Path::new("/bin/sh")).args(["-c", script]).output().expect("a shell can be run");
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}
