//! Handshakes on a kernel where no function can be hooked: seen by socket tracepoints, and by programs on system
//! calls that are attached while a candidate is open. On this host's own kernel; skipped where it takes more.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use lazaret_tests::host::{self, House, Needs, PATIENCE};
use lazaret_tests::poll;
use serde_json::Value;

/// One daemon at a time: who attaches a program to all system calls waits for whoever has just taken one away, for longer
/// than a candidate waits.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A house that guards with the `tracepoint` backend.
fn house(mode: &str) -> Option<House> {
    started(House::or_skip(Needs::Nothing)?, mode)
}

fn started(mut house: House, mode: &str) -> Option<House> {
    house.start(mode);
    let backend = house.json(&["status", "--json"])["kernel"]["backend"].clone();
    if backend == "tracepoint" {
        return Some(house);
    }
    let thread = std::thread::current();
    lazaret_tests::skip(thread.name().unwrap_or("a test"), &format!("this kernel takes the backend {backend}"));
    None
}

fn helper(name: &str) -> PathBuf {
    host::binary().with_file_name(name)
}

fn on_demand(house: &House) -> Value {
    house.json(&["status", "--json"])["kernel"]["on_demand"].clone()
}

/// Has an MCP client in the scope start `server` and talk to it: the client's report.
fn talk(house: &House, io: &str, message: &str, server: &[&str]) -> Value {
    told(house.in_scope(helper("mcp-client")), io, message, server)
}

/// The same outside of the scope.
fn talk_outside(io: &str, message: &str, server: &[&str]) -> Value {
    told(Command::new(helper("mcp-client")), io, message, server)
}

fn told(mut client: Command, io: &str, message: &str, server: &[&str]) -> Value {
    client.args(["--io", io, "--send", message, "--timeout-ms", "20000", "--"]).args(server);
    let output = client.stdin(Stdio::null()).output().expect("the client can be run");
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("no report ({e}, {}): {}", output.status, host::text(&output.stderr)))
}

fn was_stopped(report: &Value) -> bool {
    report["signal"] == 9 && report["answer"].is_null()
}

/// Has a server in the scope talked to, and sees it stopped. On a machine that is too busy the kernel goes on without
/// the programs that see it, and counts that as late: only then it is tried again.
fn assert_stopped(house: &House, io: &str, message: &str, server: &[&str], what: &str) {
    assert_reported(house, io, message, server, what, was_stopped);
}

fn assert_reported(house: &House, io: &str, message: &str, server: &[&str], what: &str, holds: fn(&Value) -> bool) {
    let late = |house: &House| on_demand(house)["late"].as_u64();
    for _ in 0..5 {
        let before = late(house);
        let report = talk(house, io, message, server);
        if holds(&report) {
            return;
        }
        assert_ne!(late(house), before, "{what}: {report}, {}", on_demand(house));
        eprintln!("warning: {what}: a candidate was late, which a busy machine makes it; once more");
        #[expect(
            clippy::disallowed_methods,
            reason = "a gate that was late stays open for a second, and says nothing then"
        )]
        std::thread::sleep(std::time::Duration::from_secs(2));
    }
    panic!("{what}: late time and again: {}", on_demand(house));
}

fn assert_served(report: &Value, what: &str) {
    assert!(report["signal"].is_null() && report["answer"].is_string(), "{what}: {report}");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn an_unknown_server_reads_no_message_whatever_system_call_it_uses() {
    let _alone = alone();
    let Some(house) = house("enforce") else { return };
    let server = helper("shadow-server");
    for (io, calls) in [("pipe", &["read", "byte", "readv"][..]), ("socketpair", &["read", "byte", "readv", "recv"])] {
        for call in calls {
            let arguments = [text(&server), "--by", call];
            assert_served(&talk_outside(io, "initialize", &arguments), "outside of the scope");
            assert_stopped(&house, io, "initialize", &arguments, &format!("{call} on a {io}"));
        }
        for message in ["initialize-escaped", "initialize-long", "initialize-framed", "discover", "tools-list-2026"] {
            assert_stopped(&house, io, message, &[text(&server)], &format!("{message} on a {io}"));
        }
    }
    let records = house.json(&["shadow", "list", "--json"]);
    let evidence = &records["shadows"][0]["evidence"];
    assert_eq!(evidence, &serde_json::json!(["handshake"]), "{records:#}");
}

/// Reads one line of stdin and answers as a server does.
const PYTHON: &str = "import sys,json\nm=json.loads(sys.stdin.readline())\n\
    print(json.dumps({'jsonrpc':'2.0','id':m['id'],'result':{'protocolVersion':'2025-11-25'}}),flush=True)";
/// Moves stdin into a pipe of its own, unread, and reads that.
const SPLICE: &str = "import os,json\nr,w=os.pipe()\nn=os.splice(0,w,65536)\nm=json.loads(os.read(r,n))\n\
    os.write(1,json.dumps({'id':m['id'],'result':{}}).encode()+b'\\n')";
/// Receives a message with its segments.
const RECVMSG: &str = "import socket,json\ns=socket.socket(fileno=0)\ndata,_,_,_=s.recvmsg(65536)\nm=json.loads(data)\n\
    import os\nos.write(1,json.dumps({'id':m['id'],'result':{}}).encode()+b'\\n')";
/// Runs a copy of an executable that has no name in any directory.
const MEMFD: &str = "import os,sys\nfd=os.memfd_create('x',0)\nos.write(fd,open(sys.argv[1],'rb').read())\n\
    os.execve(fd,['x'],os.environ)";
/// The process that reads has forked away from one that has ended.
const FORKED: &str = "import os,sys,json\nif os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\n\
    m=json.loads(sys.stdin.readline())\nos.write(1,json.dumps({'id':m['id'],'result':{}}).encode()+b'\\n')";
const SHELL: &str = "read -r line; echo '{\"jsonrpc\":\"2.0\",\"id\":0,\"result\":{}}'";

#[test]
fn an_unknown_program_reads_no_message_however_it_was_started() {
    let _alone = alone();
    let Some(house) = house("enforce") else { return };
    let python = host::python("sdk2");
    let (python, server) = (text(&python), helper("shadow-server"));
    let cases: [(&str, &str, &[&str]); 6] = [
        ("python -c", "pipe", &[python, "-c", PYTHON]),
        ("python -c with sockets", "socketpair", &[python, "-c", PYTHON]),
        ("splice", "pipe", &[python, "-c", SPLICE]),
        ("recvmsg", "socketpair", &[python, "-c", RECVMSG]),
        ("memfd", "pipe", &[python, "-c", MEMFD, text(&server)]),
        ("bash -c", "pipe", &["bash", "-c", SHELL]),
    ];
    for (what, io, command) in cases {
        assert_served(&talk_outside(io, "initialize", command), what);
        assert_stopped(&house, io, "initialize", command, what);
    }
    // Static: nothing is loaded between its exec and its first read.
    if Path::new("/bin/busybox").exists() {
        let command = ["/bin/busybox", "sh", "-c", SHELL];
        assert_served(&talk_outside("pipe", "initialize", &command), "busybox");
        assert_stopped(&house, "pipe", "initialize", &command, "busybox");
    } else {
        lazaret_tests::skip("a static server", "there is no /bin/busybox");
    }
}

#[test]
fn a_process_that_forked_away_from_the_candidate_reads_no_message() {
    let _alone = alone();
    let Some(house) = house("enforce") else { return };
    let python = host::python("sdk2");
    let command = [text(&python), "-c", FORKED];
    let outside = talk_outside("pipe", "initialize", &command);
    assert!(outside["answer"].is_string(), "{outside}");
    assert_reported(&house, "pipe", "initialize", &command, "forked", |report| report["answer"].is_null());
}

#[test]
fn a_static_server_meets_programs_that_are_attached_although_none_were() {
    let _alone = alone();
    let Some(house) = house("enforce") else { return };
    if !Path::new("/bin/busybox").exists() {
        lazaret_tests::skip("a static server", "there is no /bin/busybox");
        return;
    }
    let before = on_demand(&house);
    assert_eq!(before["attached"], false, "{before}");
    // The message lies in the pipe before the server is exec'd: it can read it at once.
    let script = "/bin/busybox sh -c 'read -r line; echo \"$line\" > \"$0\"' \"$0\"";
    let message = lazaret_tests::messages::message("initialize").expect("a message of that name");
    let run = |mut command: Command, told: &Path| {
        let mut child =
            command.args(["-c", script]).arg(told).stdin(Stdio::piped()).spawn().expect("a shell can be run");
        std::io::Write::write_all(&mut child.stdin.take().expect("stdin is piped"), &message).expect("it is written");
        child.wait().expect("it ends")
    };
    let (outside, guarded) = (house.path("outside"), house.path("guarded"));
    run(Command::new("/bin/sh"), &outside);
    assert!(outside.exists());
    run(house.in_scope("/bin/sh"), &guarded);
    assert!(!guarded.exists(), "{}", on_demand(&house));
    let after = on_demand(&house);
    assert!(after["attached"] == true && after["attachments"].as_u64() >= Some(1), "{after}");
}

#[test]
fn other_protocols_are_left_alone_on_pipes_and_sockets() {
    let _alone = alone();
    let Some(house) = house("enforce") else { return };
    let server = helper("benign-server");
    for io in ["pipe", "socketpair"] {
        // What one message leaves behind must not tell against the next.
        assert_stopped(&house, io, "initialize", &[text(&helper("shadow-server"))], io);
        for (message, kind) in [("acp", "acp"), ("codex", "acp"), ("lsp", "lsp"), ("dap", "lsp")] {
            assert_served(&talk(&house, io, message, &[text(&server), kind]), &format!("{message} on a {io}"));
        }
    }
}

#[test]
fn pipelines_under_load_come_out_as_they_do_without_a_daemon() {
    let _alone = alone();
    let Some(house) = house("enforce") else { return };
    let log = house.path("messages.log");
    let line = lazaret_tests::messages::message("initialize").expect("a message of that name");
    std::fs::write(&log, line.repeat(50)).expect("the log can be written");
    let pipelines = [
        "seq 200000 | sort -rn | uniq | wc -l".to_owned(),
        "for i in $(seq 60); do echo $i | cat | tr 0-9 a-j | head -c 1; done".to_owned(),
        "yes | head -c 3000000 | gzip -c | gunzip -c | wc -c".to_owned(),
        "printf 'a\\nb\\n' | while read -r x; do echo \"<$x>\"; done".to_owned(),
        "seq 30 | xargs -n1 -P4 sh -c 'echo $0 | wc -c' | sort | uniq -c".to_owned(),
        format!("cat {} | grep -c protocolVersion", log.display()),
        format!("cat {} | jq -r .method | sort | uniq -c", log.display()),
    ];
    for pipeline in &pipelines {
        let run = |mut shell: Command| shell.args(["-c", pipeline]).stdin(Stdio::null()).output().expect("a shell");
        let (outside, guarded) = (run(Command::new("/bin/bash")), run(house.in_scope("/bin/bash")));
        assert!(guarded.status.success(), "{pipeline}: {} {}", guarded.status, host::text(&guarded.stderr));
        assert_eq!(host::text(&outside.stdout), host::text(&guarded.stdout), "{pipeline}");
    }
    assert!(on_demand(&house)["candidates"].as_u64() > Some(60), "{}", on_demand(&house));
    assert_eq!(house.json(&["shadow", "list", "--json"])["shadows"], serde_json::json!([]));
}

#[test]
fn the_programs_on_system_calls_go_when_no_candidate_is_open() {
    let _alone = alone();
    let Some(house) = house("enforce") else { return };
    assert_eq!(on_demand(&house)["attached"], false);
    let mut reader = house.in_scope("/bin/cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("cat");
    // A text tool serves nobody: it makes no candidate. A shell's `read` does.
    let mut open = house.in_scope("/bin/bash");
    let mut open = open.args(["-c", "read -r line"]).stdin(Stdio::piped()).spawn().expect("bash");
    let attached = poll(PATIENCE, || (on_demand(&house)["attached"] == true).then_some(()));
    assert!(attached.is_some(), "{}", on_demand(&house));
    let hooks = house.json(&["status", "--json"])["kernel"]["hooks"].clone();
    let calls: Vec<&Value> = hooks.as_array().expect("hooks").iter().filter(|hook| hook["on_demand"] == true).collect();
    assert!(
        calls.len() == 2 && calls.iter().all(|hook| hook["attached"] == true && hook["proven"] == true),
        "{hooks:#}"
    );

    drop((reader.stdin.take(), open.stdin.take()));
    reader.wait().and(open.wait()).expect("they end with their input");
    let detached = poll(PATIENCE, || (on_demand(&house)["attached"] == false).then_some(()));
    assert!(detached.is_some(), "{}", on_demand(&house));
}

#[test]
fn what_was_attached_when_the_daemon_was_killed_goes_on_guarding() {
    let _alone = alone();
    let Some(mut house) = house("enforce") else { return };
    let mut open = house.in_scope("/bin/bash");
    let mut open = open.args(["-c", "read -r line"]).stdin(Stdio::piped()).spawn().expect("bash");
    let attached = poll(PATIENCE, || (on_demand(&house)["attached"] == true).then_some(()));
    assert!(attached.is_some(), "{}", on_demand(&house));
    house.kill_daemon();
    let server = helper("shadow-server");
    for io in ["pipe", "socketpair"] {
        let report = talk(&house, io, "initialize", &[text(&server)]);
        assert!(was_stopped(&report), "{io}: {report}");
    }
    drop(open.stdin.take());
    open.wait().expect("it ends with its input");
    house.ok(&["daemon", "--detach"]);
    assert_served(&talk(&house, "pipe", "initialize", &[text(&server)]), "detached");
}

/// Connects to a UNIX socket, says something, and reports how far it came.
const ENGINE: &str = "import socket,sys,time\ns=socket.socket(socket.AF_UNIX)\nsay=open(sys.argv[2],'w')\n\
    try: s.connect(sys.argv[1])\nexcept PermissionError: say.write('denied'); sys.exit()\n\
    say.write('connected '); say.flush()\ns.sendall(b'GET /info HTTP/1.0\\r\\n\\r\\n')\nsay.write('sent')";

#[test]
fn a_flagged_process_gets_nothing_from_a_container_engine_by_any_name() {
    let _alone = alone();
    let Some(house) = House::or_skip(Needs::Nothing) else { return };
    house.write_config("[kernel.evidence]\nconnect = \"enforce\"\n");
    let python = host::python("sdk2");
    let engine = house.path("docker.sock");
    let link = house.path("elsewhere");
    std::os::unix::fs::symlink(&engine, &link).expect("a link can be made");
    let _listener = std::os::unix::net::UnixListener::bind(&engine).expect("a socket can be bound");
    let (by_name, by_link, twin) = (house.path("by-name"), house.path("by-link"), house.path("twin"));
    house.configure_claude(&[
        ("by-name", &python, &["-c", ENGINE, text(&engine), text(&by_name)]),
        ("by-link", &python, &["-c", ENGINE, text(&link), text(&by_link)]),
    ]);
    let run = |house: &House, socket: &Path, told: &Path| {
        let mut command = house.in_scope(&python);
        command.args(["-c", ENGINE]).arg(socket).arg(told).status().expect("python can be run");
        std::fs::read_to_string(told).expect("it says how far it came")
    };
    assert_eq!(run(&house, &engine, &by_name), "connected sent", "without a daemon");
    let Some(house) = started(house, "observe") else { return };
    assert_eq!(run(&house, &engine, &twin), "connected sent", "a process that nothing convicts");
    assert_eq!(run(&house, &engine, &by_name), "denied");
    assert_eq!(run(&house, &link, &by_link), "connected ", "it is ended when it sends something");
    // The record is there from its start on; what it did then comes behind.
    let recorded = poll(std::time::Duration::from_secs(20), || {
        let record = house.shadow_named("by-link");
        record["evidence"].as_array().is_some_and(|all| all.iter().any(|one| one == "connect")).then_some(())
    });
    assert!(recorded.is_some(), "{:#}", house.shadow_named("by-link"));
}
