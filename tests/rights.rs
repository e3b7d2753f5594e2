//! Who may do what for whom, how often and until when: delegation, limits, revocation, and what the log answers.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lazaret_tests::host::{self, House, HttpSession, Needs, Peer, text};
use serde_json::{Value, json};

const TOP: &str = "claude-code@ann.lazaret.local";
const OTHER: &str = "codex@ann.lazaret.local";
const MIDDLE: &str = "reviewer@ann.lazaret.local";
const LEAF: &str = "linter@ann.lazaret.local";
const SOCKET: &str = "/var/run/docker.sock";

/// A daemon, a top agent, two sub-agents, and the server `life` with a container for each session.
fn house(config: &str) -> Option<House> {
    let mut house = House::or_skip(Needs::Docker)?;
    house.write_config(config);
    house.start("observe");
    house.ok(&["agent", "enroll", TOP, "--owner", "ann"]);
    for sub_agent in [MIDDLE, LEAF] {
        house.ok(&["agent", "enroll", sub_agent, "--sub-agent"]);
    }
    let image = host::life_image(&house, Path::new(SOCKET));
    house.ok(&["server", "add", "life", "--image", &image, "--isolation", "per-session"]);
    house.ok(&["server", "approve", "life", "--yes", "--no-start"]);
    Some(house)
}

/// `parent` grants `child`; the chain's file and the new grant's id.
fn delegate(house: &House, parent: &str, child: &str, cap: &str, more: &[&str]) -> (PathBuf, String) {
    let file = house.path(&format!("{}.chain", child.split('@').next().unwrap_or_default()));
    let out = file.to_str().expect("UTF-8").to_owned();
    house.ok(&[&["agent", "delegate", parent, child, "--cap", cap, "--out", &out], more].concat());
    // The same again as JSON, to have its id: each grant has one of its own, so this one is what is used.
    let made = house.json(&[&["agent", "delegate", parent, child, "--cap", cap, "--json"], more].concat());
    let chain: Vec<&str> = made["chain"].as_array().expect("a chain").iter().filter_map(Value::as_str).collect();
    std::fs::write(&file, chain.join("\n")).expect("the house is writable");
    (file, made["jti"].as_str().expect("an id").to_owned())
}

fn connect(house: &House, agent: &str, chain: &Path) -> Peer {
    Peer::start(house.connector(agent).arg("--delegation").arg(chain))
}

fn call(session: &mut Peer, tool: &str) -> Value {
    serde_json::from_str(&session.call_through("life", tool, "{}")).expect("a result is JSON")
}

/// The last record of this kind.
fn last(house: &House, kind: &str) -> Value {
    let log = house.ok(&["audit", "tail", "--lines", "100", "--jsonl"]);
    let records = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("a record per line"));
    records.rev().find(|record| record["kind"] == kind).unwrap_or_else(|| panic!("no {kind} record:\n{log}"))
}

fn show(house: &House, what: &Value) -> (Value, String) {
    let what = what.as_str().map_or_else(|| what.to_string(), str::to_owned);
    (house.json(&["audit", "show", &what, "--json"]), house.ok(&["audit", "show", &what]))
}

#[test]
fn the_log_answers_for_a_sub_agent_at_depth_three_and_for_what_it_was_refused() {
    let Some(house) = house("") else { return };
    let (middle, first) = delegate(&house, TOP, MIDDLE, "life:*", &["--max-depth", "3"]);
    let (leaf, second) =
        delegate(&house, MIDDLE, LEAF, "life:count", &["--delegation", middle.to_str().expect("UTF-8")]);
    let mut session = connect(&house, LEAF, &leaf);
    assert!(!session.call("search_tools", r#"{"query":"die hang flood"}"#).contains("die"), "it sees what it may not");
    assert_eq!(call(&mut session, "count")["content"][0]["text"], "1");

    let (shown, screen) = show(&house, &last(&house, "call")["call_id"]);
    assert_eq!((&shown["schema"], &shown["outcome"]), (&json!("lazaret.call.v1"), &json!("permit")), "{shown:#}");
    assert_eq!((&shown["who"]["agent"], &shown["for_whom"]), (&json!(LEAF), &json!("ann")), "{shown:#}");
    assert_eq!((&shown["depth"], &shown["evidence"]), (&json!(3), &json!("proven")), "{shown:#}");
    let chain: Vec<&Value> = shown["chain"].as_array().into_iter().flatten().map(|hop| &hop["address"]).collect();
    assert_eq!(chain, [TOP, MIDDLE, LEAF]);
    assert_eq!(shown["right"]["delegations"], json!([first, second]));
    assert_eq!(shown["right"]["policies"], json!(["builtin"]));
    assert_eq!(shown["vouch"]["state"], "none");
    assert_eq!(shown["end"]["outcome"], "ok");
    assert_eq!(shown["signed"]["verified"], true, "{shown:#}");
    let said = "verified with the agent's key";
    for part in [TOP, MIDDLE, LEAF, "ann", "SHA256:", "permitted, ended ok", &first, &second, "vouched", said] {
        assert!(screen.contains(part), "{part}: {screen}");
    }
    assert!(screen.lines().count() <= 24, "it does not fit on one screen:\n{screen}");

    let refused = call(&mut session, "die");
    assert!(refused["isError"] == true && refused.to_string().contains("was not found"), "{refused:#}");
    let (shown, screen) = show(&house, &last(&house, "denial")["seq"]);
    assert_eq!((&shown["outcome"], &shown["right"]["gate"]), (&json!("deny"), &json!("routing")), "{shown:#}");
    assert!(screen.contains("grants life:count, not this tool") && screen.contains("by the gate routing"), "{screen}");

    // A sub-agent is nobody by itself.
    let (code, said) = house.refused(&["connect", "--agent", LEAF]);
    assert!(code == 5 && said.contains("presents no delegation"), "{code}: {said}");
}

#[test]
fn a_grant_that_is_wider_than_its_parent_s_is_refused_by_hop_and_capability() {
    let Some(house) = house("") else { return };
    let (narrow, _) = delegate(&house, TOP, MIDDLE, "life:count", &["--max-depth", "3"]);
    let narrow = narrow.to_str().expect("UTF-8");
    let own = std::fs::read_to_string(narrow).expect("the chain");
    let wider = ["agent", "delegate", MIDDLE, LEAF, "--cap", "life:count,life:die", "--delegation", narrow];
    let (code, said) = house.refused(&wider);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("hop 2 of the delegation grants life:die, which hop 1 does not grant"), "{said}");
    let deeper = ["agent", "delegate", MIDDLE, LEAF, "--cap", "life:count", "--max-depth", "4", "--delegation", narrow];
    assert!(house.refused(&deeper).1.contains("allows depth 4"));

    // A hop that was granted on something wider, behind the narrow one.
    let (wide, _) = delegate(&house, TOP, MIDDLE, "life:*", &["--max-depth", "3"]);
    let (leaf, _) = delegate(&house, MIDDLE, LEAF, "life:die", &["--delegation", wide.to_str().expect("UTF-8")]);
    let last = std::fs::read_to_string(&leaf).expect("the chain").lines().last().unwrap_or_default().to_owned();
    std::fs::write(&leaf, format!("{own}\n{last}\n")).expect("the house is writable");
    let leaf = leaf.to_str().expect("UTF-8");
    let (code, said) = house.refused(&["connect", "--agent", LEAF, "--delegation", leaf]);
    assert!(code == 5 && said.contains("hop 2 of the delegation does not follow hop 1"), "{code}: {said}");
    // Somebody else's chain.
    let (code, said) = house.refused(&["connect", "--agent", TOP, "--delegation", narrow]);
    assert!(code == 5 && said.contains("the agent that presents it is"), "{code}: {said}");
}

/// A call that its server never answers; the line that ends it, when it came, and the session.
fn held(mut session: Peer) -> JoinHandle<(Value, Instant, Peer)> {
    std::thread::spawn(move || {
        let params = r#"{"name":"call_tool","arguments":{"server":"life","tool":"hang"}}"#;
        let line = session.request("tools/call", params);
        (serde_json::from_str(&line).expect("a JSON line"), Instant::now(), session)
    })
}

#[test]
fn whatever_is_revoked_ends_the_calls_in_flight_of_all_that_stand_on_it() {
    let Some(house) = house("") else { return };
    let (middle, _) = delegate(&house, TOP, MIDDLE, "life:*", &["--max-depth", "3"]);
    let (leaf, jti) = delegate(&house, MIDDLE, LEAF, "life:*", &["--delegation", middle.to_str().expect("UTF-8")]);
    let connect_leaf = || connect(&house, LEAF, &leaf);
    let connect_top = || house.connect(TOP);
    house.ok(&["agent", "enroll", OTHER]);
    let connect_other = || house.connect(OTHER);
    // What is revoked, how it is taken back where it can be, and the one whose call ends.
    type Connect<'a> = &'a dyn Fn() -> Peer;
    type Kind<'a> = (&'a str, &'a [&'a str], &'a [&'a str], Connect<'a>, &'a str);
    let kinds: [Kind<'_>; 6] = [
        (
            "a tool",
            &["tool", "block", "life:hang"],
            &["tool", "approve", "life:hang"],
            &connect_top,
            "taken out of service",
        ),
        ("a parent, for a while", &["agent", "suspend", TOP], &["agent", "resume", TOP], &connect_leaf, "is suspended"),
        ("a delegation", &["agent", "revoke", "--delegation", &jti], &[], &connect_leaf, "was revoked"),
        ("an agent, for a while", &["agent", "suspend", TOP], &["agent", "resume", TOP], &connect_top, "is suspended"),
        ("an agent", &["agent", "revoke", TOP], &[], &connect_top, "revoked"),
        ("a server", &["server", "deny", "life"], &[], &connect_other, "taken out of service"),
    ];
    let intents = || house.ok(&["audit", "tail", "--lines", "200", "--jsonl"]).matches(r#""kind":"call""#).count();
    for (what, revoke, undo, connect, why) in kinds {
        let mut session = connect();
        // Its container runs: what is held next is held by the server, not by its start.
        assert_ne!(call(&mut session, "count")["isError"], true, "{what}");
        let before = intents();
        let call = held(session);
        let there = lazaret_tests::poll(host::PATIENCE, || (intents() > before).then_some(()));
        assert!(there.is_some(), "{what}: the call is not on record");
        let began = Instant::now();
        house.ok(revoke);
        let (line, at, session) = call.join().expect("the call ends");
        let took = at.saturating_duration_since(began);
        println!(
            "revoking {what} ended the call in flight after {} ms, the command line's start included",
            took.as_millis()
        );
        assert!(line.to_string().contains(why), "{what}: {line:#}");
        // A loaded machine needs longer for the command itself than the promise allows for the end.
        assert!(took < Duration::from_secs(10), "{what}: {took:?}");
        drop(session);
        if !undo.is_empty() {
            house.ok(undo);
        }
    }
}

#[test]
fn a_hook_names_the_sub_agent_that_has_no_key() {
    let Some(house) = house("") else { return };
    let hook = |event: &Value| {
        let mut child = house
            .in_scope(host::binary())
            .arg("hook")
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary can be run");
        let mut stdin = child.stdin.take().expect("stdin is piped");
        stdin.write_all(event.to_string().as_bytes()).expect("the hook reads");
        drop(stdin);
        let output = child.wait_with_output().expect("the hook ends");
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stderr)
    };
    let event = |name: &str, tool_use: &str| {
        json!({
            "session_id": "s1", "hook_event_name": name, "agent_id": "a7", "agent_type": "Explore",
            "tool_name": "mcp__lazaret__call_tool", "tool_use_id": tool_use, "tool_input": {"secret": "never told"},
        })
    };
    assert_eq!(hook(&event("SubagentStart", "t0")), "");
    assert_eq!(hook(&event("PreToolUse", "t1")), "");
    let mut session = house.connect(TOP);
    let params = |tool_use: &str| {
        format!(
            r#"{{"name":"call_tool","arguments":{{"server":"life","tool":"count"}},"_meta":{{"claudecode/toolUseId":"{tool_use}"}}}}"#
        )
    };
    session.request("tools/call", &params("t1"));
    let (shown, screen) = show(&house, &last(&house, "call")["call_id"]);
    assert_eq!((&shown["depth"], &shown["evidence"]), (&json!(2), &json!("asserted")), "{shown:#}");
    assert_eq!(shown["who"]["asserted"]["agent_id"], "a7");
    assert!(screen.contains("Explore a7 (asserted, said by claude-code)"), "{screen}");
    // A tool use that no hook spoke of is the top agent's own.
    session.request("tools/call", &params("t2"));
    let (shown, _) = show(&house, &last(&house, "call")["call_id"]);
    assert_eq!((&shown["depth"], &shown["evidence"]), (&json!(1), &json!("proven")), "{shown:#}");
    assert!(!house.ok(&["audit", "tail", "--lines", "100", "--jsonl"]).contains("never told"));

    // Whatever is wrong, the client goes on.
    assert!(hook(&json!(["no event"])).contains("not passed on"));
    assert!(hook(&json!({"hook_event_name": "PreToolUse", "tool_input": "x".repeat(70_000)})).contains("65536 bytes"));
    let nowhere = house.lazaret().args(["hook", "--run-dir", "/nonexistent"]).stdin(Stdio::null()).output();
    assert_eq!(nowhere.expect("the binary can be run").status.code(), Some(0));
}

#[test]
fn limits_hold_over_a_killed_daemon_and_say_when_to_come_again() {
    let config = "[rate.tool.\"life:count\"]\ncalls_per_day = 3\n";
    let Some(mut house) = house(config) else { return };
    let mut session = house.connect(TOP);
    for _ in 0..3 {
        assert_ne!(call(&mut session, "count")["isError"], true);
    }
    let refused = |session: &mut Peer| {
        let answer = call(session, "count");
        assert_eq!(answer["isError"], true, "{answer:#}");
        let text = answer["content"][0]["text"].as_str().unwrap_or_default();
        assert!(text.contains("tool life:count may take 3 calls a day; come again in"), "{answer:#}");
        let limit = &answer["_meta"]["lazaret/rateLimit"];
        assert_eq!(limit["limit"], "tool life:count");
        assert!(limit["retryAfterSeconds"].as_u64().is_some_and(|wait| (1..=86_400).contains(&wait)), "{answer:#}");
    };
    refused(&mut session);
    let (shown, screen) = show(&house, &last(&house, "denial")["seq"]);
    assert_eq!(shown["right"]["limit"], "tool life:count");
    assert!(screen.contains("by the gate rate"), "{screen}");
    assert!(house.ok(&["status"]).contains("tool life:count: 3 of 3 calls today"));
    assert!(house.ok(&["agent", "show", TOP]).contains("calls today"));
    drop(session);
    house.kill_daemon();
    house.start("observe");
    refused(&mut house.connect(TOP));
}

#[test]
fn a_sub_agent_over_http_is_proven_at_its_depth_and_ends_with_every_hop_above_it() {
    let Some(house) = house("[http]\nlisten = \"127.0.0.1:0\"\n") else { return };
    let (middle, first) = delegate(&house, TOP, MIDDLE, "life:*", &["--max-depth", "3"]);
    let (leaf, second) = delegate(&house, MIDDLE, LEAF, "life:*", &["--delegation", middle.to_str().expect("UTF-8")]);
    let leaf = leaf.to_str().expect("UTF-8");
    let (code, said) = house.refused(&["token", "--agent", LEAF]);
    assert!(code == 5 && said.contains("presents no delegation"), "{code}: {said}");
    let token = || house.ok(&["token", "--agent", LEAF, "--delegation", leaf]).trim().to_owned();
    let own = token();
    let session = HttpSession::open(&house, &own).expect("the token is taken");
    let answer = session.call_through("life", "count");
    assert!(answer.contains(r#""text":"1""#), "{answer}");

    // The five questions, over this transport.
    let (shown, screen) = show(&house, &last(&house, "call")["call_id"]);
    assert_eq!((&shown["who"]["agent"], &shown["for_whom"]), (&json!(LEAF), &json!("ann")), "{shown:#}");
    assert_eq!((&shown["depth"], &shown["evidence"]), (&json!(3), &json!("proven")), "{shown:#}");
    let chain: Vec<&Value> = shown["chain"].as_array().into_iter().flatten().map(|hop| &hop["address"]).collect();
    assert_eq!(chain, [TOP, MIDDLE, LEAF]);
    assert_eq!(shown["right"]["delegations"], json!([first, second]));
    assert_eq!((&shown["who"]["transport"], &shown["vouch"]["state"]), (&json!("http"), &json!("none")), "{shown:#}");
    let token_id = own.split('_').nth(1).expect("a token has an id");
    assert_eq!(shown["who"]["token"], token_id, "{shown:#}");
    for part in [TOP, MIDDLE, LEAF, "ann", &first, &second, "over http", token_id, "nobody signed"] {
        assert!(screen.contains(part), "{part}: {screen}");
    }

    // A call that its server never answers, and whatever is taken away above it.
    let kinds: [(&str, &[&str], &[&str], &str); 3] = [
        ("the top agent, for a while", &["agent", "suspend", TOP], &["agent", "resume", TOP], "is suspended"),
        ("the middle one, for a while", &["agent", "suspend", MIDDLE], &["agent", "resume", MIDDLE], "is suspended"),
        ("the first grant", &["agent", "revoke", "--delegation", &first], &[], "was revoked"),
    ];
    let intents = || house.ok(&["audit", "tail", "--lines", "200", "--jsonl"]).matches(r#""kind":"call""#).count();
    for (what, revoke, undo, why) in kinds {
        let own = token();
        let session = HttpSession::open(&house, &own).expect("the token is taken");
        assert!(session.call_through("life", "count").contains(r#""content""#), "{what}");
        let before = intents();
        let call = std::thread::spawn(move || (session.call_through("life", "hang"), Instant::now(), session));
        let there = lazaret_tests::poll(host::PATIENCE, || (intents() > before).then_some(()));
        assert!(there.is_some(), "{what}: the call is not on record");
        let began = Instant::now();
        house.ok(revoke);
        let (answer, at, session) = call.join().expect("the call ends");
        println!("revoking {what} ended a call over HTTP after {} ms", at.saturating_duration_since(began).as_millis());
        assert!(answer.contains(why), "{what}: {answer}");
        assert!(at.saturating_duration_since(began) < Duration::from_secs(10), "{what}");
        let refused = session.call_through("life", "count");
        assert!(refused.starts_with("HTTP/1.1 401") && refused.contains(why), "{what}: {refused}");
        let listed = house.json(&["agent", "token", "list", "--json"]);
        let listed = listed["tokens"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|view| own.contains(view["id"].as_str().unwrap_or("-")));
        assert!(listed.is_some_and(|view| view["depth"] == 3 && view["refused"].to_string().contains(why)), "{what}");
        if !undo.is_empty() {
            house.ok(undo);
        }
    }
    assert_eq!(house.refused(&["token", "--agent", LEAF, "--delegation", leaf]).0, 5, "nor is there a new one");
}
