//! Damage, mistakes and strangers: a clear error each, and nothing is lost.

use std::os::unix::net::UnixListener;
use std::path::Path;

use lazaret_tests::host::{House, Needs};

#[test]
fn a_malformed_configuration_is_refused_with_line_and_column() {
    let Some(house) = House::or_skip(Needs::Nothing) else { return };
    let good = std::fs::read_to_string(house.config_file()).expect("it was written");
    let line = good.lines().count() + 2;
    house.write_config("[kernel]\n  mdoe = \"observe\"\n");
    let (code, said) = house.start_refused("observe");
    assert_eq!(code, 4, "{said}");
    assert!(said.contains(&format!("config.toml:{line}:3")), "no place in: {said}");
    assert!(said.contains("mdoe"), "{said}");
}

#[test]
fn a_malformed_client_config_is_named_with_its_place_and_stops_nothing() {
    let Some(mut house) = House::or_skip(Needs::Nothing) else { return };
    std::fs::write(house.claude_config(), "{\n  \"mcpServers\": {\n    \"a\": oops\n  }\n}\n")
        .expect("home is writable");
    house.start("observe");
    let list = house.ok(&["client", "list", "--json"]);
    assert!(list.contains(".claude.json: line 3, column 10"), "no place in: {list}");
    let doctor = house.cli(&["doctor"]);
    let said = String::from_utf8_lossy(&doctor.stdout);
    assert!(said.contains("line 3, column 10"), "no place in: {said}");
}

#[test]
fn a_second_daemon_on_the_same_state_is_refused_and_harms_nothing() {
    let Some(mut house) = House::or_skip(Needs::Nothing) else { return };
    house.start("observe");
    let second = house
        .lazaret()
        .args(["daemon", "--detach-on-exit", "--scope"])
        .arg(format!("cgroup:{}", house.scope.path().display()))
        .output()
        .expect("the binary can be run");
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains("another daemon has it open"), "{said}");
    house.ok(&["status"]);
}

#[test]
fn a_daemon_takes_over_nothing_that_a_living_one_guards() {
    let Some(mut house) = House::or_skip(Needs::Nothing) else { return };
    house.start("enforce");
    let second = house
        .lazaret()
        .args(["daemon", "--detach-on-exit", "--scope"])
        .arg(format!("cgroup:{}", house.scope.path().display()))
        .env("LAZARET_STATE_DIR", house.path("other-state"))
        .env("LAZARET_RUN_DIR", house.path("other-run"))
        .env("LAZARET_BPF_DIR", format!("/sys/fs/bpf/lazaret-{}", house.instance()))
        .output()
        .expect("the binary can be run");
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains("another daemon does"), "{said}");
    assert!(house.ok(&["status"]).contains("mode      enforce"));
}

#[test]
fn without_docker_the_daemon_guards_and_no_server_runs_anywhere() {
    let Some(mut house) = House::or_skip(Needs::Nothing) else { return };
    house.write_config(&format!("[sandbox]\ndocker = {:?}\n", house.path("no-docker.sock")));
    let marker = house.path("ran");
    let script = house.path("server.py");
    std::fs::write(&script, format!("open({marker:?}, 'w')\n")).expect("it can be written");
    house.start("observe");
    let status = house.ok(&["status"]);
    assert!(status.contains("no-docker.sock"), "status does not say what is missing: {status}");

    let script = script.to_str().expect("UTF-8");
    house.ok(&["server", "add", "mine", "--local", script, "--", "python3", "{src}"]);
    let (code, said) = house.refused(&["server", "approve", "mine", "--yes"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("Docker") && said.contains("no-docker.sock"), "{said}");
    assert!(!marker.exists(), "the server ran on the host");
    assert_ne!(house.json(&["server", "show", "mine", "--json"])["servers"][0]["state"], "approved");
}

#[test]
fn a_foreign_file_where_a_socket_belongs_is_refused_and_kept() {
    for name in ["mcp.sock", "admin.sock"] {
        let Some(house) = House::or_skip(Needs::Nothing) else { return };
        std::fs::create_dir(house.run_dir()).expect("the run directory is new");
        let foreign = house.run_dir().join(name);
        std::fs::write(&foreign, "somebody's notes").expect("it can be written");
        let (code, said) = house.start_refused("observe");
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(name), "{said}");
        assert_eq!(std::fs::read_to_string(&foreign).expect("it is still there"), "somebody's notes");
    }
}

#[test]
fn a_socket_that_somebody_else_listens_on_is_not_taken_over() {
    let Some(house) = House::or_skip(Needs::Nothing) else { return };
    std::fs::create_dir(house.run_dir()).expect("the run directory is new");
    let theirs = UnixListener::bind(house.run_dir().join("mcp.sock")).expect("it can be bound");
    let (code, said) = house.start_refused("observe");
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("mcp.sock"), "{said}");
    drop(theirs);
}

#[test]
fn a_killed_daemon_is_followed_by_one_that_starts() {
    let Some(mut house) = House::or_skip(Needs::Nothing) else { return };
    house.start("observe");
    house.kill_daemon();
    house.start("observe");
    house.ok(&["status"]);
}

#[test]
fn a_truncated_database_is_refused_and_keeps_its_bytes() {
    let Some(mut house) = House::or_skip(Needs::Nothing) else { return };
    house.start("observe");
    house.stop();
    let database = house.state_dir().join("state.redb");
    let whole = std::fs::read(&database).expect("the state is a file");
    let cut = &whole[..whole.len() / 2];
    std::fs::write(&database, cut).expect("it can be cut");
    let (code, said) = house.start_refused("observe");
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("state.redb") && said.contains("damaged"), "{said}");
    assert!(std::fs::read(&database).expect("it is still there") == cut, "the damaged file was changed");
    assert_eq!(files_in(&house.state_dir(), "redb"), 1, "a copy was left behind");
}

#[test]
fn verbs_without_a_daemon_say_that_none_answers() {
    let Some(house) = House::or_skip(Needs::Nothing) else { return };
    for args in [&["status"][..], &["server", "list"], &["shadow", "list"], &["audit", "tail"]] {
        let (code, said) = house.refused(args);
        assert_eq!(code, 3, "{args:?}: {said}");
        assert!(said.contains("lazaret daemon") || said.contains("systemctl"), "no next step for {args:?}: {said}");
    }
}

#[test]
fn a_connector_without_a_daemon_exits_with_3() {
    let Some(mut house) = House::or_skip(Needs::Nothing) else { return };
    house.start("observe");
    house.ok(&["agent", "enroll", "reader@ann.lazaret.local"]);
    house.stop();
    let (code, said) = house.refused(&["connect", "--agent", "reader@ann.lazaret.local"]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("mcp.sock"), "{said}");
}

fn files_in(dir: &Path, part: &str) -> usize {
    let entries = std::fs::read_dir(dir).expect("the directory is there").flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().contains(part)).count()
}
