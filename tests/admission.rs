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
