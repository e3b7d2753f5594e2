//! Policies from their files to a human's answer, through a real daemon, door and cage.

use std::time::Duration;

use lazaret_tests::host::{self, House, Needs, text};
use lazaret_tests::poll;
use serde_json::Value;

const AGENT: &str = "claude-code@ann.lazaret.local";
const PATIENCE: Duration = Duration::from_secs(60);

/// What is there within a generous time, however loaded the machine is.
fn wait_for<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    poll(PATIENCE, look).unwrap_or_else(|| panic!("{what} did not come"))
}

fn house_with_starter_set() -> Option<House> {
    let mut house = House::or_skip(Needs::Docker)?;
    house.start("observe");
    let server = host::file("servers/oddities.py");
    house.ok(&["server", "add", "odd", "--local", server.to_str().expect("UTF-8"), "--", "python3", "{src}"]);
    house.ok(&["server", "approve", "odd", "--yes"]);
    house.ok(&["agent", "enroll", AGENT]);
    let dir = house.config_file().with_file_name("policy.d");
    std::fs::create_dir_all(&dir).expect("the directory of the policies");
    for file in ["10-starter.cedar", "10-starter.test.toml"] {
        std::fs::copy(host::file(&format!("../packaging/policy.d/{file}")), dir.join(file)).expect("the starter set");
    }
    wait_for("the reload of the starter set", || {
        (house.json(&["status", "--json"])["policy"]["source"] == "files").then_some(())
    });
    Some(house)
}

/// The id of the call that waits.
fn waiting(house: &House) -> String {
    wait_for("a waiting call", || Some(house.json(&["ask", "list", "--json"])["asks"][0]["id"].as_str()?.to_owned()))
}

#[test]
fn a_call_waits_for_a_human_who_sees_its_arguments_and_answers() {
    let Some(house) = house_with_starter_set() else { return };
    let mut session = house.connect(AGENT);
    let mut call = |answer: &dyn Fn(&str)| {
        std::thread::scope(|scope| {
            let called = scope.spawn(|| session.call_through("odd", "mirror", r#"{"k":"precious"}"#));
            answer(&waiting(&house));
            called.join().expect("the call ended")
        })
    };
    let answer = call(&|id| {
        let shown = house.json(&["ask", "show", id, "--json"]);
        assert_eq!(shown["arguments"], r#"{"k":"precious"}"#, "{shown:#}");
        house.ok(&["ask", "approve", id]);
    });
    assert!(answer.contains("precious"), "{answer}");
    let answer = call(&|id| drop(house.ok(&["ask", "deny", id, "--why", "no"])));
    assert!(answer.contains("a human denied this call") && answer.contains("isError"), "{answer}");

    let log = house.json(&["audit", "tail", "-n", "50", "--json"]);
    assert!(!log.to_string().contains("precious"), "no argument's value is in the log");
    let records = log["records"].as_array().expect("records");
    let permitted = records.iter().find(|r| r["kind"] == "call").expect("a call went through");
    assert!(permitted["detail"]["approval"]["by"].is_string(), "{permitted:#}");
    let told = house.ok(&["policy", "explain", permitted["call_id"].as_str().expect("an id")]);
    assert!(told.contains("with-a-human") && told.contains("approved by"), "{told}");
    let denied = records.iter().rev().find(|r| r["kind"] == "denial").expect("a denial");
    let told = house.ok(&["policy", "explain", &denied["seq"].to_string()]);
    assert!(told.contains("at the gate policy") && told.contains("not known"), "{told}");
    let described = house.json(&["policy", "explain", "--agent", AGENT, "--tool", "odd:mirror", "--json"]);
    assert_eq!(described["decision"], "ask", "{described:#}");
}

#[test]
fn files_that_do_not_load_change_nothing_and_everybody_is_told() {
    let Some(house) = house_with_starter_set() else { return };
    let dir = house.config_file().with_file_name("policy.d");
    assert!(house.ok(&["policy", "test"]).contains(" 0 failed"));
    std::fs::write(dir.join("20-mine.cedar"), "permit (principal, action, resource);\nforbid (").expect("a file");
    let refused = |house: &House| house.json(&["status", "--json"])["policy"]["refused"]["error"].clone();
    let error = wait_for("the refusal", || refused(&house).as_str().map(str::to_owned));
    assert!(error.contains("20-mine.cedar:2:"), "{error}");
    assert!(house.ok(&["status"]).contains("REFUSED"));
    let asked = house.json(&["policy", "explain", "--agent", AGENT, "--tool", "odd:mirror", "--json"]);
    assert_eq!(asked["decision"], "ask", "the former policies are in force: {asked:#}");
    let checked = house.cli(&["policy", "check"]);
    assert_eq!(checked.status.code(), Some(1));
    assert!(text(&checked.stdout).contains("20-mine.cedar:2:"), "{}", text(&checked.stdout));

    let misfit = r#"forbid (principal, action, resource == Tool::"odd:mirror") when { context.input has nothing };"#;
    std::fs::write(dir.join("20-mine.cedar"), misfit).expect("a file");
    let error = wait_for("the other refusal", || {
        refused(&house).as_str().filter(|error| error.contains("odd:mirror")).map(str::to_owned)
    });
    assert!(error.contains("20-mine.cedar:1:"), "{error}");
    std::fs::write(dir.join("20-mine.cedar"), r#"permit (principal, action, resource == Tool::"odd:mirror");"#)
        .expect("a file");
    wait_for("the reload", || (refused(&house) == Value::Null).then_some(()));
    let mut session = house.connect(AGENT);
    assert!(session.call_through("odd", "mirror", r#"{"k":"v"}"#).contains('v'));
    let answer = session.call_through("odd", "mirror", r#"{"path":"/home/u/../../etc/shadow"}"#);
    assert!(answer.contains("secret-files") && answer.contains("isError"), "{answer}");
}

#[test]
fn approvals_outlive_a_killed_daemon_to_the_count_and_what_waited_is_visibly_over() {
    let Some(mut house) = house_with_starter_set() else { return };
    let mut session = house.connect(AGENT);
    let arguments = r#"{"k":"again"}"#;
    let id = std::thread::scope(|scope| {
        let called = scope.spawn(|| session.call_through("odd", "mirror", arguments));
        let id = waiting(&house);
        house.ok(&["ask", "approve", &id, "--times", "3", "--for", "1h"]);
        assert!(called.join().expect("the call ended").contains("again"));
        id
    });
    let left = |house: &House| {
        let list = house.json(&["ask", "list", "--json"]);
        let grants = list["grants"].as_array().cloned().unwrap_or_default();
        grants.iter().find(|grant| grant["ask"] == id.as_str()).and_then(|grant| grant["times_left"].as_u64())
    };
    assert_eq!(left(&house), Some(2));

    // Another call waits when the daemon is killed.
    let cut_off = std::thread::scope(|scope| {
        let params = r#"{"name":"call_tool","arguments":{"server":"odd","tool":"mirror","arguments":{"k":"other"}}}"#;
        let called = scope.spawn(|| session.request("tools/call", params));
        let other = waiting(&house);
        house.kill_daemon();
        let told = called.join().expect("the call ended");
        assert!(told.contains("went away") && told.contains("Try again"), "{told}");
        other
    });
    drop(session);
    house.start("observe");
    let list = house.json(&["ask", "list", "--json"]);
    let ended = list["asks"].as_array().into_iter().flatten().find(|ask| ask["id"] == cut_off.as_str());
    assert!(ended.is_some_and(|ask| ask["state"] == "ended"), "{list:#}");
    assert!(house.ok(&["ask", "list"]).contains("the daemon restarted; the agent has to call again"));
    let (code, said) = house.refused(&["ask", "approve", &cut_off]);
    assert!(code == 1 && said.contains("the daemon restarted while it waited"), "{code}: {said}");
    let log = house.ok(&["audit", "tail", "-n", "100", "--jsonl"]);
    assert!(log.contains("the daemon restarted before anybody answered"), "{log}");
    assert!(log.contains("approved by"), "who approved is on record still");

    assert_eq!(left(&house), Some(2), "neither lost nor given back");
    let mut session = house.connect(AGENT);
    assert!(session.call_through("odd", "mirror", arguments).contains("again"), "nobody is asked");
    assert_eq!(left(&house), Some(1));
    house.ok(&["ask", "revoke", &id]);
    assert_eq!(left(&house), None);
    std::thread::scope(|scope| {
        let called = scope.spawn(|| session.call_through("odd", "mirror", arguments));
        house.ok(&[
            "ask",
            "deny",
            &wait_for("a new question", || {
                let list = house.json(&["ask", "list", "--json"]);
                let asks = list["asks"].as_array().cloned().unwrap_or_default();
                asks.iter().find(|ask| ask["state"] == "waiting").and_then(|ask| Some(ask["id"].as_str()?.to_owned()))
            }),
        ]);
        assert!(called.join().expect("the call ended").contains("a human denied"));
    });
}
