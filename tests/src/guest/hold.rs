//! Hold: what evidence convicts stands still until a human decides.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use super::bench::{SOON, Start, install, install_shadow, install_tracer, process, trace, traced};
use super::daemon::{self, Daemon, Options};
use super::report::{Check, Report, ensure};
use crate::poll;

pub fn session(report: &mut Report) {
    let options = Options { name: "hold", mode: "hold", scope: "host", config: None };
    daemon::session(report, &options, |report, daemon| {
        report.check("a_held_server_runs_its_first_instruction_only_when_it_is_released", || {
            let exe = "/opt/bin/configured-released";
            install_tracer(exe, "released")?;
            let client = Start::silent().begin(&[exe, "--serve"])?;
            held(daemon, exe)?;
            ensure(!traced("released"), || "it ran before it was held".into())?;
            decide(daemon, "release", exe)?;
            client.end()?.left_alone()?;
            ensure(traced("released"), || "it was released and did not run".into())
        });
        report.check("a_held_server_that_is_killed_never_runs", || {
            let exe = "/opt/bin/configured-killed";
            install_tracer(exe, "killed")?;
            let client = Start::silent().begin(&[exe, "--serve"])?;
            held(daemon, exe)?;
            decide(daemon, "kill", exe)?;
            client.end()?.stopped()?;
            ensure(!traced("killed"), || "it ran".into())
        });
        for socketpair in [false, true] {
            let over = if socketpair { "a_socket_pair" } else { "a_pipe" };
            report.check(&format!("a_server_held_at_the_handshake_on_{over}_answers_when_it_is_released"), || {
                let shadow = install_shadow(&format!("held-{over}"))?;
                let client = Start { socketpair, ..Start::sending("initialize") }.begin(&shadow.command("read"))?;
                held(daemon, &shadow.path)?;
                ensure(shadow.started() && !shadow.has_read(), || "it was not held between start and message".into())?;
                daemon.shadow(&shadow.path)?.has_evidence("handshake")?;
                decide(daemon, "release", &shadow.path)?;
                client.end()?.answered()
            });
        }
        report.check("a_server_killed_at_the_handshake_never_sees_the_message", || {
            let shadow = install_shadow("held-killed")?;
            let client = Start::sending("initialize").begin(&shadow.command("read"))?;
            held(daemon, &shadow.path)?;
            decide(daemon, "kill", &shadow.path)?;
            client.end()?.stopped()?;
            ensure(!shadow.has_read(), || "it read the message".into())
        });
        report.check("a_server_that_was_released_is_held_again_the_next_time", || {
            let exe = "/opt/bin/configured-again";
            install_tracer(exe, "again")?;
            for _ in 0..2 {
                let client = Start::silent().begin(&[exe, "--serve"])?;
                held(daemon, exe)?;
                ensure(!traced("again"), || "it ran before it was released".into())?;
                decide(daemon, "release", exe)?;
                client.end()?.left_alone()?;
                fs::remove_file(trace("again")).map_err(|e| format!("it was released and did not run: {e}"))?;
            }
            Ok(())
        });
        report.check("a_held_server_that_its_owner_continues_stays_held", || continued(daemon));
        report.check("a_server_held_at_the_handshake_and_continued_never_sees_the_message", || {
            let shadow = install_shadow("held-continued")?;
            let client = Start::sending("initialize").begin(&shadow.command("read"))?;
            held(daemon, &shadow.path)?;
            for signal in ["CONT", "WINCH", "CONT", "URG", "CONT"] {
                send(signal, &shadow.path)?;
            }
            stays(&shadow.path)?;
            ensure(!shadow.has_read(), || "it read the message".into())?;
            decide(daemon, "release", &shadow.path)?;
            client.end()?.answered()
        });
        report.check("a_held_server_whose_parents_end_stays_held", || orphaned(daemon));
        report.check("killing_a_server_ends_what_left_its_tree", || leaving(daemon));
        report.check("a_held_server_is_found_again_by_a_daemon_that_lost_its_state", || forgotten(daemon, &options));
    });
}

/// As root and as the user whose process it is: only the daemon lets it go.
fn continued(daemon: &Daemon) -> Check {
    let exe = "/opt/bin/configured-continued";
    install_tracer(exe, "continued")?;
    let client = Start { uid: Some(1000), ..Start::silent() }.begin(&[exe, "--serve"])?;
    held(daemon, exe)?;
    let pid = process(exe, "").ok_or("it is gone")?.to_string();
    for _ in 0..20 {
        let sent = Command::new("/bin/busybox").args(["kill", "-CONT", &pid]).uid(1000).status();
        ensure(sent.is_ok_and(|status| status.success()), || {
            "its owner may not signal it: that proves nothing".into()
        })?;
    }
    stays(exe)?;
    ensure(!traced("continued"), || "it ran".into())?;
    decide(daemon, "release", exe)?;
    client.end()?.left_alone()?;
    ensure(traced("continued"), || "it was released and did not run".into())
}

/// The kernel itself continues what stands still in a process group that nobody looks after any more.
fn orphaned(daemon: &Daemon) -> Check {
    let exe = "/opt/bin/configured-orphaned";
    install_tracer(exe, "orphaned")?;
    install_tracer("/opt/bin/plain-orphaned", "plain-orphaned")?;
    // A group whose only tie to the rest of the session is its leader, which ends when both stand still.
    let script = r#"trap "" HUP
        (kill -STOP $(sh -c 'echo $PPID'); exec /opt/bin/plain-orphaned) & plain=$!
        /opt/bin/configured-orphaned --serve & held=$!
        for job in $plain $held; do until grep -q 'State:.T' /proc/$job/status; do :; done; done"#;
    let ended = Command::new("sh").args(["-c", script]).process_group(0).stdin(Stdio::null()).status();
    ensure(ended.is_ok_and(|status| status.success()), || "the leader of the group did not end".into())?;
    poll(SOON, || traced("plain-orphaned").then_some(()))
        .ok_or("the kernel did not continue what was stopped in the orphaned group: that proves nothing")?;
    stays(exe)?;
    ensure(!traced("orphaned"), || "it ran".into())?;
    decide(daemon, "kill", exe)?;
    poll(SOON, || process(exe, "").is_none().then_some(())).ok_or("it was killed and still lives")?;
    ensure(!traced("orphaned"), || "it ran when it was killed".into())
}

/// A server that was released starts another process, whose parents end and which has a session of its own.
fn leaving(daemon: &Daemon) -> Check {
    let (exe, stray) = ("/opt/bin/configured-leaving", "/opt/bin/stray");
    install(stray, &fs::read("/bin/benign-server").map_err(|e| e.to_string())?)?;
    let script = format!("#!/bin/sh\nmkfifo /tmp/stray\n(setsid {stray} lsp <>/tmp/stray &)\nread line\n");
    install(exe, script.as_bytes())?;
    let client = Command::new(exe).arg("--serve").stdin(Stdio::piped()).spawn();
    let mut client = client.map_err(|e| format!("cannot start it: {e}"))?;
    let shadow = daemon.shadow(exe)?;
    poll(SOON, || stat(client.id(), "T")).ok_or("it was not held")?;
    daemon.cli(&["shadow", "release", shadow.id()?])?;
    poll(SOON, || process(stray, "S")).ok_or("the stray process never ran")?;
    daemon.cli(&["shadow", "kill", shadow.id()?])?;
    poll(SOON, || process(stray, "").is_none().then_some(())).ok_or("the stray process still lives")?;
    client.wait().map_err(|e| e.to_string()).map(|_| ())
}

/// One was held while the daemon ran, another when none did; the records are gone.
fn forgotten(daemon: &mut Daemon, options: &Options<'_>) -> Check {
    let (known, unknown) = ("/opt/bin/configured-forgotten", "/opt/bin/configured-while-away");
    install_tracer(known, "forgotten")?;
    install_tracer(unknown, "while-away")?;
    let first = Start::silent().begin(&[known, "--serve"])?;
    held(daemon, known)?;
    daemon.kill_9()?;
    let second = Start::silent().begin(&[unknown, "--serve"])?;
    poll(SOON, || process(unknown, "T")).ok_or("without a daemon it was not held")?;
    send("CONT", unknown)?;
    daemon.forget()?;
    *daemon = Daemon::start(options)?;
    for (exe, name, client) in [(known, "forgotten", first), (unknown, "while-away", second)] {
        held(daemon, exe)?;
        ensure(!traced(name), || format!("{exe} ran"))?;
        decide(daemon, "release", exe)?;
        client.end()?.left_alone()?;
        ensure(traced(name), || format!("{exe} was released and did not run"))?;
    }
    Ok(())
}

fn send(signal: &str, exe: &str) -> Check {
    let pid = process(exe, "").ok_or_else(|| format!("{exe} is gone"))?.to_string();
    let sent = Command::new("kill").args([&format!("-{signal}"), &pid]).status();
    ensure(sent.is_ok_and(|status| status.success()), || format!("cannot send {signal} to {exe}"))
}

/// It stands still again, and goes on doing so.
fn stays(exe: &str) -> Check {
    for _ in 0..10 {
        poll(SOON, || process(exe, "T")).ok_or_else(|| format!("{exe} does not stand still"))?;
    }
    Ok(())
}

fn stat(pid: u32, state: &str) -> Option<()> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim_start().starts_with(state).then_some(())
}

/// Waits until `exe` stands still and the daemon says that it holds it.
fn held(daemon: &Daemon, exe: &str) -> Check {
    poll(SOON, || process(exe, "T")).ok_or_else(|| {
        let seen = process(exe, "").map_or("it is not running", |_| "it runs");
        format!("no process of {exe} was stopped: {seen}")
    })?;
    daemon.shadow(exe)?.has_action(&["held", "hold"])
}

fn decide(daemon: &Daemon, verb: &str, exe: &str) -> Check {
    let shadow = daemon.shadow(exe)?;
    daemon.cli(&["shadow", verb, shadow.id()?])?;
    Ok(())
}
