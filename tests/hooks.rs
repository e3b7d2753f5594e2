//! What a client's hooks say of its sub-agents, and what that is worth: with Claude Code's own CLI and a model of our own.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use lazaret_tests::host::{self, House, Needs, text};
use serde_json::{Value, json};

const TOP: &str = "claude-code@ann.lazaret.local";
const SIGNER: &str = "ann@acme.example";
const SOCKET: &str = "/var/run/docker.sock";

/// A daemon with the server `life`, where the holder of the key `signer` may vouch.
fn house() -> Option<House> {
    let mut house = House::or_skip(Needs::Docker)?;
    let (signers, key) = (house.path("allowed_signers"), house.path("signer"));
    let made = Command::new("ssh-keygen").args(["-q", "-N", "", "-t", "ed25519", "-f"]).arg(&key).status();
    if !made.is_ok_and(|status| status.success()) {
        lazaret_tests::skip("hooks", "ssh-keygen is not installed; `cargo xtask setup` does that");
        return None;
    }
    let public = std::fs::read_to_string(key.with_extension("pub")).expect("a public key");
    std::fs::write(&signers, format!("{SIGNER} namespaces=\"vouch@lazaret\" {public}")).expect("a file");
    house.write_config(&format!("[identity]\nallowed_signers = {signers:?}\n"));
    house.start("observe");
    let image = host::life_image(&house, Path::new(SOCKET));
    house.ok(&["server", "add", "life", "--image", &image]);
    house.ok(&["server", "approve", "life", "--yes", "--no-start"]);
    Some(house)
}

fn vouch(house: &House) {
    house.ok(&["agent", "vouch", TOP, "--key", house.path("signer").to_str().expect("UTF-8")]);
}

/// The last record of this kind, as `audit show` tells it.
fn last(house: &House, kind: &str) -> (Value, String) {
    let log = house.ok(&["audit", "tail", "--lines", "100", "--jsonl"]);
    let mut records = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("a record per line")).rev();
    let record = records.find(|record| record["kind"] == kind).unwrap_or_else(|| panic!("no {kind} record:\n{log}"));
    let seq = record["seq"].to_string();
    (house.json(&["audit", "show", &seq, "--json"]), house.ok(&["audit", "show", &seq]))
}

/// A model that lets a sub-agent call a tool, and ends with the test.
struct Model {
    child: Child,
    port: String,
}

impl Model {
    fn start() -> Self {
        let mut child = Command::new("/usr/bin/python3")
            .arg(host::file("python/model.py"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("Python can be run");
        let mut port = String::new();
        let stdout = child.stdout.take().expect("stdout is piped");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut port).expect("it says its port");
        Self { child, port: port.trim().to_owned() }
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}

#[test]
fn claude_code_runs_the_hooks_that_were_installed_and_they_are_taken_out_to_the_byte() {
    let Some(house) = house() else { return };
    let dir = house.home().join(".claude");
    std::fs::create_dir(&dir).expect("the home directory is writable");
    let settings = dir.join("settings.json");
    let own = "{\n    \"cleanupPeriodDays\": 20,\n    \"hooks\": {\"Stop\": []}\n}\n";
    std::fs::write(&settings, own).expect("the home directory is writable");
    std::fs::write(house.claude_config(), r#"{"numStartups": 7, "hasCompletedOnboarding": true}"#).expect("writable");
    let home = house.home();
    let home = home.to_str().expect("UTF-8");
    let client = |verb: &'static str, more: &[&'static str]| {
        [&["client", verb, "claude-code", "--home", home][..], more].concat()
    };
    let shown = house.ok(&client("install", &["--agent", TOP, "--hooks", "--dry-run"]));
    assert!(shown.contains("+") && shown.contains("SubagentStart") && shown.contains("mcp__.*"), "{shown}");
    assert_eq!(std::fs::read_to_string(&settings).expect("it is there"), own, "nothing was changed");
    house.ok(&client("install", &["--agent", TOP, "--hooks", "--yes"]));
    let installed = std::fs::read_to_string(&settings).expect("it is there");
    let again = house.cli(&client("install", &["--agent", TOP, "--hooks", "--yes"]));
    assert!(again.status.success(), "{}", text(&again.stderr));
    assert_eq!(std::fs::read_to_string(&settings).expect("it is there"), installed, "once is enough");
    let hooks = |house: &House| house.json(&["client", "list", "--json"])["clients"][0]["hooks"].clone();
    assert_eq!(hooks(&house), json!(true));

    // The real client, whose sub-agent calls a tool because a model of ours says so.
    let model = Model::start();
    let claude = host::tools().join("claude/node_modules/@anthropic-ai/claude-code-linux-x64/claude");
    let run = || {
        let output = house
            .in_scope(&claude)
            .args(["-p", "start a sub-agent", "--allowedTools", "mcp__lazaret__call_tool", "Agent"])
            .env_remove("CLAUDE_CONFIG_DIR")
            .env("ANTHROPIC_BASE_URL", format!("http://127.0.0.1:{}", model.port))
            .env("ANTHROPIC_API_KEY", "sk-ant-test")
            .env("ENABLE_TOOL_SEARCH", "false")
            .env("DISABLE_AUTOUPDATER", "1")
            .env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")
            .stdin(Stdio::null())
            .output()
            .expect("Claude Code can be run");
        assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
        last(&house, "call")
    };
    let (call, screen) = run();
    assert_eq!((&call["depth"], &call["evidence"]), (&json!(2), &json!("asserted")), "{call:#}");
    let said = &call["who"]["asserted"];
    assert_eq!((&said["agent_type"], &said["from_client"]), (&json!("general-purpose"), &json!(true)), "{call:#}");
    assert!(said["tool_use"].as_str().is_some_and(|id| id.starts_with("toolu_")), "{call:#}");
    assert!(screen.contains("general-purpose") && screen.contains("asserted, said by claude-code"), "{screen}");
    vouch(&house);
    let (call, screen) = run();
    assert_eq!((&call["depth"], &call["evidence"]), (&json!(2), &json!("attested")), "{screen}\n{call:#}");

    house.ok(&client("remove", &["--yes"]));
    assert_eq!(std::fs::read_to_string(&settings).expect("it is there"), own);
    assert_eq!(hooks(&house), json!(false));
    let backups = std::fs::read_dir(&dir).expect("it is there").flatten();
    let backups = backups.filter(|entry| entry.file_name().to_string_lossy().ends_with(".bak"));
    assert_eq!(backups.count(), 2, "one for each change");
}

#[test]
fn a_hook_below_the_vouched_client_attests_and_others_only_assert() {
    let Some(mut house) = house() else { return };
    house.stop();
    let policies = house.path("policy.d");
    std::fs::create_dir(&policies).expect("the house is writable");
    let least = r#"permit (principal, action, resource) when { ["attested", "proven"].contains(context.evidence) };"#;
    std::fs::write(policies.join("least.cedar"), least).expect("the house is writable");
    house.start("observe");
    house.ok(&["agent", "enroll", TOP]);

    let event = |tool_use: &str| {
        json!({"session_id": "s1", "hook_event_name": "PreToolUse", "agent_id": "a7", "agent_type": "Explore",
               "tool_name": "mcp__lazaret__call_tool", "tool_use_id": tool_use, "tool_input": {}})
        .to_string()
    };
    // Of this process, as the client that started the connector starts its hooks.
    let of_the_client = |tool_use: &str| {
        let file = house.path("event.json");
        std::fs::write(&file, event(tool_use)).expect("the house is writable");
        let input = std::fs::File::open(&file).expect("it is there");
        let output = house.in_scope(host::binary()).arg("hook").stdin(input).output().expect("the hook can be run");
        assert_eq!(text(&output.stderr), "");
    };
    // Of nobody's: whoever started it has ended.
    let of_another = |tool_use: &str| {
        let at = |name: &str| house.path(&format!("{name}-{tool_use}"));
        let (file, go, done) = (at("other"), at("go"), at("done"));
        std::fs::write(&file, event(tool_use)).expect("the house is writable");
        let script = r#"(while [ ! -e "$1" ]; do sleep 0.05; done; "$0" hook < "$2"; : > "$3") > /dev/null 2>&1 &"#;
        let mut sh = house.in_scope("/bin/sh");
        sh.args(["-c", script]).arg(host::binary()).args([&go, &file, &done]);
        assert!(sh.status().expect("a shell can be run").success());
        std::fs::write(&go, "").expect("the house is writable");
        assert!(lazaret_tests::poll(host::PATIENCE, || done.exists().then_some(())).is_some(), "the hook ends");
    };
    let mut session = house.connect(TOP);
    let mut call = |tool_use: &str| {
        let params = format!(
            r#"{{"name":"call_tool","arguments":{{"server":"life","tool":"count"}},"_meta":{{"claudecode/toolUseId":"{tool_use}"}}}}"#
        );
        let answer = session.request("tools/call", &params);
        let refused = answer.contains("no policy permits this call");
        let (shown, screen) = last(&house, if refused { "denial" } else { "call" });
        assert_eq!((&shown["depth"], refused), (&json!(2), shown["outcome"] == "deny"), "{shown:#}\n{answer}");
        (shown["evidence"].as_str().expect("evidence").to_owned(), refused, screen)
    };
    of_the_client("t1");
    assert_eq!(call("t1").0, "asserted", "nobody vouched for this client");
    vouch(&house);
    let (evidence, refused, screen) = call("t1");
    assert_eq!((evidence.as_str(), refused), ("attested", false), "{screen}");
    assert!(screen.contains("Explore a7 (attested, said by claude-code)"), "{screen}");
    of_another("t2");
    let (evidence, refused, screen) = call("t2");
    assert_eq!((evidence.as_str(), refused), ("asserted", true), "{screen}");
    // It cannot disturb what the client itself says either.
    of_another("t1");
    assert_eq!(call("t1").0, "attested");
    house.ok(&["agent", "vouch", TOP, "--revoke", "--reason", "test"]);
    assert_eq!(call("t1").0, "asserted", "the vouch is gone");
}
