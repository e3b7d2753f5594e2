//! A server that tries everything to get out of its cage gets nothing, and what it is granted is all that it gets.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;

use lazaret_tests::host::{self, House, Needs, Peer, text};
use serde_json::{Value, json};

const AGENT: &str = "hostile@ann.lazaret.local";
/// Small, so that a memory bomb and full file systems take no time.
const LIMITS: &str = "[sandbox]\nmemory_bytes = 134217728\ntmpfs_bytes = 16777216\npids = 64\n";
const SECRET: &str = "hunter2-0f9d3a";

/// Each try of `servers/hostile.py`, and the errors that refuse it.
const REFUSED: &[(&str, &[&str])] = &[
    ("write_to_the_root", &["EROFS"]),
    ("write_to_the_image", &["EROFS"]),
    ("write_to_etc_hosts", &["EROFS", "EACCES"]),
    ("write_to_a_program", &["EROFS", "EACCES"]),
    ("write_to_dev", &["EROFS", "EACCES"]),
    ("remove_a_file_of_the_image", &["EROFS"]),
    ("mount_a_tmpfs", &["EPERM"]),
    ("mount_proc", &["EPERM"]),
    ("remount_the_root_writable", &["EPERM"]),
    ("unmount_the_mask_of_proc", &["EPERM"]),
    ("mount_by_the_new_calls", &["EPERM"]),
    ("change_the_root", &["EPERM"]),
    ("make_a_device", &["EPERM"]),
    ("open_the_hosts_memory", &["ENOENT"]),
    ("open_the_hosts_disk", &["ENOENT"]),
    ("run_a_program_from_tmp", &["EACCES"]),
    ("run_a_program_from_shared_memory", &["EACCES"]),
    ("map_tmp_as_code", &["EPERM", "EACCES"]),
    ("read_the_hosts_shadow_file", &["EACCES"]),
    ("trace_the_init", &["EPERM"]),
    ("be_traced", &["EPERM"]),
    ("read_another_process", &["EPERM"]),
    ("see_the_hosts_processes", &["EACCES"]),
    ("signal_everything", &["ESRCH"]),
    ("become_root", &["EPERM"]),
    ("gain_by_a_setuid_program", &["EPERM", "ENOENT"]),
    ("make_a_setuid_program", &["EPERM"]),
    ("have_any_capability", &["EPERM"]),
    ("drop_no_new_privileges", &["EINVAL"]),
    ("unshare_a_user_namespace", &["EPERM"]),
    ("unshare_a_network", &["EPERM"]),
    ("unshare_mounts", &["EPERM"]),
    ("clone_into_a_user_namespace", &["EPERM"]),
    ("clone3_into_a_user_namespace", &["ENOSYS"]),
    ("enter_the_inits_namespaces", &["EPERM", "EACCES"]),
    ("raise_a_limit", &["EPERM"]),
    ("leave_a_core", &["EPERM"]),
    ("run_before_others", &["EPERM"]),
    ("set_the_clock", &["EPERM"]),
    ("set_the_host_name", &["EPERM"]),
    ("sysrq", &["EROFS", "EACCES", "ENOENT"]),
    ("write_a_kernel_setting", &["EROFS"]),
    ("write_to_sysfs", &["EROFS", "ENOENT"]),
    ("write_to_the_cgroups", &["EROFS", "EACCES", "ENOENT"]),
    ("raise_the_oom_killers_protection", &["EACCES"]),
    ("read_the_kernels_log", &["EPERM"]),
    ("read_the_kernels_memory", &["EACCES", "EPERM", "ENOENT"]),
    ("read_the_keys", &["EACCES"]),
    ("use_the_kernel_keyring", &["EPERM"]),
    ("ask_the_kernel_keyring", &["EPERM"]),
    ("io_uring", &["EPERM"]),
    ("bpf", &["EPERM"]),
    ("perf_event_open", &["EPERM"]),
    ("userfaultfd", &["EPERM"]),
    ("load_a_module", &["EPERM"]),
    ("load_another_kernel", &["EPERM"]),
    ("reboot", &["EPERM"]),
    ("open_a_file_by_its_handle", &["EPERM"]),
    ("swap_on", &["EPERM"]),
    ("quota", &["EPERM"]),
    ("reach_the_internet", &["ENETUNREACH"]),
    ("reach_the_internet_by_udp", &["ENETUNREACH"]),
    ("reach_the_internet_by_ipv6", &["ENETUNREACH", "EADDRNOTAVAIL"]),
    ("reach_the_metadata", &["ENETUNREACH"]),
    ("reach_the_metadata_by_ipv6", &["ENETUNREACH", "EADDRNOTAVAIL"]),
    ("reach_the_bridge", &["ENETUNREACH"]),
    ("resolve_a_name", &["EHOSTUNREACH"]),
    ("a_raw_socket", &["EPERM"]),
    ("a_packet_socket", &["EPERM"]),
    ("a_vsock", &["EPERM"]),
    ("a_crypto_socket", &["EPERM"]),
    ("give_itself_an_address", &["EPERM"]),
    ("have_another_interface", &["ENODEV"]),
    ("reach_docker", &["ENOENT"]),
    ("see_abstract_sockets", &["ENOENT"]),
];

/// Adds the hostile server under a name, with further flags, and approves it.
fn approve(house: &House, name: &str, flags: &[&str]) {
    let path = host::file("servers/hostile.py");
    let local = ["--local", path.to_str().expect("UTF-8")];
    house.ok(&[&["server", "add", name][..], &local, flags, &["--", "python3", "-u", "{src}"]].concat());
    house.ok(&["server", "approve", name, "--yes"]);
}

fn call(door: &mut Peer, server: &str, tool: &str, arguments: &Value) -> Value {
    let answer = door.call_through(server, tool, &arguments.to_string());
    let result: Value = serde_json::from_str(&answer).expect("a result is JSON");
    let said = result["content"][0]["text"].as_str().unwrap_or_default();
    serde_json::from_str(said).unwrap_or_else(|_| json!({"error": said}))
}

fn assert_all_refused(report: &Value, cage: &str) {
    let report = report.as_object().unwrap_or_else(|| panic!("{cage}: no report: {report}"));
    let tried: BTreeSet<&str> = report.keys().map(String::as_str).collect();
    let known: BTreeSet<&str> = REFUSED.iter().map(|(name, _)| *name).collect();
    assert_eq!(tried, known, "{cage}: every try is judged by name");
    let mut got_through = BTreeMap::new();
    for (name, errors) in REFUSED {
        let said = report[*name].as_str().unwrap_or_default();
        if !said.strip_prefix("refused: ").is_some_and(|error| errors.contains(&error)) {
            got_through.insert(*name, said.to_owned());
        }
    }
    assert!(got_through.is_empty(), "{cage}: {got_through:#?}");
}

/// A host to connect to: it says who it is, and gives back what it hears.
fn echo() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port of the loopback address is free");
    let port = listener.local_addr().expect("it is bound").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let (mut stream, mut heard) = (stream, Vec::new());
                // A try that is cut off is no failure of the host's.
                let _ = stream.read_to_end(&mut heard);
                let _ = stream.write_all(format!("outside, and heard {}", text(&heard)).as_bytes());
            });
        }
    });
    port
}

fn inspect(container: &str) -> String {
    let output = Command::new("docker").args(["inspect", container]).output().expect("the docker client can be run");
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn a_hostile_server_is_refused_everything() {
    let Some(mut house) = House::or_skip(Needs::Docker) else { return };
    house.write_config(LIMITS);
    house.start("enforce");
    approve(&house, "hostile", &[]);
    house.ok(&["agent", "enroll", AGENT]);
    let mut door = house.connect(AGENT);
    assert_all_refused(&call(&mut door, "hostile", "attack", &json!({})), "a closed cage");
    let listening = echo();
    let targets =
        [format!("127.0.0.1:{listening}"), format!("localhost:{listening}"), format!("127.77.0.1:{listening}")];
    let report = call(&mut door, "hostile", "targets", &json!({"targets": targets}));
    for target in targets {
        let said = report[&target].as_str().unwrap_or_default();
        assert!(said.starts_with("refused: "), "the host's loopback interface by {target}: {report:#}");
    }
}

#[test]
fn a_bomb_ends_in_its_own_cage_and_its_neighbour_lives() {
    let Some(mut house) = House::or_skip(Needs::Docker) else { return };
    house.write_config(LIMITS);
    house.start("enforce");
    approve(&house, "bomb", &[]);
    approve(&house, "neighbour", &["--env", "NEIGHBOUR=1"]);
    house.ok(&["agent", "enroll", AGENT]);
    let mut door = house.connect(AGENT);
    let before = house.containers();
    assert_eq!(before.len(), 2, "{before:?}");

    let forked = call(&mut door, "bomb", "fork_bomb", &json!({}));
    assert_eq!(forked["ended"], "refused: EAGAIN", "{forked}");
    assert!(forked["children"].as_u64().is_some_and(|children| (1..64).contains(&children)), "{forked}");
    let filled = call(&mut door, "bomb", "fill_tmpfs", &json!({}));
    for place in ["/tmp", "/dev/shm"] {
        assert_eq!(filled[place][1], "refused: ENOSPC", "{place}: {filled}");
        assert!(filled[place][0].as_u64().is_some_and(|bytes| bytes <= 16 << 20), "{place}: {filled}");
    }
    let dead = door.call_through("bomb", "memory_bomb", "{}");
    assert!(dead.contains(r#""isError":true"#), "its call fails and does not hang: {dead}");

    assert_eq!(
        call(&mut door, "neighbour", "environment", &json!({"names": ["NEIGHBOUR"]})),
        json!({"NEIGHBOUR": "1"})
    );
    let left = lazaret_tests::poll(host::PATIENCE, || {
        let left = house.containers();
        (left.len() == 1).then_some(left)
    });
    let left = left.unwrap_or_else(|| panic!("its container was not removed: {:?}", house.containers()));
    assert!(before.contains(&left[0]), "the neighbour's container is still the same: {before:?} {left:?}");
}

#[test]
fn what_is_granted_is_reached_and_nothing_else() {
    let Some(mut house) = House::or_skip(Needs::Docker) else { return };
    house.write_config(LIMITS);
    house.start("enforce");
    let (granted, other) = (echo(), echo());
    let to = format!("127.0.0.1:{granted}");
    // Nobody answers there, if there is a network at all: the entry is for what is inside.
    approve(
        &house,
        "granted",
        &["--egress-private", &to, "--egress", "Blocked.Example:443", "--egress", "198.41.0.4:81"],
    );
    let shown = house.ok(&["server", "show", "granted"]);
    for line in [format!("reaches {to}, PRIVATE"), "reaches blocked.example:443".into(), "private-network".into()] {
        assert!(shown.contains(&line), "{line:?} is not in\n{shown}");
    }
    house.ok(&["agent", "enroll", AGENT]);
    let mut door = house.connect(AGENT);
    assert_all_refused(&call(&mut door, "granted", "attack", &json!({})), "a cage with egress");

    let others = [
        format!("127.0.0.1:{other}"),
        format!("127.0.0.2:{granted}"),
        format!("127.77.0.1:{granted}"),
        "127.77.0.1:80".to_owned(),
        "169.254.169.254:80".to_owned(),
        "198.41.0.4:443".to_owned(),
        "198.41.0.5:81".to_owned(),
        "blocked.example:80".to_owned(),
    ];
    let targets: Vec<&String> = [&to].into_iter().chain(&others).collect();
    let report = call(&mut door, "granted", "targets", &json!({"targets": targets, "say": "a word"}));
    assert_eq!(report[&to], "said outside, and heard a word", "{report:#}");
    for target in &others {
        assert!(report[target].as_str().is_some_and(|said| said.starts_with("refused: ")), "{target}: {report:#}");
    }
    // It resolves inside without DNS, and something listens; what is said is no TLS for that name.
    let tls = "\u{16}\u{3}\u{1}";
    let report = call(&mut door, "granted", "targets", &json!({"targets": ["blocked.example:443"], "say": tls}));
    let said = report["blocked.example:443"].as_str().unwrap_or_default();
    assert!(said == "said " || said.contains("ECONNRESET"), "{report:#}");
    // The daemon was there first: these are not the server's to listen on.
    for (host, port) in [("127.77.0.1", 443), ("127.0.0.1", granted)] {
        let report = call(&mut door, "granted", "listen_first", &json!({"host": host, "port": port}));
        assert!(report["listen"].as_str().is_some_and(|said| said.starts_with("refused: ")), "{report}");
    }

    let container = house.containers().pop().expect("it runs");
    assert!(inspect(&container).contains(r#""NetworkMode": "none""#), "it has no network of Docker's");
    house.ok(&["server", "remove", "granted", "--yes"]);
    let log = lazaret_tests::poll(host::PATIENCE, || {
        let log = house.ok(&["audit", "tail", "--lines", "200", "--jsonl"]);
        let records: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let egress: Vec<Value> = records.into_iter().filter(|record| record["kind"] == "egress").collect();
        egress.iter().any(|record| record["detail"]["opened"].as_u64() > Some(0)).then_some(egress)
    });
    let log = log.expect("what went out is on record when the container has ended");
    let of = |outcome: &str| log.iter().filter(|record| record["outcome"] == outcome).count();
    assert_eq!((of("permit"), of("deny")), (1, 1), "one record for the first of each kind: {log:#?}");
}

#[test]
fn a_secret_is_in_the_servers_environment_and_nowhere_else() {
    let Some(mut house) = House::or_skip(Needs::Docker) else { return };
    house.start("enforce");
    let file = house.path("secret");
    std::fs::write(&file, format!("{SECRET}\n")).expect("a file can be written");
    let secret = format!("TOKEN=@{}", file.display());
    approve(&house, "keeper", &["--secret", &secret, "--env", "PLAIN=plain-value-7c1"]);
    house.ok(&["agent", "enroll", AGENT]);
    let mut door = house.connect(AGENT);
    let environment = call(&mut door, "keeper", "environment", &json!({"names": ["TOKEN", "PLAIN", "HOME"]}));
    assert_eq!(environment, json!({"TOKEN": SECRET, "PLAIN": "plain-value-7c1", "HOME": "/tmp"}));

    let container = house.containers().pop().expect("it runs");
    let shown = [
        ("docker inspect", inspect(&container)),
        ("server show", house.ok(&["server", "show", "keeper", "--full"])),
        ("server show --json", house.ok(&["server", "show", "keeper", "--json"])),
        ("server list", house.ok(&["server", "list", "--json"])),
        ("inventory", house.ok(&["inventory", "--json"])),
        ("the audit log", house.ok(&["audit", "tail", "--lines", "200", "--jsonl"])),
        ("the daemon's log", house.log()),
    ];
    for (place, said) in &shown {
        for value in [SECRET, "plain-value-7c1"] {
            assert!(!said.contains(value), "{value} stands in {place}:\n{said}");
        }
    }
    assert!(shown[1].1.contains("TOKEN") && shown[1].1.contains("PLAIN"), "the names are shown:\n{}", shown[1].1);
    let (code, said) = house.refused(&["server", "add", "x", "--image", "a", "--secret", "TOKEN=hunter2-0f9d3a"]);
    assert!(code == 2 && !said.contains(SECRET), "{said}");
}
