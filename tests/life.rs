//! The life of caged servers: whose they are, when they start and end, and what becomes of calls and containers
//! when the server, its container, the daemon or Docker dies.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use lazaret_tests::host::{self, House, Needs, OwnDocker, Peer, text};
use serde_json::Value;

const ANN: &str = "ann@ann.lazaret.local";
const BOB: &str = "bob@ann.lazaret.local";
const SOCKET: &str = "/var/run/docker.sock";

/// A house with a running daemon and two agents.
fn house(config: &str) -> Option<House> {
    let mut house = House::or_skip(Needs::Docker)?;
    house.write_config(config);
    house.start("enforce");
    for agent in [ANN, BOB] {
        house.ok(&["agent", "enroll", agent]);
    }
    Some(house)
}

/// Approves servers of one image; the first call of each starts it.
fn approve(house: &House, image: &str, servers: &[(&str, &str)]) {
    for (name, isolation) in servers {
        house.ok(&["server", "add", name, "--image", image, "--isolation", isolation]);
        house.ok(&["server", "approve", name, "--yes", "--no-start"]);
    }
}

/// The text of a tool's answer, and whether it is an error.
fn call(session: &mut Peer, server: &str, tool: &str) -> Result<String, String> {
    let answer: Value = serde_json::from_str(&session.call_through(server, tool, "{}")).expect("a result is JSON");
    let text = answer["content"][0]["text"].as_str().unwrap_or_default().to_owned();
    if answer["isError"] == true { Err(text) } else { Ok(text) }
}

fn count(session: &mut Peer, server: &str) -> u32 {
    let text = call(session, server, "count").unwrap_or_else(|e| panic!("{server} does not count: {e}"));
    text.parse().unwrap_or_else(|e| panic!("{text:?} is no count: {e}"))
}

/// Counts as soon as the server is to be had again.
fn count_again(session: &mut Peer, server: &str) -> u32 {
    let text = lazaret_tests::poll(host::PATIENCE, || call(session, server, "count").ok());
    text.expect("the server comes back").parse().expect("a count")
}

/// A call in flight; the line that answers it, and its session.
fn in_flight(mut session: Peer, server: &str, tool: &str) -> JoinHandle<(String, Peer)> {
    let params = format!(r#"{{"name":"call_tool","arguments":{{"server":"{server}","tool":"{tool}"}}}}"#);
    std::thread::spawn(move || (session.request("tools/call", &params), session))
}

/// Waits until the server is at work on a call: it says so in the audit log before it gets it.
fn wait_for_intent(house: &House, tool: &str) {
    let wanted = format!(r#""tool":"{tool}""#);
    let there = lazaret_tests::poll(host::PATIENCE, || {
        let log = house.ok(&["audit", "tail", "--lines", "20", "--jsonl"]);
        log.lines().any(|line| line.contains(r#""kind":"call""#) && line.contains(&wanted)).then_some(())
    });
    assert!(there.is_some(), "no call of {tool} is on record");
}

fn wait_for_containers(house: &House, wanted: usize) -> Vec<String> {
    let there = lazaret_tests::poll(host::PATIENCE, || Some(house.containers()).filter(|found| found.len() == wanted));
    there.unwrap_or_else(|| panic!("{wanted} containers were to be left: {:?}", house.containers()))
}

/// Names of the servers that run, as `status` has them.
fn running(house: &House) -> Vec<String> {
    let status = house.json(&["status", "--json"]);
    status["running"].as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect()
}

fn container_of(house: &House, server: &str) -> String {
    let status = house.json(&["status", "--json"]);
    status["running"][server].as_str().unwrap_or_else(|| panic!("{server} does not run: {status:#}")).to_owned()
}

/// Processes that ended and that nobody reaped, below `parent` or in a group of `container`.
fn zombies(parent: Option<u32>, container: &str) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let zombie = |entry: std::fs::DirEntry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let status = std::fs::read_to_string(entry.path().join("status")).ok()?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let ours = field("PPid:").and_then(|ppid| ppid.parse().ok()) == parent && parent.is_some();
        let group = || std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let is = field("State:")?.starts_with('Z') && (ours || !container.is_empty() && group().contains(container));
        is.then(|| format!("{pid} {}", field("Name:").unwrap_or_default()))
    };
    processes.filter_map(zombie).collect()
}

/// Waits until nothing is left unreaped: by the daemon, and in a container that runs.
fn wait_for_no_zombie(house: &House, container: &str) {
    let look = || zombies(Some(house.daemon_pid()), container);
    let none = lazaret_tests::poll(host::PATIENCE, || look().is_empty().then_some(()));
    assert!(none.is_some(), "zombies: {:?}", look());
}

fn docker(args: &[&str]) {
    let output = host::docker(Path::new(SOCKET)).args(args).output().expect("the docker client can be run");
    assert!(output.status.success(), "docker {args:?}: {}", text(&output.stderr));
}

#[test]
fn what_an_agent_or_a_session_leaves_in_its_server_is_seen_by_no_other() {
    let Some(house) = house("") else { return };
    let image = host::life_image(&house, Path::new(SOCKET));
    approve(&house, &image, &[("open", "shared"), ("own", "per-agent"), ("brief", "per-session")]);
    assert_eq!(house.containers(), Vec::<String>::new(), "nothing runs before its first call");
    let shown = house.ok(&["server", "show", "own"]);
    assert!(shown.contains("per-agent: a container for each agent"), "{shown}");
    assert_eq!(house.json(&["server", "show", "brief", "--json"])["servers"][0]["launch"]["isolation"], "per-session");

    let (mut ann, mut again, mut bob) = (house.connect(ANN), house.connect(ANN), house.connect(BOB));
    let mut counts = |server: &str| [&mut ann, &mut again, &mut bob].map(|session| count(session, server));
    assert_eq!(counts("open"), [1, 2, 3], "all share one");
    assert_eq!(counts("own"), [1, 2, 1], "an agent's sessions share one");
    assert_eq!(counts("brief"), [1, 1, 1], "no two sessions share one");
    assert_eq!(counts("brief"), [2, 2, 2], "and each is kept warm");
    assert_eq!(house.containers().len(), 6);
    let names = running(&house);
    assert!(names.contains(&"open".to_owned()) && names.contains(&format!("own for {BOB}")), "{names:?}");

    // What is asked of one reaches no other.
    let error = call(&mut bob, "own", "die").unwrap_err();
    assert!(error.contains("ended during the call"), "{error}");
    assert_eq!(count(&mut ann, "own"), 3);
    assert_eq!(count_again(&mut bob, "own"), 1, "another container, with no state");

    drop(again);
    wait_for_containers(&house, 5);
    drop(bob);
    wait_for_containers(&house, 4);
    assert_eq!(count(&mut ann, "brief"), 3, "another session's end is not its own");
    let mut anew = house.connect(ANN);
    assert_eq!(count(&mut anew, "own"), 4, "an agent finds its server as it left it");
    assert_eq!(count(&mut anew, "brief"), 1);
}

#[test]
fn a_server_that_nobody_needs_makes_room_and_one_at_work_does_not() {
    let config = "[sandbox]\nmax_running = 2\n";
    let Some(house) = house(config) else { return };
    let image = host::life_image(&house, Path::new(SOCKET));
    approve(&house, &image, &[("a", "shared"), ("b", "shared"), ("c", "shared")]);
    let (mut ann, mut bob) = (house.connect(ANN), house.connect(BOB));
    for server in ["a", "b", "a"] {
        count(&mut ann, server);
    }
    assert_eq!(count(&mut bob, "c"), 1);
    assert_eq!(running(&house), ["a", "c"], "the one that was not used for longest went");
    assert_eq!(count(&mut ann, "a"), 3, "the other kept its state");

    let at_work = [in_flight(house.connect(ANN), "a", "hang"), in_flight(house.connect(ANN), "c", "hang")];
    wait_for_intent(&house, "hang");
    let full = call(&mut bob, "b", "count").unwrap_err();
    assert!(full.contains("2 servers are at work") && full.contains("try again"), "{full}");
    assert_eq!(running(&house), ["a", "c"]);

    // An operator ends one for good; its call is answered, and there is room.
    house.ok(&["server", "remove", "c", "--yes"]);
    assert_eq!(count(&mut bob, "b"), 1);
    house.ok(&["server", "remove", "a", "--yes"]);
    for call in at_work {
        let (answer, _session) = call.join().expect("the caller lives");
        assert!(answer.contains(r#""isError":true"#), "{answer}");
    }
    assert_eq!(running(&house), ["b"]);
}

#[test]
fn a_server_that_does_not_answer_is_ended_and_the_next_call_has_a_new_one() {
    let config = "[proxy]\ncall_timeout_secs = 3\n\
                  [sandbox]\nping_secs = 1\nping_timeout_secs = 2\nidle_stop_secs = 25\n";
    let Some(house) = house(config) else { return };
    let image = host::life_image(&house, Path::new(SOCKET));
    approve(&house, &image, &[("s", "shared")]);
    let mut ann = house.connect(ANN);
    assert_eq!(count(&mut ann, "s"), 1);
    let first = container_of(&house, "s");
    let late = call(&mut ann, "s", "hang").unwrap_err();
    assert!(late.contains("did not answer within 3 s and was cancelled"), "{late}");
    assert_eq!(count_again(&mut ann, "s"), 1);
    let second = container_of(&house, "s");
    assert_ne!(first, second);

    // One that stops altogether, while nobody asks it for anything.
    docker(&["pause", &second]);
    let gone = lazaret_tests::poll(host::PATIENCE, || running(&house).is_empty().then_some(()));
    assert!(gone.is_some(), "a paused container is taken for alive");
    wait_for_containers(&house, 0);
    let logs = house.json(&["server", "logs", "s", "--json"]);
    let ends: Vec<&str> =
        logs["containers"].as_array().into_iter().flatten().filter_map(|log| log["ended"]["why"].as_str()).collect();
    assert!(ends.len() == 2 && ends.iter().all(|why| why.contains("did not answer a ping within 2 s")), "{logs:#}");
    assert_eq!(count_again(&mut ann, "s"), 1);

    // To be pinged is no use of a server: it is stopped when nobody has called it for long enough.
    wait_for_containers(&house, 0);
    let logs = house.ok(&["audit", "tail", "--lines", "5", "--jsonl"]);
    assert!(logs.contains("stopped: it was idle"), "{logs}");
    assert_eq!(count_again(&mut ann, "s"), 1, "and the next call starts it");
}

#[test]
fn a_server_that_dies_or_floods_is_ended_with_its_reason_on_record() {
    let Some(house) = house("") else { return };
    let image = host::life_image(&house, Path::new(SOCKET));
    approve(&house, &image, &[("s", "shared"), ("out", "shared"), ("err", "shared"), ("long", "shared")]);
    let mut ann = house.connect(ANN);
    let error = call(&mut ann, "s", "die").unwrap_err();
    assert!(error.contains("ended during the call"), "{error}");
    wait_for_containers(&house, 0);
    let logs = house.json(&["server", "logs", "s", "--json"]);
    assert_eq!(logs["schema"], "lazaret.log.v1");
    assert_eq!((&logs["running"], &logs["containers"][0]["running"]), (&Value::Bool(false), &Value::Bool(false)));
    assert_eq!(logs["lines"], serde_json::json!(["life is ready", "these are my last words"]), "{logs:#}");
    let why = logs["containers"][0]["ended"]["why"].as_str().unwrap_or_default();
    assert!(why.contains("exited with code 3"), "{why}");

    // The first end costs no pause; one that ends again and again is left alone for a while.
    assert_eq!(count(&mut ann, "s"), 1);
    let plain = house.ok(&["server", "logs", "s"]);
    assert_eq!(plain.lines().collect::<Vec<_>>(), ["life is ready", "these are my last words", "life is ready"]);
    let refused =
        (0..4).find_map(|_| call(&mut ann, "s", "die").err().filter(|error| error.contains("does not start")));
    let refused = refused.expect("a server that dies at each call is started again at once each time");
    assert!(refused.contains("try again in"), "{refused}");
    assert_eq!(count_again(&mut ann, "s"), 1);

    for (server, tool, reason) in [
        ("out", "flood", "floods its output with messages that nobody asked for"),
        ("err", "flood_stderr", "floods its standard error"),
        ("long", "oversize", "sent a message of more than 4194304 bytes"),
    ] {
        let error = call(&mut ann, server, tool).unwrap_err();
        assert!(error.contains("ended during the call"), "{tool}: {error}");
        let logs = house.json(&["server", "logs", server, "--json"]);
        let why = logs["containers"][0]["ended"]["why"].as_str().unwrap_or_default().to_owned();
        assert!(why.contains(reason), "{tool}: {logs:#}");
        assert_eq!(count(&mut ann, server), 1, "it serves again");
    }
}

#[test]
fn a_call_is_answered_when_its_container_or_the_daemon_is_killed() {
    let Some(mut house) = house("") else { return };
    let image = host::life_image(&house, Path::new(SOCKET));
    approve(&house, &image, &[("s", "shared"), ("own", "per-agent")]);
    let mut ann = house.connect(ANN);
    assert_eq!((count(&mut ann, "s"), count(&mut ann, "own")), (1, 1));
    let flying = in_flight(house.connect(BOB), "s", "hang");
    wait_for_intent(&house, "hang");
    docker(&["kill", "--signal", "KILL", &container_of(&house, "s")]);
    let (answer, bob) = flying.join().expect("the caller lives");
    assert!(answer.contains("ended during the call"), "{answer}");
    assert_eq!(count_again(&mut ann, "s"), 1, "a new one serves");
    wait_for_containers(&house, 2);
    call(&mut ann, "s", "litter").expect("it litters");
    wait_for_no_zombie(&house, &container_of(&house, "s"));
    assert!(call(&mut ann, "s", "die").is_err());
    assert_eq!(count_again(&mut ann, "s"), 1);
    let logged = || house.json(&["server", "logs", "s", "--json"])["containers"].clone();
    let before = logged().as_array().map_or(0, Vec::len);
    assert!(before > 1 && logged().to_string().contains("these are my last words"), "{:#}", logged());

    let flying = in_flight(bob, "own", "hang");
    let started = lazaret_tests::poll(host::PATIENCE, || (house.containers().len() == 3).then_some(()));
    assert!(started.is_some(), "{:?}", house.containers());
    house.kill_daemon();
    let (answer, mut bob) = flying.join().expect("the caller lives");
    assert!(answer.contains(r#""error""#), "a call is left without an answer or is answered with a result: {answer}");
    assert!(answer.contains("went away before it answered"), "{answer}");
    house.start("enforce");
    assert_eq!(house.containers(), Vec::<String>::new(), "what the killed one left is removed");
    let logged = house.ok(&["server", "logs", "s"]);
    assert!(logged.contains("these are my last words"), "the words of one that ended are lost: {logged}");
    // The sessions of before: their clients did nothing, and see no break.
    assert_eq!((count(&mut bob, "own"), count(&mut ann, "own")), (1, 1), "agents and approvals are as before");
    assert!(bob.request("tools/list", "{}").contains("search_tools"));
    wait_for_no_zombie(&house, "");
    assert_eq!(house.containers().len(), 2);
    house.stop();
    assert_eq!(house.containers(), Vec::<String>::new());
}

#[test]
fn no_call_and_no_container_is_left_when_docker_is_killed() {
    let name = "no_call_and_no_container_is_left_when_docker_is_killed";
    let Some(mut house) = House::or_skip(Needs::Docker) else { return };
    let Some(mut own) = OwnDocker::start(house.path("docker")) else {
        return lazaret_tests::skip(name, "there is no dockerd here to start a second one of");
    };
    house.write_config(&format!("[sandbox]\ndocker = {:?}\n", own.socket()));
    house.start("enforce");
    for agent in [ANN, BOB] {
        house.ok(&["agent", "enroll", agent]);
    }
    let image = host::life_image(&house, &own.socket());
    approve(&house, &image, &[("s", "shared"), ("own", "per-agent")]);
    let mut ann = house.connect(ANN);
    assert_eq!((count(&mut ann, "s"), count(&mut ann, "own")), (1, 1));
    let flying = in_flight(house.connect(BOB), "s", "hang");
    wait_for_intent(&house, "hang");
    assert_eq!(own.shims().len(), 2, "two containers run");

    own.kill();
    let (answer, mut bob) = flying.join().expect("the caller lives");
    assert!(answer.contains("ended during the call"), "{answer}");
    let without = call(&mut ann, "s", "count").unwrap_err();
    assert!(without.contains("does not start") || without.contains("cannot be used now"), "{without}");
    let doctor = house.cli(&["status", "--json"]);
    assert!(doctor.status.success(), "the daemon itself goes on: {}", text(&doctor.stderr));

    own.again();
    assert_eq!((count_again(&mut ann, "s"), count_again(&mut bob, "own")), (1, 1), "all is as before");
    let two =
        lazaret_tests::poll(host::PATIENCE, || (own.containers().len() == 2 && own.shims().len() == 2).then_some(()));
    assert!(two.is_some(), "orphans: {:?}, shims {:?}", own.containers(), own.shims());
    for container in own.containers() {
        wait_for_no_zombie(&house, &container);
    }
    let daemon = house.daemon_pid();
    house.stop();
    assert_eq!(zombies(Some(daemon), ""), Vec::<String>::new());
    assert_eq!((own.containers(), own.shims()), (Vec::new(), Vec::new()), "nothing is left");
}

/// Records of the log, as JSON.
fn records(house: &House) -> Vec<Value> {
    let log = house.ok(&["audit", "tail", "--lines", "10000", "--jsonl"]);
    log.lines().map(|line| serde_json::from_str(line).expect("a line of the log is JSON")).collect()
}

/// Calls until the daemon goes away, and counts what was answered.
fn call_until_the_end(mut session: Peer, server: &str, answered: &AtomicU64) {
    let params =
        format!(r#"{{"name":"call_tool","arguments":{{"server":"{server}","tool":"count","arguments":{{}}}}}}"#);
    loop {
        let answer = session.request("tools/call", &params);
        if !answer.contains(r#""result""#) {
            assert!(answer.contains("went away before it answered"), "{answer}");
            return;
        }
        answered.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn every_answered_call_is_on_record_after_the_daemon_was_killed_and_the_others_are_unknown() {
    let Some(mut house) = house("") else { return };
    let image = host::life_image(&house, Path::new(SOCKET));
    approve(&house, &image, &[("s", "shared"), ("own", "per-agent")]);
    for _round in 0..3 {
        let before = records(&house).len();
        let answered = [AtomicU64::new(0), AtomicU64::new(0)];
        let sessions = [house.connect(ANN), house.connect(BOB)];
        let hanging = in_flight(house.connect(ANN), "own", "hang");
        wait_for_intent(&house, "hang");
        std::thread::scope(|scope| {
            for (session, answered) in sessions.into_iter().zip(&answered) {
                scope.spawn(|| call_until_the_end(session, "s", answered));
            }
            let many = || answered.iter().all(|answered| answered.load(Ordering::SeqCst) >= 20).then_some(());
            let there = lazaret_tests::poll(host::PATIENCE, many);
            house.kill_daemon();
            assert!(there.is_some(), "the calls are not answered");
        });
        assert!(hanging.join().expect("the caller lives").0.contains("went away"));
        house.start("enforce");

        let log = records(&house);
        let numbers: Vec<u64> = log.iter().filter_map(|record| record["seq"].as_u64()).collect();
        assert_eq!(numbers, (1..=log.len() as u64).collect::<Vec<_>>(), "the log has a gap or a number twice");
        let new = &log[before..];
        let of = |kind: &str| new.iter().filter(|record| record["kind"] == kind).collect::<Vec<_>>();
        let (intents, results) = (of("call"), of("result"));
        for (agent, answered) in [ANN, BOB].into_iter().zip(answered.map(AtomicU64::into_inner)) {
            let found = results.iter().filter(|record| record["agent"] == agent && record["outcome"] == "ok").count();
            // One more may have been written down and then not got out.
            assert!(
                [answered, answered + 1].contains(&(found as u64)),
                "{agent}: {answered} answered, {found} on record"
            );
        }
        for intent in &intents {
            let ends = results.iter().filter(|record| record["call_id"] == intent["call_id"]).count();
            assert_eq!(ends, 1, "{intent:#}");
        }
        let hung = intents.iter().find(|record| record["tool"] == "hang").expect("the hanging call's intent");
        let shown = house.ok(&["audit", "show", hung["call_id"].as_str().expect("a call has an id")]);
        assert!(shown.contains("unknown"), "{shown}");
    }
}
