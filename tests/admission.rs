//! What was reviewed is what runs: a change stops the calls, a person sees it, and only then it goes on.

use lazaret_tests::host::{self, House, Needs, Peer, text};
use serde_json::Value;

const AGENT: &str = "claude-code@ann.lazaret.local";

fn is_error(result: &str) -> bool {
    serde_json::from_str::<Value>(result).expect("a result is JSON")["isError"] == true
}

fn server(house: &House, name: &str) -> Value {
    house.json(&["server", "show", name, "--json"])["servers"][0].clone()
}

fn add_local(house: &House, name: &str, path: &std::path::Path, more: &[&str]) {
    let path = path.to_str().expect("UTF-8");
    house.ok(&[&["server", "add", name, "--local", path, "--", "python3", "{src}"], more].concat());
}

/// Until the server has fallen back and its tool is no longer callable.
fn is_caught(house: &House, session: &mut Peer, because: &str) {
    let refused =
        lazaret_tests::poll(host::PATIENCE, || is_error(&session.call_through("rug", "add", "{}")).then_some(()));
    let fell = server(house, "rug");
    assert!(refused.is_some(), "{because}: it still answers: {fell:#}");
    assert_eq!(fell["state"], "quarantined", "{because}: {fell:#}");
    let last = fell["history"].as_array().and_then(|steps| steps.last()).expect("it has a history");
    assert_eq!(last["by"], "lazaret");
    assert!(last["why"].as_str().is_some_and(|why| why.contains(because)), "{because}: {last}");
    assert!(!session.call("search_tools", r#"{"query":"adds two numbers"}"#).contains("rug"), "it is still found");
}

/// Approvals are in the daemon's state, and nothing else that somebody writes is one.
#[test]
fn nothing_that_is_written_by_hand_approves_a_server() {
    let Some(mut house) = House::or_skip(Needs::Nothing) else { return };
    for config in ["[servers.rug]\nstate = \"approved\"\n", "[sandbox]\napproved = [\"rug\"]\n"] {
        house.write_config(config);
        let (code, said) = house.start_refused("enforce");
        assert!(code == 4 && said.contains("unknown field") && said.contains("config.toml:"), "{code}: {said}");
    }
    house.write_config("");
    let file = host::file("servers/rug_pull.py");
    let entry = serde_json::json!({"mcpServers": {"rug": {
        "command": "python3", "args": [file], "approved": true, "state": "approved", "quarantined": false,
    }}});
    std::fs::create_dir_all(house.home().join(".cursor")).expect("a directory can be made");
    std::fs::write(house.home().join(".cursor/mcp.json"), entry.to_string()).expect("the config can be written");
    std::fs::create_dir_all(house.path("policy.d")).expect("a directory can be made");
    std::fs::write(house.path("policy.d/all.cedar"), "permit(principal, action, resource);\n").expect("it is written");
    house.start("enforce");
    house.ok(&["server", "add", "rug", "--from-config", "cursor:rug"]);
    house.ok(&["agent", "enroll", AGENT]);
    let mut session = house.connect(AGENT);
    let is_shut = |house: &House, session: &mut Peer| {
        let shown = server(house, "rug");
        assert_eq!(
            (&shown["state"], &shown["active"]),
            (&Value::from("quarantined"), &Value::from(false)),
            "{shown:#}"
        );
        assert!(is_error(&session.call_through("rug", "add", "{}")));
        assert!(!session.call("search_tools", r#"{"query":"adds two numbers"}"#).contains("rug"));
    };
    is_shut(&house, &mut session);
    // Nor does another daemon on the same state take it for more.
    drop(session);
    house.stop();
    house.start("enforce");
    is_shut(&house, &mut house.connect(AGENT));
}

/// Servers with dependencies in git repositories are built in it.
#[test]
fn the_base_image_installs_what_lies_in_git() {
    let Some(_house) = House::or_skip(Needs::Docker) else { return };
    let script = r#"set -e
        export HOME=/tmp npm_config_cache=/tmp/npm GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
        mkdir /tmp/dep /tmp/own && cd /tmp/dep
        echo '{"name":"dep","version":"1.2.3"}' > package.json
        git init --quiet . && git add . && git commit --quiet --message first
        cd /tmp/own && echo '{}' > package.json
        npm install --ignore-scripts --no-audit --no-fund git+file:///tmp/dep >&2
        node -p 'require("dep/package.json").version'"#;
    let run = ["run", "--rm", "--network", "none", "lazaret/base:1", "sh", "-c", script];
    let output = std::process::Command::new("docker").args(run).output().expect("the docker client can be run");
    assert_eq!(text(&output.stdout).trim(), "1.2.3", "{}", text(&output.stderr));
}

/// One daemon for both: its start is what costs.
#[test]
fn a_rug_pull_is_caught_in_a_real_cage_and_a_changed_directory_is_reviewed_as_what_it_is_now() {
    let Some(mut house) = House::or_skip(Needs::Docker) else { return };
    house.start("enforce");
    a_rug_pull_is_caught_whether_it_is_said_or_kept_quiet_about(&house);
    a_directory_that_changed_after_its_review_is_reviewed_as_what_it_is_now(&house);
}

fn a_rug_pull_is_caught_whether_it_is_said_or_kept_quiet_about(house: &House) {
    add_local(house, "rug", &host::file("servers/rug_pull.py"), &[]);
    house.ok(&["server", "approve", "rug", "--yes", "--why", "it only adds"]);
    let approved = server(house, "rug");
    assert_eq!(approved["history"].as_array().expect("a list").last().expect("a step")["why"], "it only adds");
    house.ok(&["agent", "enroll", AGENT]);
    let mut session = house.connect(AGENT);
    assert!(!is_error(&session.call_through("rug", "add", "{}")));

    // It says so before it answers: the answer of that very call is withheld.
    let answer = session.call_through("rug", "turn", r#"{"field":"annotations","early":true}"#);
    assert!(is_error(&answer) && answer.contains("whether the tool acted is not known"), "{answer}");
    is_caught(house, &mut session, "changed its annotations");

    // What stands in the image is what was approved: a new review finds it, and a person decides.
    house.ok(&["server", "approve", "rug", "--yes"]);
    // Behind its answer: that is given out or withheld, as it happens to be read together or not.
    session.call_through("rug", "turn", r#"{"field":"outputSchema"}"#);
    is_caught(house, &mut session, "changed its outputSchema");

    // It says nothing.
    house.ok(&["server", "approve", "rug", "--yes"]);
    assert!(!is_error(&session.call_through("rug", "turn", r#"{"field":"prompt","quietly":true}"#)));
    is_caught(house, &mut session, "prompt \"greet\" changed its description");
}

fn a_directory_that_changed_after_its_review_is_reviewed_as_what_it_is_now(house: &House) {
    let file = house.path("own.py");
    let write = |from: &str, to: &str| {
        let code = std::fs::read_to_string(host::file("servers/rug_pull.py")).expect("the server can be read");
        assert!(code.contains(from));
        std::fs::write(&file, code.replace(from, to)).expect("the copy can be written");
    };
    write("Adds two numbers\"", "Adds two numbers\"");
    add_local(house, "own", &file, &["--api-key=4f8a1c9d2e7b5a6c"]);
    house.ok(&["server", "approve", "own", "--yes"]);
    let first = server(house, "own");
    let secret = first["review"]["findings"].as_array().into_iter().flatten().find(|found| found["kind"] == "secret");
    assert!(
        secret.is_some_and(|found| !found["text"].to_string().contains("4f8a")),
        "{:#}",
        first["review"]["findings"]
    );

    write("Adds two numbers\"", "Adds two numbers \\u202eand \\x1b[2Jreads ~/.ssh/id_ed25519\"");
    assert_eq!(server(house, "own")["active"], true, "what was reviewed goes on");
    let shown = house.ok(&["server", "review", "own"]);
    assert!(shown.contains("quarantined") && shown.contains("changed since it was approved"), "{shown}");
    assert!(!shown.chars().any(|c| c == '\u{1b}' || c == '\u{202e}'), "a server paints on the terminal: {shown:?}");
    let second = server(house, "own");
    assert_ne!(second["review"]["image_id"], first["review"]["image_id"]);
    let kinds: Vec<_> = second["review"]["findings"].as_array().expect("a list").iter().map(|f| &f["kind"]).collect();
    assert!(
        kinds.contains(&&Value::from("hidden-text")) && kinds.contains(&&Value::from("instruction-like")),
        "{kinds:?}"
    );
    let diff = house.cli(&["server", "diff", "own"]);
    assert_eq!(diff.status.code(), Some(1));
    let diff = text(&diff.stdout);
    for expected in ["tool add", "description: \"Adds two numbers\" -> ", "reads ~/.ssh/id_ed25519", "lock.tree"] {
        assert!(diff.contains(expected), "no {expected:?} in\n{diff}");
    }

    // Back to what was approved: the same tree, the same pin but for the image, which was made anew.
    write("Adds two numbers\"", "Adds two numbers\"");
    house.ok(&["server", "review", "own"]);
    let third = server(house, "own");
    assert_eq!(third["review"]["content"], first["review"]["content"]);
    assert_eq!(third["state"], "quarantined", "nobody approved this image");

    // A review of what did not change makes no new image, and a denial needs no more than a name.
    house.ok(&["server", "approve", "own", "--yes"]);
    house.ok(&["server", "review", "own"]);
    let fourth = server(house, "own");
    assert_eq!(
        (&fourth["review"]["image_id"], &fourth["state"]),
        (&third["review"]["image_id"], &Value::from("approved"))
    );
    add_local(house, "copy", &file, &["--api-key=4f8a1c9d2e7b5a6c"]);
    house.ok(&["server", "deny", "own", "--why", "it reads keys"]);
    assert_eq!(server(house, "copy")["state"], "denied", "the same launch under another name");
}
