//! Who reads a channel that was given to another process: passed on over a socket, taken out of a process, opened
//! through /proc, read by a child that executes nothing, or by whoever has got the pid of one who may.
//!
//! Invariant: the session `bare` shows that each of these ways leads to the message.

use std::fs;
use std::process::{Command, Stdio};

use super::bench::{Ended, SOON, Shadow, Start, install, install_shadow, trace, traced};
use super::enforce::{JUDGED, judged};
use super::report::{Check, Report, ensure};
use crate::poll;

const BOTH: &[&str] = &["pipe", "socketpair"];
/// A socket cannot be opened.
const PIPE: &[&str] = &["pipe"];

/// Has nothing of the client's, beside a process that has and that the shell becomes.
macro_rules! beside {
    ($holder:literal) => {
        concat!(r#""$@" </dev/null & exec evader "#, $holder)
    };
}

/// Checks, and how the server comes by the channel: a shell script that gets its command as arguments, `--takes`, and
/// the shapes of stdio.
const WAYS: [(&str, &str, &str, &[&str]); 7] = [
    ("a_channel_that_is_passed_over_a_socket_is_judged", beside!("pass NAME"), "passed:NAME", BOTH),
    ("a_channel_that_is_taken_out_of_another_process_is_judged", beside!("keep -"), "stolen", BOTH),
    ("a_channel_that_is_opened_through_proc_is_judged", beside!("keep -"), "opened", PIPE),
    ("a_standard_input_that_is_opened_again_is_judged", r#"exec "$@""#, "reopened", PIPE),
    ("a_child_that_executes_nothing_is_judged", r#"exec "$@""#, "forked", BOTH),
    ("a_program_in_memory_under_a_false_name_is_judged", r#"exec evader memory-lie "$@""#, "", BOTH),
    ("a_server_that_is_cloned_into_a_cgroup_out_of_scope_is_judged", r#"exec evader out-of-cgroup "$@""#, "", BOTH),
];

fn take(from: &Start<'_>, way: usize, io: &str, shadow: &Shadow) -> Result<Ended, String> {
    let (_, script, takes, _) = WAYS[way];
    let name = shadow.path.replace('/', "-");
    let (script, takes) = (script.replace("NAME", &name), takes.replace("NAME", &name));
    let mut command = shadow.command("read");
    if !takes.is_empty() {
        command.extend(["--takes".into(), takes]);
    }
    Start { io, ..from.clone() }.run(&in_a_shell(&script, &command))
}

fn in_a_shell(script: &str, command: &[String]) -> Vec<String> {
    ["sh", "-c", script, "sh"].map(str::to_owned).into_iter().chain(command.iter().cloned()).collect()
}

/// Each way with each of its shapes: `act` gets the way's number, the shape, and what both are called.
fn all(ways: impl Iterator<Item = usize>, act: impl Fn(usize, &str, &str) -> Check) -> Check {
    for way in ways {
        for io in WAYS[way].3 {
            act(way, io, &format!("{way}-{io}")).map_err(|why| format!("{}, {io}: {why}", WAYS[way].0))?;
        }
    }
    Ok(())
}

pub fn bare(report: &mut Report) {
    report.check("without_a_daemon_every_hand_leads_to_an_answer", || {
        // The scope of the session has not been made yet.
        all(0..WAYS.len(), |way, io, name| {
            let shadow = install_shadow(&format!("bare-hand-{name}"))?;
            take(&Start::sending("initialize"), way, io, &shadow)?.answered()?;
            ensure(shadow.has_read(), || "it left no trace".into())
        })?;
        let (ended, shadow) = reused("bare-reused", "initialize", None)?;
        ended.answered().map_err(|why| format!("with another's pid: {why}"))?;
        ensure(shadow.has_read(), || "it left no trace".into())
    });
}

pub fn checks(report: &mut Report) {
    for (i, (name, ..)) in WAYS.into_iter().enumerate() {
        report.check(name, || {
            all(i..=i, |way, io, name| {
                let shadow = install_shadow(&format!("hand-{name}"))?;
                take(&judged("initialize"), way, io, &shadow)?.unanswered()?;
                never_read(&shadow)
            })
        });
    }
    report.check("every_hand_may_pass_another_protocol", || {
        all(0..WAYS.len(), |way, io, name| {
            let shadow = install_shadow(&format!("twin-hand-{name}"))?;
            let ended = take(&judged("acp"), way, io, &shadow)?;
            ended.answered().and_then(|()| ended.left_alone())
        })
    });
    connector(report);
    names(report);
    pids(report);
    maps(report);
}

fn never_read(shadow: &Shadow) -> Check {
    ensure(shadow.started(), || "it was stopped before it began: that proves nothing of the handshake".into())?;
    ensure(!shadow.has_read(), || "it read the message".into())
}

const CONNECTOR: &str = "/bin/lazaret connect --agent hand@test.lazaret.local";

fn connector(report: &mut Report) {
    report.check("who_is_passed_the_connectors_channel_reads_nothing", || {
        // Who looks without taking anything leaves the message for the connector, which gets it.
        for (io, by) in [("pipe", "tee"), ("socketpair", "peek")] {
            attached(Some(JUDGED))?;
            let shadow = install_shadow(&format!("hand-connector-{io}"))?;
            let mut command = shadow.command(by);
            command.extend(["--takes".into(), format!("passed:connector-{io}")]);
            let script = format!(r#""$@" </dev/null >/dev/null 2>&1 & exec evader pass-on connector-{io} {CONNECTOR}"#);
            let ended = Start { io, ..judged("initialize") }.run(&in_a_shell(&script, &command))?;
            ended.answered().and_then(|()| never_read(&shadow)).map_err(|why| format!("{io}: {why}"))?;
        }
        Ok(())
    });
    report.check("the_connector_may_read_a_channel_that_was_passed_to_it", || {
        for io in BOTH {
            let script =
                format!("evader receive to-connector-{io} {CONNECTOR} </dev/null & exec evader pass to-connector-{io}");
            Start { io, ..judged("initialize") }.run(&["sh", "-c", &script])?.answered()?;
        }
        Ok(())
    });
}

fn names(report: &mut Report) {
    /// Configured in `bench::CONFIGURED`, and known by the catalogue.
    const PROGRAMS: [(&str, &[&str]); 2] = [("configured-linked", &[]), ("uvx", &["mcp-server-git", "--then"])];
    const OTHERS: [(&str, &str); 3] = [("hard", "ln"), ("copied", "cp"), ("renamed", "mv")];
    report.check("another_name_of_its_file_does_not_hide_the_handshake", || {
        for (program, words) in PROGRAMS {
            let shadow = install_shadow(program)?;
            let command = shadow.command("read");
            let under = |path: &str| {
                let words = [path].into_iter().chain(words.iter().copied());
                words.chain(command[1..].iter().map(String::as_str)).map(str::to_owned).collect::<Vec<String>>()
            };
            judged("initialize").run(&under(&shadow.path))?.stopped()?;
            ensure(!shadow.started(), || format!("{program} was not stopped under its own name"))?;
            for (name, by) in OTHERS {
                let other = format!("/opt/bin/{name}-{program}");
                let _ = fs::remove_file(&other); // of the run on another shape
                let made = Command::new(by).args([&shadow.path, &other]).status();
                ensure(made.is_ok_and(|status| status.success()), || format!("cannot {by} {}", shadow.path))?;
                judged("initialize").run(&under(&other))?.unanswered().map_err(|why| format!("{other}: {why}"))?;
                never_read(&shadow).map_err(|why| format!("{other}: {why}"))?;
                let _ = fs::remove_file(trace(&format!("{program}.started"))); // the next one makes it again
            }
        }
        Ok(())
    });
    report.check("another_name_of_a_file_is_left_alone", || {
        let benign = fs::read("/bin/benign-server").map_err(|e| e.to_string())?;
        for (name, by) in OTHERS {
            let (path, other) = (format!("/opt/bin/benign-{name}"), format!("/opt/bin/benign-{name}-other"));
            install(&path, &benign)?;
            let made = Command::new(by).args([&path, &other]).status();
            ensure(made.is_ok_and(|status| status.success()), || format!("cannot {by} {path}"))?;
            let ended = judged("acp").run(&[&other, "acp"])?;
            ended.answered().and_then(|()| ended.left_alone()).map_err(|why| format!("{other}: {why}"))?;
        }
        Ok(())
    });
}

/// A client and, between it and the run, a process that ends when the message has been written: one of those who may
/// read what the client writes. The server reads it with that one's pid.
fn reused(name: &str, send: &str, cgroup: Option<&str>) -> Result<(Ended, Shadow), String> {
    attached(cgroup)?;
    let shadow = install_shadow(name)?;
    let file = trace(&format!("{name}.pid"));
    let enter = cgroup.map(|dir| format!("echo 0 > {dir}/cgroup.procs && ")).unwrap_or_default();
    // The shell waits for it: its pid is free when it has gone.
    let script = format!("{enter}evader outlived {file} \"$@\"; :");
    let mut client = Command::new("sh");
    client.args(["-c", &script, "sh", "/bin/mcp-client", "--send", send, "--"]);
    client.args(shadow.command("read")).args(["--takes", &format!("pid:{file}")]);
    let output = client.stdin(Stdio::null()).output().map_err(|e| format!("cannot start the client: {e}"))?;
    let ended = Ended::parse(&output)?;
    let had = fs::read_to_string(format!("{file}.reused")).unwrap_or_default();
    ensure(had == "true", || format!("no process got the pid ({had:?}): that proves nothing"))?;
    Ok((ended, shadow))
}

/// Where programs are attached for a candidate, the next one finds them attached for some seconds.
fn attached(cgroup: Option<&str>) -> Check {
    Start { cgroup, ..Start::sending("acp") }.run(&["/bin/benign-server", "acp"])?.answered()
}

fn pids(report: &mut Report) {
    report.check("who_gets_the_pid_of_a_reader_reads_nothing", || {
        let (ended, shadow) = reused("reused", "initialize", Some(JUDGED))?;
        ended.unanswered()?;
        never_read(&shadow)
    });
    report.check("who_gets_the_pid_of_a_reader_may_read_another_protocol", || {
        let (ended, _) = reused("twin-reused", "acp", Some(JUDGED))?;
        ended.answered()?;
        ended.left_alone()
    });
    report.check("a_text_tool_with_the_pid_of_another_one_is_left_alone", || {
        // The first one has got a message from a client; the second one gets a log from a file.
        let file = trace("tool.pid");
        let script = format!("exec 3<&0; /usr/bin/grep -m 1 . <&3 >/tmp/tool.out & echo $! >{file}; wait");
        judged("initialize").run(&["sh", "-c", &script])?.left_alone()?;
        let said = fs::read("/tmp/tool.out").unwrap_or_default();
        ensure(!said.is_empty(), || "the first one got nothing".into())?;
        let script = format!("evader with-pid {file} /usr/bin/cat /tmp/tool.out | sed -n '$='");
        let ended = judged("none").run(&["sh", "-c", &script])?;
        let had = fs::read_to_string(format!("{file}.reused")).unwrap_or_default();
        ensure(had == "true", || format!("the second one did not get the pid ({had:?})"))?;
        ended.answered().and_then(|()| ended.left_alone())
    });
}

/// More channels than the kernel's map has room for, each with a message in it.
const FLOOD: usize = 9000;

fn maps(report: &mut Report) {
    report.check("full_maps_hide_no_handshake", || {
        let full = trace("flooded");
        let script = format!("echo 0 > {JUDGED}/cgroup.procs && exec evader flood {FLOOD} {full}");
        let mut flood = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .spawn()
            .map_err(|e| format!("cannot start the flood: {e}"))?;
        let flooded = poll(SOON, || traced("flooded").then_some(())).ok_or("the flood never came".to_owned());
        let checked = flooded.and_then(|()| {
            for (io, by) in [("pipe", "read"), ("pipe", "byte"), ("socketpair", "read"), ("socketpair", "recvmsg")] {
                let explain = |why: String| format!("{io}, {by}: {why}");
                let shadow = install_shadow(&format!("flooded-{io}-{by}"))?;
                let start = |send| Start { io, ..judged(send) };
                start("initialize").run(&shadow.command(by))?.unanswered().map_err(explain)?;
                never_read(&shadow).map_err(explain)?;
                let ended = start("acp").run(&shadow.command(by))?;
                ended.answered().and_then(|()| ended.left_alone()).map_err(explain)?;
            }
            Ok(())
        });
        drop(flood.stdin.take());
        flood.wait().map_err(|e| e.to_string())?;
        checked
    });
    report.check("a_message_whose_mark_was_pushed_out_is_judged_when_it_is_read", || {
        let shadow = install_shadow("pushed-read")?;
        pushed_out(&shadow, "read")?.unanswered()?;
        never_read(&shadow)
    });
    report.check("a_message_whose_mark_was_pushed_out_is_judged_when_it_is_moved", || {
        let shadow = install_shadow("pushed-splice")?;
        pushed_out(&shadow, "splice-file")?.unanswered()?;
        never_read(&shadow)
    });
}

/// The server itself does it, when the message stands in its channel.
fn pushed_out(shadow: &Shadow, by: &str) -> Result<Ended, String> {
    let flooded = format!("pushed-by-{by}");
    let mut command = shadow.command(by);
    command.extend(["--takes".into(), format!("flood:{FLOOD}:{}", trace(&flooded))]);
    let ended = judged("initialize").run(&command)?;
    ensure(traced(&flooded), || "the flood never came".into())?;
    Ok(ended)
}
