//! Exec: every way of starting a program that a config names, and every way of getting into the door's own process.
//!
//! Invariant: the session `bare` shows that each of these ways leads to a program that runs, and that each of the
//! libraries that are put into the connector does what it is meant to.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

use serde_json::json;

use super::bench::{CWD, SOON, Start, install, install_shadow, install_tracer, trace, traced};
use super::daemon::{self, Daemon, Options};
use super::images;
use super::report::{Report, ensure};
use crate::host::elf;
use crate::poll;

/// Belongs to root and is of no home: its entries count for everybody.
const MANAGED: &str = "/etc/claude-code/managed-mcp.json";
pub const TRICK: &str = "/opt/bin/configured-trick";
const USERS: &str = "/opt/bin/configured-by-a-user";
const SCRIPT: &str = "/opt/bin/configured-script";
const INTERPRETER: &str = "/opt/l/interpreter";
/// Says with which last word it was started, in a file that has a line for each start.
const RACE: [&str; 4] = ["/bin/sh", "-c", "echo $0 >> /tmp/traces/raced", "serve"];
/// Executes another program in a thread: flagged, in the session `observe`.
const EVADER: &str = "/opt/bin/configured-evader";
pub const DEV: u32 = 1000;

fn long() -> String {
    format!("--serve={}", "x".repeat(20_000))
}

/// Must be there before any daemon starts.
pub fn write_configs() -> Result<(), String> {
    let entry = |words: &[&str]| json!({"command": words[0], "args": words[1..]});
    let long = long();
    let managed = json!({"mcpServers": {
        "trick": entry(&[TRICK, "--serve"]),
        "script": entry(&[SCRIPT, "--serve"]),
        "foreign": entry(&[images::FOREIGN, "--serve"]),
        "long": entry(&[TRICK, &long]),
        "race": entry(&RACE),
        "threads": entry(&[EVADER, "thread", "/bin/shadow-server", "--connect", "/var/run/docker.sock", "--connected",
            "/tmp/traces/threads.connected"]),
        "alone": entry(&[EVADER, "thread-alone", "/bin/shadow-server", "--connect", "/var/run/docker.sock",
            "--connected", "/tmp/traces/alone.connected"]),
        "shell": entry(&["sh"]),
        "list": entry(&["ls", "-l"]),
    }});
    let users = json!({"mcpServers": {"users": entry(&[USERS, "--serve"])}});
    let write = |path: &str, content: String| {
        fs::create_dir_all(std::path::Path::new(path).parent().unwrap_or(std::path::Path::new("/")))
            .and_then(|()| fs::write(path, content))
            .map_err(|e| format!("cannot write {path}: {e}"))
    };
    write(MANAGED, managed.to_string())?;
    let of_user = format!("{CWD}/.claude.json");
    write(&of_user, users.to_string())?;
    chown(&of_user, Some(DEV), Some(DEV)).map_err(|e| format!("cannot give {of_user} away: {e}"))?;
    write("/opt/l/which", "#!/bin/sh\necho \"$1\"\n".into())?;
    install(SCRIPT, format!("#!{INTERPRETER}2 -x\n").as_bytes())?;
    install(&format!("{INTERPRETER}2"), format!("#!{INTERPRETER}\n").as_bytes())?;
    fs::set_permissions("/opt/l/which", fs::Permissions::from_mode(0o755)).map_err(|e| e.to_string())
}

/// Checks and what stands before the program and its argument.
#[rustfmt::skip]
const WAYS: [(&str, &[&str]); 26] = [
    ("a_program_in_memory_is_known_by_its_argv", &["evader", "memory"]),
    ("a_program_that_is_executed_by_a_path_descriptor_is_known", &["evader", "path-descriptor"]),
    ("a_program_that_is_executed_through_proc_is_known", &["evader", "proc-descriptor"]),
    ("a_program_that_is_executed_below_a_directory_descriptor_is_known", &["evader", "below-directory"]),
    ("a_program_whose_file_has_gone_is_known", &["evader", "removed"]),
    ("a_lie_in_the_first_word_does_not_hide_the_program", &["evader", "lie"]),
    ("a_thread_that_executes_it_does_not_hide_the_program", &["evader", "thread"]),
    ("a_thread_whose_leader_has_gone_does_not_hide_the_program", &["evader", "thread-alone"]),
    ("posix_spawn_does_not_hide_the_program", &["evader", "spawn"]),
    ("vfork_does_not_hide_the_program", &["evader", "vfork"]),
    ("another_parent_does_not_hide_the_program", &["evader", "sibling"]),
    ("a_daemonised_parent_does_not_hide_the_program", &["sh", "-c", r#"(setsid "$@" <&3 &) 3<&0"#, "sh"]),
    ("env_before_it_does_not_hide_the_program", &["env", "X=1"]),
    ("taskset_before_it_does_not_hide_the_program", &["taskset", "1"]),
    ("timeout_before_it_does_not_hide_the_program", &["timeout", "60"]),
    ("setpriv_before_it_does_not_hide_the_program", &["setpriv", "--nnp"]),
    ("setsid_before_it_does_not_hide_the_program", &["setsid"]),
    ("a_shell_before_it_does_not_hide_the_program", &["sh", "-c", r#"exec "$@""#, "sh"]),
    ("a_shell_that_reads_its_script_does_not_hide_the_program", &["sh", "-c", r#"echo "$@" | sh /proc/self/fd/0"#, "sh"]),
    ("xargs_before_it_does_not_hide_the_program", &["sh", "-c", r#"echo "$2" | xargs "$1""#, "sh"]),
    ("a_mount_namespace_does_not_hide_the_program", &["unshare", "-m"]),
    ("a_pid_namespace_does_not_hide_the_program", &["unshare", "-p", "-f"]),
    ("a_user_namespace_does_not_hide_the_program", &["evader", "namespace"]),
    ("another_root_does_not_hide_the_program", &["chroot", "/"]),
    ("nsenter_does_not_hide_the_program", &["sh", "-c", r#"exec nsenter -t $$ -u "$@""#, "sh"]),
    ("a_link_of_another_name_does_not_hide_the_program", &["sh", "-c", r#"ln -sf "$1" /opt/l/link; exec /opt/l/link "$2""#, "sh"]),
];

fn start(before: &[&str], program: &[&str]) -> Result<super::bench::Ended, String> {
    Start::silent().run(&[before, program].concat())
}

/// `Ok` with whether it left a trace.
fn runs(before: &[&str], image: &[u8], mark: &str) -> Result<bool, String> {
    install(TRICK, image)?;
    let _ = fs::remove_file(trace(mark)); // most are new
    start(before, &[TRICK, "--serve"])?;
    Ok(traced(mark))
}

fn tracer(mark: &str) -> Vec<u8> {
    elf::image(std::path::Path::new(&trace(mark)))
}

pub fn bare(report: &mut Report) {
    report.check("without_a_daemon_every_way_of_starting_a_program_leads_to_it", || {
        for (i, (name, before)) in WAYS.into_iter().enumerate() {
            let mark = format!("way-{i}");
            ensure(runs(before, &tracer(&mark), &mark)?, || format!("{name}: it left no trace"))?;
        }
        let mark = "way-32";
        ensure(runs(&[], &elf::image_32(std::path::Path::new(&trace(mark))), mark)?, || "32 bits: no trace".into())
    });
    report.check("without_a_daemon_what_is_put_into_the_connector_reads_what_the_client_sends", || {
        for variable in ["LD_PRELOAD", "LD_AUDIT"] {
            let mark = install_library()?;
            connect(&["env", &format!("{variable}={LIBRARY}")], Some(DEV))?;
            ensure(traced(mark), || format!("{variable}: it left no trace"))?;
        }
        Ok(())
    });
}

pub fn session(report: &mut Report) {
    let options = Options { name: "exec", mode: "enforce", scope: "host", config: None };
    daemon::session(report, &options, |report, daemon| {
        ways(report);
        scripts(report);
        arguments(report);
        users(report);
        images::checks(report);
        connector(report, daemon);
    });
}

fn ways(report: &mut Report) {
    for (i, (name, before)) in WAYS.into_iter().enumerate() {
        report.check(name, || {
            let mark = format!("hidden-{i}");
            ensure(!runs(before, &tracer(&mark), &mark)?, || "it ran".into())
        });
    }
    report.check("a_32_bit_program_is_a_program", || {
        let mark = "hidden-32";
        ensure(!runs(&[], &elf::image_32(std::path::Path::new(&trace(mark))), mark)?, || "it ran".into())
    });
    report.check("the_same_ways_lead_to_other_programs", || {
        for (i, (name, before)) in WAYS.into_iter().enumerate() {
            let mark = format!("honest-{i}");
            install_tracer("/opt/bin/honest", &mark)?;
            start(before, &["/opt/bin/honest", "--serve"])?;
            ensure(traced(&mark), || format!("{name}: it left no trace"))?;
        }
        Ok(())
    });
}

fn scripts(report: &mut Report) {
    report.check("the_interpreters_of_a_script_do_not_hide_it", || {
        install_tracer(INTERPRETER, "interpreter")?;
        start(&[], &[SCRIPT, "--serve"])?;
        ensure(!traced("interpreter"), || "it ran".into())?;
        start(&[], &[SCRIPT, "--other"])?.left_alone()?;
        ensure(traced("interpreter"), || "with other arguments it left no trace".into())
    });
    report.check("a_script_that_is_only_told_the_name_of_a_server_is_left_alone", || {
        start(&[], &["/opt/l/which", "configured-trick", "--serve"])?.left_alone()
    });
}

fn arguments(report: &mut Report) {
    report.check("long_arguments_do_not_hide_the_program", || {
        let long = long();
        install_tracer(TRICK, "long")?;
        start(&[], &[TRICK, &long])?;
        ensure(!traced("long"), || "it ran".into())?;
        start(&[], &[TRICK, &format!("{}y", &long[1..])])?.left_alone()?;
        ensure(traced("long"), || "with other arguments it left no trace".into())
    });
    report.check("an_argument_that_another_thread_rewrites_is_judged_as_the_program_gets_it", || {
        for _ in 0..20 {
            start(&["evader", "rewritten"], &RACE)?;
        }
        let seen = fs::read_to_string(trace("raced")).unwrap_or_default();
        ensure(seen.lines().all(|line| line != "serve"), || format!("one ran as the config says: {seen:?}"))
    });
    report.check("an_entry_of_a_config_that_says_nothing_stops_nobody", || {
        start(&[], &["sh", "-c", "true"])?.left_alone()?;
        start(&["sh", "-c", "echo true | sh"], &[])?.left_alone()?;
        start(&[], &["ls", "-l"])?.left_alone()
    });
}

fn users(report: &mut Report) {
    report.check("a_users_config_counts_for_that_user_and_nobody_else", || {
        let as_user = |uid| Start { uid, ..Start::silent() }.run(&[USERS, "--serve"]);
        install_tracer(USERS, "users")?;
        as_user(Some(DEV))?.stopped()?;
        ensure(!traced("users"), || "it ran".into())?;
        for uid in [None, Some(1001)] {
            install_tracer(USERS, "users-not")?;
            as_user(uid)?.left_alone().map_err(|why| format!("{uid:?}: {why}"))?;
        }
        ensure(traced("users-not"), || "it left no trace".into())
    });
}

const CONNECTOR: [&str; 4] = ["/bin/lazaret", "connect", "--agent", "exec@test.lazaret.local"];
const LIBRARY: &str = "/opt/l/strange.so";

/// A client starts the connector and sends it `initialize`. Without a key it answers with an error: it has read it.
fn connect(before: &[&str], uid: Option<u32>) -> Result<super::bench::Ended, String> {
    Start { uid, ..Start::sending("initialize") }.run(&[before, &CONNECTOR].concat())
}

/// A library that reads stdin when it is loaded, leaves a trace, and ends the process. Returns the trace's name.
fn install_library() -> Result<&'static str, String> {
    const MARK: &str = "library";
    let _ = fs::remove_file(trace(MARK)); // of the one before
    install(LIBRARY, &elf::library(std::path::Path::new(&trace(MARK)))).map(|()| MARK)
}

fn connector(report: &mut Report, _daemon: &Daemon) {
    report.check("the_connector_answers_whoever_starts_it", || {
        for uid in [None, Some(DEV)] {
            connect(&["evader", "plain"], uid)?.answered().map_err(|why| format!("{uid:?}: {why}"))?;
        }
        Ok(())
    });
    report.check("a_harmless_variable_of_the_loader_does_not_stop_the_connector", || {
        connect(&["env", "LD_LIBRARY_PATH=/nonexistent"], Some(DEV))?.answered()
    });
    for (name, variable) in [
        ("a_preloaded_library_in_the_connector_reads_nothing", "LD_PRELOAD"),
        ("an_audit_library_in_the_connector_reads_nothing", "LD_AUDIT"),
    ] {
        report.check(name, || {
            for uid in [None, Some(DEV)] {
                let mark = install_library()?;
                connect(&["env", &format!("{variable}={LIBRARY}")], uid)?.unanswered()?;
                ensure(!traced(mark), || format!("{uid:?}: it read the message"))?;
            }
            Ok(())
        });
    }
    for (name, before) in [
        ("a_traced_connector_reads_nothing", &["evader", "traced"][..]),
        ("a_connector_in_a_user_namespace_reads_nothing", &["evader", "namespace"]),
        ("the_loader_with_the_connector_reads_nothing", &["/lib64/ld-linux-x86-64.so.2"]),
    ] {
        report.check(name, || connect(before, Some(DEV))?.unanswered());
    }
    report.check("whoever_attaches_to_the_connector_makes_it_an_ordinary_program", || {
        let _ = fs::remove_file(trace("attach")); // of the one before
        let ended = connect(&["evader", "attached"], Some(DEV))?;
        match fs::read_to_string(trace("attach")).unwrap_or_default().as_str() {
            "done" => ended.unanswered(),
            _ => ended.answered(),
        }
    });
    report.check("nobody_but_root_opens_the_connectors_memory", || {
        let _ = fs::remove_file(trace("open")); // as above
        connect(&["evader", "written-into"], Some(DEV))?.answered()?;
        let opened = fs::read_to_string(trace("open")).unwrap_or_default();
        ensure(opened.contains("denied"), || format!("opening it went {opened:?}"))
    });
    report.check("a_copy_of_the_connector_is_not_the_door", || {
        fs::copy(CONNECTOR[0], "/opt/bin/lazaret").map_err(|e| e.to_string())?;
        Start::sending("initialize").run(&[&["/opt/bin/lazaret"], &CONNECTOR[1..]].concat())?.unanswered()
    });
    report.check("another_program_that_is_mounted_over_the_connector_is_not_the_door", || {
        let shadow = install_shadow("mounted")?;
        let script = format!(r#"mount --bind {} /bin/lazaret && shift && exec /bin/lazaret "$@""#, shadow.path);
        let words = shadow.command("read");
        let words = words.iter().map(String::as_str);
        let command: Vec<&str> = ["unshare", "-m", "sh", "-c", &script, "sh"].into_iter().chain(words).collect();
        Start::sending("initialize").run(&command)?.unanswered()?;
        ensure(shadow.started() && !shadow.has_read(), || "it read the message, or never began".into())
    });
    report.check("a_connector_that_is_upgraded_while_the_daemon_runs_is_the_door", || {
        let new = "/bin/lazaret.new";
        fs::copy(CONNECTOR[0], new).and_then(|_| fs::rename(new, CONNECTOR[0])).map_err(|e| e.to_string())?;
        poll(SOON, || connect(&["evader", "plain"], Some(DEV)).ok()?.answered().ok())
            .ok_or_else(|| format!("it is not answered {SOON:?} after the upgrade"))
    });
    report.check("a_link_to_the_connector_is_the_connector", || {
        let _ = fs::remove_file("/opt/l/lazaret"); // of an earlier run
        symlink(CONNECTOR[0], "/opt/l/lazaret").map_err(|e| e.to_string())?;
        Start::sending("initialize").run(&[&["/opt/l/lazaret"], &CONNECTOR[1..]].concat())?.answered()
    });
}
