//! Real clients reach real servers through the door, and only what was approved.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use lazaret_tests::host::{self, Health, House, Needs, text};
use serde_json::{Value, json};

const AGENT: &str = "claude-code@ann.lazaret.local";

/// Adds a server as an operator would, and approves what the review finds.
fn approve(house: &House, name: &str, source: &[&str]) {
    house.ok(&[&["server", "add", name], source].concat());
    house.ok(&["server", "approve", name, "--yes"]);
}

/// Adds one of our own servers and approves it.
fn approve_own(house: &House, name: &str, file: &str) {
    let path = host::file(file);
    approve(house, name, &["--local", path.to_str().expect("UTF-8"), "--", "python3", "{src}"]);
}

fn approve_oddities(house: &House) {
    approve_own(house, "odd", "servers/oddities.py");
}

fn is_error(result: &str) -> bool {
    serde_json::from_str::<Value>(result).expect("a result is JSON")["isError"] == true
}

#[test]
fn an_adopted_and_approved_server_answers_claude_code_from_a_hardened_cage() {
    let Some(mut house) = House::or_skip(Needs::Docker) else { return };
    let everything = host::everything();
    house.configure_claude(&[("everything", Path::new("node"), &[everything.to_str().expect("UTF-8")])]);
    house.start("enforce");
    assert_eq!(house.claude_mcp_list().get("everything"), Some(&Health::Failed));
    let shadow = house.shadow_named("everything");

    house.ok(&["shadow", "adopt", shadow["id"].as_str().expect("an id"), "--name", "everything"]);
    let server = &house.json(&["server", "show", "everything", "--json"])["servers"][0];
    assert_eq!(server["state"], "quarantined", "{server:#}");
    house.ok(&["server", "approve", "everything", "--yes"]);
    house.ok(&["client", "install", "claude-code", "--agent", AGENT, "--yes"]);

    let health = house.claude_mcp_list();
    assert_eq!(health.get("lazaret"), Some(&Health::Connected), "{health:?}");
    assert!(!health.contains_key("everything"), "the adopted entry left the config: {health:?}");
    let config: Value = serde_json::from_str(&std::fs::read_to_string(house.claude_config()).expect("config"))
        .expect("the changed config is JSON");
    assert_eq!(config["keptByTests"], 1.5, "what else stood in the config is kept");

    let mut session = house.connect(AGENT);
    let answer = session.call_through("everything", "echo", r#"{"message":"hello"}"#);
    assert!(answer.contains("hello"), "{answer}");
    let containers = house.containers();
    assert_eq!(containers.len(), 1, "one container serves: {containers:?}");
    assert_hardened(&containers[0]);

    house.stop();
    assert_eq!(house.containers(), Vec::<String>::new(), "no container is left behind");
}

fn assert_hardened(container: &str) {
    let output = Command::new("docker").args(["inspect", container]).output().expect("the docker client can be run");
    let inspected: Value = serde_json::from_slice(&output.stdout).expect("docker inspect prints JSON");
    let (config, host) = (&inspected[0]["Config"], &inspected[0]["HostConfig"]);
    let is = |what: &str, found: &Value, wanted: Value| assert_eq!(*found, wanted, "{what}: {host:#}");
    is("all capabilities are dropped", &host["CapDrop"], json!(["ALL"]));
    assert!(host["CapAdd"].as_array().is_none_or(Vec::is_empty), "no capability is added: {host:#}");
    is("not privileged", &host["Privileged"], json!(false));
    is("the root is read-only", &host["ReadonlyRootfs"], json!(true));
    is("there is no network", &host["NetworkMode"], json!("none"));
    is("an init reaps", &host["Init"], json!(true));
    is("nothing is logged", &host["LogConfig"]["Type"], json!("none"));
    let security = host["SecurityOpt"].to_string();
    assert!(security.contains("no-new-privileges"), "{security}");
    assert!(!security.contains("unconfined"), "seccomp is on: {security}");
    let memory = host["Memory"].as_i64().unwrap_or(0);
    assert!(memory > 0, "memory is limited: {host:#}");
    is("there is no swap", &host["MemorySwap"], json!(memory));
    assert!(host["PidsLimit"].as_i64().is_some_and(|pids| pids > 0), "processes are limited: {host:#}");
    assert!(host["NanoCpus"].as_i64().is_some_and(|cpus| cpus > 0), "cpu is limited: {host:#}");
    assert!(
        host["CgroupParent"].as_str().is_some_and(|parent| parent.contains("lazaret")),
        "own cgroup parent: {host:#}"
    );
    let tmpfs = host["Tmpfs"]["/tmp"].as_str().unwrap_or_default();
    assert!(tmpfs.contains("noexec") && tmpfs.contains("size="), "/tmp is small and not executable: {host:#}");
    assert!(
        inspected[0]["Mounts"].as_array().is_none_or(Vec::is_empty),
        "no host mounts: {:#}",
        inspected[0]["Mounts"]
    );
    let user = config["User"].as_str().unwrap_or_default();
    assert!(!user.is_empty() && user != "root" && !user.starts_with('0'), "not root: {user:?}");
    assert!(
        config["Image"].as_str().is_some_and(|image| image.starts_with("sha256:")),
        "image by id: {}",
        config["Image"]
    );
}

#[test]
fn an_npm_server_answers_byte_for_byte_as_it_does_bare() {
    let Some(mut house) = House::or_skip(Needs::Docker) else { return };
    house.start("enforce");
    approve(&house, "everything", &["--npm", "@modelcontextprotocol/server-everything@2026.8.31"]);
    house.ok(&["agent", "enroll", AGENT]);
    let mut bare = house.bare(Path::new("node"), &[host::everything().to_str().expect("UTF-8")]);
    let mut door = house.connect(AGENT);
    for (tool, arguments) in [
        ("echo", r#"{"message":"grüße \u0001 \ud83d\ude00"}"#),
        ("get-sum", r#"{"a":1.50,"b":2}"#),
        ("get-structured-content", r#"{"location":"New York"}"#),
        ("get-tiny-image", "{}"),
        ("get-annotated-message", r#"{"messageType":"error","includeImage":true}"#),
        ("get-sum", r#"{"a":"not a number"}"#),
    ] {
        let expected = bare.call(tool, arguments);
        assert_eq!(door.call_through("everything", tool, arguments), expected, "{tool} {arguments}");
    }
}

#[test]
fn a_pypi_server_answers_byte_for_byte_as_it_does_bare() {
    let Some(mut house) = House::or_skip(Needs::Docker) else { return };
    house.start("enforce");
    approve(&house, "time", &["--pypi", "mcp-server-time==2026.10.19"]);
    house.ok(&["agent", "enroll", AGENT]);
    let mut bare = house.bare(&host::python("sdk2"), &["-m", "mcp_server_time"]);
    let mut door = house.connect(AGENT);
    let arguments = r#"{"source_timezone":"Europe/Berlin","time":"12:30","target_timezone":"Asia/Tokyo"}"#;
    assert_eq!(door.call_through("time", "convert_time", arguments), bare.call("convert_time", arguments));
}

#[test]
fn numbers_order_escapes_and_unknown_members_survive_both_ways() {
    let Some(mut house) = House::or_skip(Needs::Docker) else { return };
    house.start("enforce");
    approve_oddities(&house);
    house.ok(&["agent", "enroll", AGENT]);
    let script = host::file("servers/oddities.py");
    let mut bare = house.bare(Path::new("/usr/bin/python3"), &[script.to_str().expect("UTF-8")]);
    let mut door = house.connect(AGENT);
    assert_eq!(door.call_through("odd", "odd", "{}"), bare.call("odd", "{}"));
    let strange = r#"{"z":1.0,"big":12345678901234567890123,"a":{"y":-0.0,"x":1E+2},"text":"caf\u00e9\/"}"#;
    assert_eq!(door.call_through("odd", "mirror", strange), bare.call("mirror", strange));
}

#[test]
fn the_python_sdks_list_search_describe_and_call() {
    let Some(mut house) = House::or_skip(Needs::Docker) else { return };
    house.start("enforce");
    approve_oddities(&house);
    house.ok(&["agent", "enroll", AGENT]);
    for sdk in ["sdk1", "sdk2"] {
        let output = house
            .in_scope(host::python(sdk))
            .arg(host::file("python/through_the_door.py"))
            .args(["gives back arguments", "odd", "mirror", r#"{"k": "v"}"#])
            .arg(host::binary())
            .args(["connect", "--agent", AGENT])
            .stdin(Stdio::null())
            .output()
            .expect("Python can be run");
        assert!(output.status.success(), "{sdk}: {}", text(&output.stderr));
        let said: Value = serde_json::from_slice(&output.stdout).expect("the script prints JSON");
        let tools: BTreeSet<&str> = said["tools"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        assert_eq!(tools, BTreeSet::from(["search_tools", "describe_tool", "call_tool"]), "{sdk}");
        assert!(said["search"].to_string().contains("mirror"), "{sdk}: {:#}", said["search"]);
        assert!(said["described"].to_string().contains("exactly as they arrived"), "{sdk}: {:#}", said["described"]);
        assert!(
            said["called"]["content"][0]["text"].as_str().is_some_and(|echo| echo.contains("\"k\"")),
            "{sdk}: {said:#}"
        );
    }
}

#[test]
fn tools_of_a_quarantined_server_are_neither_found_nor_described_nor_callable() {
    let Some(mut house) = House::or_skip(Needs::Docker) else { return };
    house.start("enforce");
    let path = host::file("servers/oddities.py");
    house.ok(&["server", "add", "odd", "--local", path.to_str().expect("UTF-8"), "--", "python3", "{src}"]);
    house.ok(&["server", "review", "odd"]);
    assert_eq!(house.json(&["server", "show", "odd", "--json"])["servers"][0]["state"], "quarantined");
    house.ok(&["agent", "enroll", AGENT]);
    let mut session = house.connect(AGENT);
    let found = session.call("search_tools", r#"{"query":"odd numbers unknown members mirror arguments"}"#);
    assert!(!found.contains("mirror"), "found: {found}");
    let mut refusal = |method: &str, name: &str| {
        let answer = session.call(method, &format!(r#"{{"server":"{name}","tool":"mirror","arguments":{{}}}}"#));
        let answer: Value = serde_json::from_str(&answer).expect("a result is JSON");
        assert_eq!(answer["isError"], true, "{method} {name}: {answer:#}");
        answer.to_string().replace(name, "NAME")
    };
    assert_eq!(refusal("call_tool", "odd"), refusal("call_tool", "nowhere"), "quarantined and unknown look alike");
    assert_eq!(refusal("describe_tool", "odd"), refusal("describe_tool", "nowhere"));

    house.ok(&["server", "approve", "odd", "--yes"]);
    let mut session = house.connect(AGENT);
    let found = session.call("search_tools", r#"{"query":"odd numbers unknown members mirror arguments"}"#);
    assert!(found.contains("mirror"), "approved, and not found: {found}");
}

#[test]
fn an_unknown_agent_gets_nothing_and_exit_code_5() {
    let Some(mut house) = House::or_skip(Needs::Nothing) else { return };
    house.start("observe");
    house.ok(&["agent", "enroll", AGENT]);
    // A key that this daemon has never seen, under an address of its own.
    let keys = house.home().join(".config/lazaret/agents");
    let stranger = "stranger@ann.lazaret.local";
    std::fs::copy(keys.join(format!("{AGENT}.pem")), keys.join(format!("{stranger}.pem"))).expect("the key is a file");
    let (code, said) = house.refused(&["connect", "--agent", stranger]);
    assert_eq!(code, 5, "{said}");
    assert!(said.contains(stranger), "{said}");
}

#[test]
fn an_agent_with_a_wrong_key_is_refused() {
    let Some(mut house) = House::or_skip(Needs::Nothing) else { return };
    house.start("observe");
    house.ok(&["agent", "enroll", AGENT]);
    house.ok(&["agent", "enroll", "other@ann.lazaret.local"]);
    let other = house.home().join(".config/lazaret/agents/other@ann.lazaret.local.pem");
    let (code, said) = house.refused(&["connect", "--agent", AGENT, "--key", other.to_str().expect("UTF-8")]);
    assert_eq!(code, 5, "{said}");
}

#[test]
fn the_open_session_of_a_revoked_agent_ends() {
    let Some(mut house) = House::or_skip(Needs::Nothing) else { return };
    house.start("observe");
    house.ok(&["agent", "enroll", AGENT]);
    let mut session = house.connect(AGENT);
    assert!(session.request("tools/list", "{}").contains("search_tools"));
    house.ok(&["agent", "revoke", AGENT, "--reason", "key_compromise"]);
    let status = session.wait_for_end();
    assert_eq!(status.code(), Some(5), "{status}");
    let (code, said) = house.refused(&["connect", "--agent", AGENT]);
    assert_eq!(code, 5, "{said}");
}

#[test]
fn every_call_denial_and_review_is_in_the_audit_log() {
    let Some(mut house) = House::or_skip(Needs::Docker) else { return };
    house.start("enforce");
    approve_oddities(&house);
    house.ok(&["agent", "enroll", AGENT]);
    let mut session = house.connect(AGENT);
    session.call_through("odd", "mirror", "{}");
    session.call_through("nowhere", "nothing", "{}");
    drop(session);
    let log = house.ok(&["audit", "tail", "--lines", "100", "--jsonl"]);
    let records: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).expect("one record per line")).collect();
    let count = |kind: &str| records.iter().filter(|record| record["kind"] == kind).count();
    for kind in ["review", "call", "result", "denial", "agent"] {
        assert!(count(kind) >= 1, "no {kind} record:\n{log}");
    }
    assert_eq!(count("call"), count("result"), "each call that was forwarded has its result:\n{log}");
}

#[test]
fn a_server_that_changes_a_tool_while_it_runs_is_quarantined_at_once() {
    let Some(mut house) = House::or_skip(Needs::Docker) else { return };
    house.start("enforce");
    approve_own(&house, "rug", "servers/rug_pull.py");
    house.ok(&["agent", "enroll", AGENT]);
    let mut session = house.connect(AGENT);
    assert!(!is_error(&session.call_through("rug", "add", "{}")));
    session.call_through("rug", "turn", "{}");
    let fell = lazaret_tests::poll(host::PATIENCE, || {
        let server = house.json(&["server", "show", "rug", "--json"])["servers"][0].clone();
        (server["state"] == "quarantined").then_some(server)
    });
    assert!(fell.is_some(), "{:#}", house.json(&["server", "show", "rug", "--json"]));
    assert!(is_error(&session.call_through("rug", "add", "{}")), "an open session still calls it");
    assert!(!session.call("search_tools", r#"{"query":"adds two numbers"}"#).contains("rug"), "it is still found");
}

#[test]
fn a_blocked_tool_is_neither_found_nor_callable_and_its_neighbour_is() {
    let Some(mut house) = House::or_skip(Needs::Docker) else { return };
    house.start("enforce");
    approve_oddities(&house);
    house.ok(&["agent", "enroll", AGENT]);
    let mut session = house.connect(AGENT);
    assert!(!is_error(&session.call_through("odd", "mirror", "{}")));
    house.ok(&["tool", "block", "odd:mirror"]);
    assert!(is_error(&session.call_through("odd", "mirror", "{}")), "an open session still calls it");
    assert!(!session.call("search_tools", r#"{"query":"mirror arguments exactly"}"#).contains("mirror"));
    assert!(!is_error(&session.call_through("odd", "odd", "{}")));
}

#[test]
fn containers_of_a_killed_daemon_are_removed_by_the_next_one() {
    let Some(mut house) = House::or_skip(Needs::Docker) else { return };
    house.start("enforce");
    approve_oddities(&house);
    assert_eq!(house.containers().len(), 1);
    house.kill_daemon();
    assert_eq!(house.containers().len(), 1, "it outlived its daemon");
    house.start("enforce");
    assert_eq!(house.containers(), Vec::<String>::new());
    house.ok(&["agent", "enroll", AGENT]);
    let mut session = house.connect(AGENT);
    assert!(!is_error(&session.call_through("odd", "mirror", "{}")), "the approval outlived it too");
}

#[test]
fn a_call_after_its_container_died_is_answered_by_a_new_one() {
    let Some(mut house) = House::or_skip(Needs::Docker) else { return };
    house.start("enforce");
    approve_oddities(&house);
    house.ok(&["agent", "enroll", AGENT]);
    let mut session = house.connect(AGENT);
    assert!(!is_error(&session.call_through("odd", "mirror", "{}")));
    let first = house.containers();
    let killed = Command::new("docker").args(["kill", &first[0]]).output().expect("the docker client can be run");
    assert!(killed.status.success(), "{}", text(&killed.stderr));
    let answered =
        lazaret_tests::poll(host::PATIENCE, || (!is_error(&session.call_through("odd", "mirror", "{}"))).then_some(()));
    assert!(answered.is_some());
    let now = house.containers();
    assert!(now.len() == 1 && now != first, "the dead one is gone, a new one serves: {first:?} {now:?}");
}

#[test]
fn directly_exposed_tools_are_listed_and_answer_as_they_do_bare() {
    let Some(mut house) = House::or_skip(Needs::Docker) else { return };
    house.write_config("[proxy]\nexpose = \"direct\"\n");
    house.start("enforce");
    approve_oddities(&house);
    house.ok(&["agent", "enroll", AGENT]);
    let script = host::file("servers/oddities.py");
    let mut bare = house.bare(Path::new("/usr/bin/python3"), &[script.to_str().expect("UTF-8")]);
    let mut door = house.connect(AGENT);
    let listed = door.request("tools/list", "{}");
    assert!(listed.contains(r#""name":"odd__odd""#) && listed.contains(r#""x-vendor":{"z":1.0}"#), "{listed}");
    assert_eq!(door.call("odd__odd", "{}"), bare.call("odd", "{}"));
}
