//! Survival: what ran before the daemon, what it does not see, and what is done to it changes no verdict.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::bench::{SOON, Start, install, install_shadow, install_tracer, process, traced};
use super::daemon::{self, BPF_DIR, Daemon, Options, RUN_DIR};
use super::launch;
use super::report::{Check, Report, ensure};
use crate::poll;

const CONFIGURED: &str = "/opt/bin/configured-running";

/// A program that runs before the daemon does, until its input ends.
struct Resident(Child);

impl Resident {
    fn start(command: &[&str]) -> Result<Self, String> {
        install(command[0], &fs::read("/bin/benign-server").map_err(|e| format!("cannot read the program: {e}"))?)?;
        let mut start = Command::new(command[0]);
        start.args(&command[1..]).stdin(Stdio::piped()).stdout(Stdio::null());
        start.spawn().map(Self).map_err(|e| format!("cannot start {command:?}: {e}"))
    }

    /// A letter of `/proc/PID/stat`; `None` when it has ended.
    fn state(&self) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).ok()?;
        stat.rsplit_once(')')?.1.trim_start().chars().next().filter(|state| *state != 'Z')
    }

    fn becomes(&self, states: &[Option<char>]) -> Check {
        poll(SOON, || states.contains(&self.state()).then_some(()))
            .ok_or_else(|| format!("its state is {:?} and not one of {states:?}", self.state()))
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        let _ = self.0.kill(); // most were ended by the daemon
        let _ = self.0.wait();
    }
}

const RUNS: [Option<char>; 3] = [Some('S'), Some('R'), Some('D')];

/// Servers that ran before the daemon, in each mode, and programs that are none.
pub fn running(report: &mut Report) {
    for (mode, name) in [
        ("observe", "a_server_that_was_running_already_is_recorded"),
        ("hold", "a_server_that_was_running_already_is_held_until_it_is_released"),
        ("enforce", "a_server_that_was_running_already_is_ended"),
    ] {
        let residents = residents();
        let options = Options { name: &format!("running-{mode}"), mode, scope: "host", config: None };
        daemon::session(report, &options, |report, daemon| {
            report.check(name, || {
                let (servers, others) = residents?;
                // Nothing is awaited of these: when the daemon is ready, it has judged them.
                for (command, other) in &others {
                    ensure(RUNS.contains(&other.state()), || format!("{command:?} is {:?}", other.state()))?;
                }
                for (command, server) in &servers {
                    treated(daemon, mode, command, server).map_err(|why| format!("{command:?}: {why}"))?;
                }
                if mode == "hold" {
                    released_stays_released(daemon, &options, &servers[0].1)?;
                }
                for (command, other) in &others {
                    ensure(RUNS.contains(&other.state()), || format!("{command:?} is {:?}", other.state()))?;
                    ensure(record_of(daemon, command)?.is_none(), || format!("{command:?} has a record"))?;
                }
                Ok(())
            });
        });
    }
}

type Residents = Vec<(Vec<&'static str>, Resident)>;

fn residents() -> Result<(Residents, Residents), String> {
    let start = |commands: &[&[&'static str]]| {
        commands
            .iter()
            .map(|command| Ok((command.to_vec(), Resident::start(command)?)))
            .collect::<Result<Residents, String>>()
    };
    let configured: &[&str] = &[CONFIGURED, "--serve"];
    let mut servers = start(&[configured])?;
    servers.extend(start(&launch::SERVERS)?);
    let mut others = start(&launch::OTHERS)?;
    others.extend(start(&[&[CONFIGURED, "--version"], &["/opt/bin/plain-running", "lsp"]])?);
    Ok((servers, others))
}

fn treated(daemon: &Daemon, mode: &str, command: &[&str], server: &Resident) -> Check {
    match mode {
        "observe" => server.becomes(&RUNS)?,
        "hold" => server.becomes(&[Some('T')])?,
        _ => server.becomes(&[None])?,
    }
    let record = poll(SOON, || record_of(daemon, command).ok().flatten()).ok_or("it has no record")?;
    let (action, evidence) = match mode {
        "observe" => ("observed", "catalogue"),
        "hold" => ("held", "catalogue"),
        _ => ("killed", "catalogue"),
    };
    let evidence = if command[0] == CONFIGURED { "config" } else { evidence };
    ensure(
        record["action"] == action
            && record["was_running"] == true
            && record["evidence"].to_string().contains(&format!("\"{evidence}\"")),
        || record.to_string(),
    )
}

fn record_of(daemon: &Daemon, command: &[&str]) -> Result<Option<Value>, String> {
    let list = daemon.json(&["shadow", "list", "--json"])?;
    let records = list.as_object().and_then(|object| object.values().find_map(Value::as_array).cloned());
    Ok(records.unwrap_or_default().into_iter().find(|record| record["argv"] == Value::from(command.to_vec())))
}

fn released_stays_released(daemon: &mut Daemon, options: &Options<'_>, server: &Resident) -> Check {
    let record = record_of(daemon, &[CONFIGURED, "--serve"])?.ok_or("it has no record")?;
    daemon.cli(&["shadow", "release", record["id"].as_str().unwrap_or_default()])?;
    server.becomes(&RUNS)?;
    daemon.kill_9()?;
    *daemon = Daemon::start(options)?;
    server.becomes(&RUNS).map_err(|why| format!("after it was released a new daemon came: {why}"))
}

const STORM: &str = "/opt/bin/configured-storm";
/// Starts per shell of a storm, and shells: more than the ring buffer holds.
const STARTS: usize = 500;
const SHELLS: usize = 4;

/// More starts than the ring buffer holds, while nobody reads it.
pub fn storm(report: &mut Report) {
    let options = Options { name: "storm", mode: "enforce", scope: "host", config: None };
    report.check("without_a_daemon_a_storm_of_starts_leaves_its_traces", || {
        install_tracer(STORM, "storm-bare")?;
        starts(1, 3)?;
        ensure(traced("storm-bare"), || "it left no trace".into())
    });
    daemon::session(report, &options, |report, daemon| {
        let handshakes = if guards_handshakes_alone(daemon) { 3 } else { 0 };
        report.check("no_start_survives_a_storm_while_the_daemon_stands_still_and_lost_events_are_shown", || {
            install_tracer(STORM, "storm")?;
            daemon.signal("STOP")?;
            let storm = starts(SHELLS, STARTS).and_then(|()| reads_nothing(handshakes, "stopped"));
            daemon.signal("CONT")?;
            storm?;
            ensure(!traced("storm"), || "one of many ran".into())?;
            let lost = poll(SOON, || lost(daemon).ok().filter(|lost| *lost > 0));
            let lost = lost.ok_or("no event was lost: the ring buffer was not full, and that proves nothing")?;
            ensure(daemon.cli(&["status"])?.contains(&lost.to_string()), || format!("status does not show {lost}"))?;
            daemon.shadow(STORM)?.has_action(&["kill", "den"])
        });
        report.check("no_start_survives_a_fork_bomb", || {
            install_tracer(STORM, "bomb")?;
            let bomb = format!(
                "f() {{ if [ $1 -gt 0 ]; then f $(($1-1)) & f $(($1-1)) & fi; {STORM} --serve; wait; }}; f 7 2>/dev/null; :"
            );
            let done = Command::new("sh").args(["-c", &bomb]).status();
            ensure(done.is_ok_and(|status| status.success()), || "the bomb did not end".into())?;
            ensure(!traced("bomb"), || "one of many ran".into())?;
            ensure(process(STORM, "").is_none(), || "one of many lives".into())
        });
        report.check("no_start_survives_a_storm_without_a_daemon", || {
            install_tracer(STORM, "orphaned-storm")?;
            daemon.kill_9()?;
            let storm = starts(SHELLS, STARTS).and_then(|()| reads_nothing(handshakes, "gone"));
            *daemon = Daemon::start(&options)?;
            storm?;
            ensure(!traced("orphaned-storm"), || "one of many ran".into())?;
            Start::silent().run(&[STORM, "--serve"])?.stopped()?;
            ensure(!traced("orphaned-storm"), || "it ran with the new daemon".into())
        });
    });
}

/// Where functions cannot be hooked, the daemon must be there to attach what sees a handshake.
fn guards_handshakes_alone(daemon: &Daemon) -> bool {
    daemon.backend().is_ok_and(|backend| backend != "tracepoint")
}

fn lost(daemon: &Daemon) -> Result<u64, String> {
    Ok(daemon.json(&["status", "--json"])?["kernel"]["lost_events"].as_u64().unwrap_or(0))
}

fn starts(shells: usize, count: usize) -> Check {
    let script = format!("i=0; while [ $i -lt {count} ]; do i=$((i+1)); {STORM} --serve; done 2>/dev/null; :");
    let shell = || Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).spawn();
    let shells: Result<Vec<Child>, _> = (0..shells).map(|_| shell()).collect();
    for mut shell in shells.map_err(|e| format!("cannot start a shell: {e}"))? {
        shell.wait().map_err(|e| format!("cannot wait for a shell: {e}"))?;
    }
    Ok(())
}

fn reads_nothing(count: usize, name: &str) -> Check {
    for i in 0..count {
        let shadow = install_shadow(&format!("storm-{name}-{i}"))?;
        Start::sending("initialize").run(&shadow.command("read"))?.stopped()?;
        ensure(shadow.started() && !shadow.has_read(), || "it read the message, or never began".into())?;
    }
    Ok(())
}

/// What a process that is not root can do to the daemon and to what it put into the kernel.
pub fn tampering(report: &mut Report) {
    let options = Options { name: "tamper", mode: "enforce", scope: "host", config: None };
    daemon::session(report, &options, |report, daemon| {
        report.check("who_is_not_root_can_do_nothing_to_the_daemon", || {
            let mine = tamper(daemon, 0)?;
            for word in ["open a pinned link", "open a program by its number", "ptrace", "write the state", "a signal"]
            {
                ensure(mine.iter().any(|allowed| allowed == word), || {
                    format!("root may not {word:?} either: that proves nothing; it may {mine:?}")
                })?;
            }
            let theirs = tamper(daemon, 1000)?;
            ensure(theirs.is_empty(), || format!("uid 1000 may {theirs:?}"))?;
            install_tracer("/opt/bin/configured-tampered", "tampered")?;
            Start::silent().run(&["/opt/bin/configured-tampered", "--serve"])?.stopped()?;
            ensure(!traced("tampered"), || "it ran afterwards".into())
        });
        const SPARED: &str = "the_daemon_is_among_the_last_to_end_when_memory_is_short";
        // Not every host gives its root CAP_SYS_RESOURCE.
        let may = Command::new("sh").args(["-c", "echo -900 >/proc/self/oom_score_adj"]).stderr(Stdio::null()).status();
        if !may.is_ok_and(|status| status.success()) {
            return report.skip(SPARED, "root may not lower an oom_score_adj here");
        }
        report.check(SPARED, || {
            let score =
                fs::read_to_string(format!("/proc/{}/oom_score_adj", daemon.pid())).map_err(|e| e.to_string())?;
            // Without CAP_SYS_RESOURCE nobody can, root included; the daemon says so in its log.
            let lower = Command::new("sh").args(["-c", "echo -900 2>/dev/null >/proc/self/oom_score_adj"]).status();
            let expected = if lower.is_ok_and(|status| status.success()) { "-900" } else { "0" };
            ensure(score.trim() == expected, || format!("its oom_score_adj is {score}"))
        });
    });
}

fn tamper(daemon: &Daemon, uid: u32) -> Result<Vec<String>, String> {
    let words = [daemon.pid().to_string(), BPF_DIR.into(), "/tmp/state-tamper".into(), RUN_DIR.into()];
    // Within the daemon's session anybody may send it SIGCONT; under systemd that session is its own.
    let mut command = Command::new("setsid");
    command.args(["/bin/kernel-guest", "tamper"]).args(words).stdin(Stdio::null());
    if uid != 0 {
        command.uid(uid).gid(uid);
    }
    let output = command.output().map_err(|e| format!("cannot run the attempts: {e}"))?;
    ensure(output.status.success(), || format!("the attempts ended with {}", output.status))?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

/// A daemon of another version left maps of other shapes behind.
pub fn versions(report: &mut Report) {
    let options = Options { name: "versions", mode: "enforce", scope: "host", config: None };
    daemon::session(report, &options, |report, daemon| {
        report.check("a_daemon_takes_over_from_another_version_without_a_gap", || {
            let exe = "/opt/bin/configured-versions";
            install_tracer(exe, "versions")?;
            let handshakes = usize::from(guards_handshakes_alone(daemon));
            daemon.kill_9()?;
            // Each under the other's name: neither has the shape that is expected there.
            let path = |name: &str| format!("{BPF_DIR}/{name}");
            for (from, to) in [("LABELS", "aside"), ("ENTRIES", "LABELS"), ("aside", "ENTRIES")] {
                fs::rename(path(from), path(to)).map_err(|e| format!("cannot rename {from}: {e}"))?;
            }
            let again = format!("while [ ! -e /tmp/versions ]; do {exe} --serve; done 2>/dev/null; :");
            let mut again = Command::new("sh").args(["-c", &again]).spawn().map_err(|e| e.to_string())?;
            let started = Daemon::launch(&options).and_then(|new| {
                *daemon = new;
                while !daemon.is_ready(Duration::ZERO)? {
                    reads_nothing(handshakes, "versions")?;
                }
                Start::silent().run(&[exe, "--serve"])?.stopped()
            });
            fs::write("/tmp/versions", "").and_then(|()| again.wait()).map_err(|e| e.to_string())?;
            started?;
            ensure(!traced("versions"), || "one of many ran while the new daemon took over".into())?;
            let left = fs::read_dir(BPF_DIR).map_err(|e| e.to_string())?.flatten();
            let left: Vec<_> =
                left.map(|entry| entry.file_name()).filter(|name| name.to_string_lossy().contains("_before")).collect();
            ensure(left.is_empty(), || format!("the other version's {left:?} are still there"))
        });
    });
}
