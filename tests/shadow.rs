//! What happens to MCP servers that a client starts around the door, on this host's own kernel.

use std::path::Path;
use std::process::Stdio;

use lazaret_tests::host::{self, Health, House, Needs, PATIENCE, write_marker_program};
use serde_json::Value;

fn has_evidence(shadow: &Value, kind: &str) -> bool {
    shadow["evidence"].as_array().is_some_and(|evidence| evidence.iter().any(|one| one == kind))
}

fn wait(child: &mut std::process::Child) -> std::process::ExitStatus {
    lazaret_tests::poll(PATIENCE, || child.try_wait().expect("a child can be waited for")).expect("the process ends")
}

#[test]
fn claude_code_starts_no_configured_server_under_enforce() {
    let Some(mut house) = House::or_skip(Needs::Nothing) else { return };
    let (everything, python) = (host::everything(), host::python("sdk2"));
    let package = format!("--prefix={}", host::tools().join("npm").display());
    house.configure_claude(&[
        ("everything", Path::new("node"), &[everything.to_str().expect("UTF-8")]),
        ("by-npx", Path::new("npx"), &["--offline", &package, "mcp-server-everything"]),
        ("time", &python, &["-m", "mcp_server_time"]),
    ]);
    let before = house.claude_mcp_list();
    for name in ["everything", "by-npx", "time"] {
        assert_eq!(before.get(name), Some(&Health::Connected), "{name} without a daemon");
    }

    house.start("enforce");
    let guarded = house.claude_mcp_list();
    for name in ["everything", "by-npx", "time"] {
        assert_eq!(guarded.get(name), Some(&Health::Failed), "{name} under enforce");
        let shadow = house.shadow_named(name);
        assert!(has_evidence(&shadow, "config"), "{name}: {shadow:#}");
        assert!(["killed", "denied"].contains(&shadow["action"].as_str().unwrap_or("")), "{name}: {shadow:#}");
        assert!(shadow["argv"].as_array().is_some_and(|argv| !argv.is_empty()), "{name}: {shadow:#}");
        assert_eq!(shadow["uid"], 0, "{name}: {shadow:#}");
        assert!(shadow["ancestors"].as_array().is_some_and(|parents| !parents.is_empty()), "{name}: {shadow:#}");
    }
    assert_eq!(house.json(&["shadow", "list", "--json"])["schema"], "lazaret.shadow.v1");

    house.stop();
    let after = house.claude_mcp_list();
    assert_eq!(after.get("everything"), Some(&Health::Connected), "a detached daemon leaves nothing behind");
}

#[test]
fn the_first_instruction_of_a_shadow_server_never_runs_under_enforce() {
    let Some(mut house) = House::or_skip(Needs::Nothing) else { return };
    let marker = house.path("ran");
    let server = write_marker_program(&house.path("shadow-server"), &marker);
    let twin_marker = house.path("twin-ran");
    let twin = write_marker_program(&house.path("no-server"), &twin_marker);
    house.configure_claude(&[("tiny", &server, &["--stdio"])]);
    house.start("enforce");

    let status = wait(&mut house.in_scope(&server).arg("--stdio").spawn().expect("a shell starts"));
    assert!(!status.success(), "{status}");
    assert!(!marker.exists(), "the new image ran");
    assert!(has_evidence(&house.shadow_named("tiny"), "config"));

    assert!(wait(&mut house.in_scope(&twin).arg("--stdio").spawn().expect("a shell starts")).success());
    assert!(twin_marker.exists(), "a program that no evidence names is left alone");
    let outside = std::process::Command::new(&server).arg("--stdio").status().expect("it can be run");
    assert!(outside.success() && marker.exists(), "outside of the scope nothing is stopped");
}

#[test]
fn observe_reports_a_shadow_server_and_lets_it_serve() {
    let Some(mut house) = House::or_skip(Needs::Nothing) else { return };
    let everything = host::everything();
    house.configure_claude(&[("everything", Path::new("node"), &[everything.to_str().expect("UTF-8")])]);
    house.start("observe");
    assert_eq!(house.claude_mcp_list().get("everything"), Some(&Health::Connected));
    let shadow = house.shadow_named("everything");
    assert_eq!(shadow["action"], "observed", "{shadow:#}");
    assert!(has_evidence(&shadow, "config"), "{shadow:#}");
}

#[test]
fn a_held_server_runs_nothing_until_it_is_released() {
    let Some(mut house) = House::or_skip(Needs::Nothing) else { return };
    let marker = house.path("ran");
    let server = write_marker_program(&house.path("shadow-server"), &marker);
    house.configure_claude(&[("tiny", &server, &[])]);
    house.start("hold");

    let mut first = house.in_scope(&server).stdin(Stdio::null()).spawn().expect("a shell starts");
    let shadow = house.shadow_named("tiny");
    assert_eq!(shadow["state"], "held", "{shadow:#}");
    assert!(!marker.exists(), "a held image ran");
    house.ok(&["shadow", "release", shadow["id"].as_str().expect("an id")]);
    assert!(wait(&mut first).success());
    assert!(marker.exists());

    std::fs::remove_file(&marker).expect("the marker is there");
    let mut second = house.in_scope(&server).stdin(Stdio::null()).spawn().expect("a shell starts");
    let held =
        lazaret_tests::poll(PATIENCE, || house.shadows_named("tiny").pop().filter(|shadow| shadow["state"] == "held"));
    assert!(held.is_some(), "a release is for once: {:#?}", house.shadows_named("tiny"));
    house.ok(&["shadow", "kill", shadow["id"].as_str().expect("an id")]);
    assert!(!wait(&mut second).success());
    assert!(!marker.exists(), "a killed image ran");
}

#[test]
fn what_was_denied_stays_denied_also_where_it_would_only_be_held() {
    let Some(mut house) = House::or_skip(Needs::Nothing) else { return };
    let marker = house.path("ran");
    let server = write_marker_program(&house.path("shadow-server"), &marker);
    house.configure_claude(&[("tiny", &server, &[])]);
    house.start("hold");
    let mut first = house.in_scope(&server).stdin(Stdio::null()).spawn().expect("a shell starts");
    let id = house.shadow_named("tiny")["id"].as_str().expect("an id").to_owned();
    house.ok(&["shadow", "deny", &id]);
    assert!(!wait(&mut first).success());

    let mut second = house.in_scope(&server).stdin(Stdio::null()).spawn().expect("a shell starts");
    assert!(!wait(&mut second).success());
    assert!(!marker.exists(), "a denied image ran");
    let records = house.shadows_named("tiny");
    assert_eq!(records.len(), 1, "{records:#?}");
    assert_eq!(records[0]["state"], "denied", "{records:#?}");
    for verb in ["release", "adopt"] {
        let (code, said) = house.refused(&["shadow", verb, &id]);
        assert!(code == 1 && said.contains("denied for good"), "{verb}: {code}: {said}");
    }
}

#[test]
fn an_entry_that_is_added_while_the_daemon_runs_is_known_before_its_first_spawn() {
    let Some(mut house) = House::or_skip(Needs::Nothing) else { return };
    house.configure_claude(&[]);
    house.start("enforce");
    let marker = house.path("ran");
    let server = write_marker_program(&house.path("late-server"), &marker);
    house.configure_claude(&[("late", &server, &[])]);
    // The listing shows what the kernel has been told.
    let known =
        lazaret_tests::poll(PATIENCE, || house.ok(&["client", "list", "--json"]).contains("late-server").then_some(()));
    assert!(known.is_some(), "{}", house.ok(&["client", "list", "--json"]));
    let status = wait(&mut house.in_scope(&server).spawn().expect("a shell starts"));
    assert!(!status.success() && !marker.exists(), "{status}");
    assert!(has_evidence(&house.shadow_named("late"), "config"));
}
