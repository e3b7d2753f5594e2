//! Enforce: what evidence convicts never runs, or never reads the message that convicts it; all else is left alone.

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::bench::{BENIGN, SOON, Start, install_shadow, install_tracer, process, traced, write_client_config};
use super::daemon::{self, Daemon, Options};
use super::report::{Check, Report, ensure};
use super::{bench, channel, evasion, handover, launch, place, scope};
use crate::{messages, poll};

/// The judged part of the guest.
pub const JUDGED: &str = "/sys/fs/cgroup/judged";

pub fn judged(send: &str) -> Start<'_> {
    Start { cgroup: Some(JUDGED), ..Start::sending(send) }
}

pub fn session(report: &mut Report) {
    if let Err(e) = fs::create_dir_all(format!("{JUDGED}/inner")) {
        return report.failed("the_guest_has_cgroups", &e.to_string());
    }
    let scope = format!("cgroup:{JUDGED}");
    let options = Options { name: "enforce", mode: "enforce", scope: &scope, config: None };
    daemon::session(report, &options, |report, daemon| {
        status(report, daemon);
        config(report, daemon);
        super::config::checks(report, daemon);
        launch::checks(report, daemon);
        handshake(report, daemon);
        evasion::checks(report);
        channel::checks(report, daemon);
        handover::checks(report);
        benign(report, daemon);
        scope::by_cgroup(report, daemon);
        report.check("kill_9_of_the_daemon_leaves_enforcement_on_and_a_new_daemon_takes_over", || {
            orphaned(daemon, &options)
        });
        report.check("the_kernel_guards_until_it_is_detached", || {
            daemon.stop()?;
            install_tracer("/opt/bin/configured-orphan", "detached")?;
            let start = || judged("none").run(&["/opt/bin/configured-orphan", "--serve"]);
            start()?.stopped().map_err(|why| format!("after SIGTERM: {why}"))?;
            daemon.detach()?;
            start()?.left_alone().map_err(|why| format!("after --detach: {why}"))?;
            ensure(traced("detached"), || "it left no trace".into())
        });
    });
}

fn status(report: &mut Report, daemon: &Daemon) {
    report.check("status_names_the_backend_that_this_kernel_can_carry", || {
        let status = daemon.json(&["status", "--json"])?;
        let listed =
            fs::read_to_string("/sys/kernel/security/lsm").is_ok_and(|list| list.split(',').any(|l| l == "bpf"));
        // A hardened kernel refuses LSM and tracing programs, whatever it lists; no guest's does.
        let expected: &[&str] = match (listed, place::is_the_host()) {
            (true, false) => &["lsm"],
            (true, true) => &["lsm", "tracepoint"],
            (false, false) => &["tracing"],
            (false, true) => &["tracing", "tracepoint"],
        };
        let backend = daemon.backend()?;
        ensure(expected.contains(&backend.as_str()), || {
            format!("the backend is not {expected:?}: {:?}", find(&status, "kernel"))
        })
    });
    report.check("every_active_hook_was_proven_by_firing_it", || {
        let status = daemon.json(&["status", "--json"])?;
        let hooks = find(&status, "hooks").and_then(Value::as_array).ok_or_else(|| format!("no hooks in {status}"))?;
        let active: Vec<_> = hooks.iter().filter(|hook| hook["attached"] == true).collect();
        ensure(!active.is_empty() && active.iter().all(|hook| hook["proven"] == true), || format!("{hooks:?}"))
    });
}

/// The member `name` of `value` or of anything in it.
fn find<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    let object = value.as_object()?;
    object.get(name).or_else(|| object.values().find_map(|inner| find(inner, name)))
}

fn config(report: &mut Report, daemon: &Daemon) {
    report.check("a_server_that_a_client_config_names_never_runs_an_instruction", || {
        install_tracer("/opt/bin/configured", "configured")?;
        judged("none").run(&["/opt/bin/configured", "--serve"])?.stopped()?;
        ensure(!traced("configured"), || "it ran".into())?;
        let shadow = daemon.shadow("/opt/bin/configured")?;
        shadow.has_evidence("config")?;
        shadow.has_action(&["kill", "den"])
    });
    report.check("a_record_says_what_ran_where_and_who_started_it", || {
        install_tracer("/opt/bin/configured-recorded", "recorded")?;
        judged("none").run(&["/opt/bin/configured-recorded", "--serve"])?.stopped()?;
        let record = daemon.shadow("/opt/bin/configured-recorded")?.0;
        let ancestors = record["ancestors"].to_string();
        let complete = record["argv"] == json!(["/opt/bin/configured-recorded", "--serve"])
            && record["exe"] == "/opt/bin/configured-recorded"
            && record["exe_digest"].as_str().is_some_and(|digest| digest.starts_with("sha256:"))
            && record["cwd"] == bench::CWD
            && record["uid"] == 0
            && ancestors.contains("mcp-client")
            && ancestors.contains("kernel-guest");
        ensure(complete, || record.to_string())
    });
    report.check("a_configured_command_without_a_path_is_the_one_that_path_finds", || {
        install_tracer("/opt/bin/configured-by-name", "by-name")?;
        judged("none").run(&["configured-by-name", "--serve"])?.stopped()?;
        ensure(!traced("by-name"), || "it ran".into())
    });
    report.check("the_program_of_a_configured_server_with_other_arguments_is_left_alone", || {
        install_tracer("/opt/bin/configured-elsewhere", "other-arguments")?;
        for arguments in [&["--version"][..], &["--serve", "--more"], &[]] {
            let command = [&["/opt/bin/configured-elsewhere"], arguments].concat();
            judged("none").run(&command)?.left_alone()?;
        }
        ensure(traced("other-arguments"), || "it left no trace".into())
    });
    report.check("a_config_entry_written_while_the_daemon_runs_is_learned", || {
        install_tracer("/opt/bin/late", "late")?;
        judged("none").run(&["/opt/bin/late", "--serve"])?.left_alone()?;
        write_client_config(&[&bench::CONFIGURED[..], &[&["/opt/bin/late", "--serve"]]].concat(), 1)?;
        let stopped = || judged("none").run(&["/opt/bin/late", "--serve"]).ok()?.stopped().ok();
        poll(SOON, stopped).ok_or_else(|| format!("it still runs {SOON:?} after its entry was written"))?;
        daemon.shadow("/opt/bin/late")?.has_evidence("config")
    });
}

fn handshake(report: &mut Report, daemon: &Daemon) {
    type Row<'a> = (&'a str, &'a str, &'a str, bool);
    #[rustfmt::skip]
    let rows: [Row<'_>; 14] = [
        ("a_shadow_server_unknown_to_the_exec_rules_is_killed_before_it_reads_initialize", "initialize", "read", false),
        ("a_shadow_server_on_a_socket_pair_is_killed_before_it_reads_initialize", "initialize", "read", true),
        ("receiving_from_a_socket_pair_is_reading", "initialize", "recv", true),
        ("reading_byte_by_byte_does_not_hide_the_handshake", "initialize", "byte", false),
        ("reading_in_pieces_does_not_hide_the_handshake", "initialize", "readv", false),
        ("the_order_of_members_does_not_hide_the_handshake", "initialize-reordered", "read", false),
        ("a_string_id_does_not_hide_the_handshake", "initialize-string-id", "read", false),
        ("white_space_does_not_hide_the_handshake", "initialize-spaced", "read", false),
        ("escapes_in_member_names_do_not_hide_the_handshake", "initialize-escaped", "read", false),
        ("a_long_message_does_not_hide_the_handshake", "initialize-long", "read", false),
        ("a_message_before_it_does_not_hide_the_handshake", "initialize-second", "read", false),
        ("a_content_length_frame_does_not_hide_the_handshake", "initialize-framed", "read", false),
        ("a_discover_request_is_a_handshake", "discover", "read", false),
        ("a_tools_list_that_opens_a_session_is_a_handshake", "tools-list-2026", "read", true),
    ];
    for (i, (name, send, by, socketpair)) in rows.into_iter().enumerate() {
        report.check(name, || {
            let shadow = install_shadow(&format!("thing-{i}"))?;
            Start { socketpair, ..judged(send) }.run(&shadow.command(by))?.stopped()?;
            ensure(shadow.started(), || "it was stopped before it began: that proves nothing of the handshake".into())?;
            ensure(!shadow.has_read(), || "it read the message".into())?;
            let record = daemon.shadow(&shadow.path)?;
            record.has_evidence("handshake")?;
            record.has_action(&["kill"])
        });
    }
}

fn benign(report: &mut Report, daemon: &mut Daemon) {
    report.check("language_servers_debug_adapters_acp_and_codex_are_left_alone", || {
        for socketpair in [false, true] {
            for (send, server) in BENIGN {
                let ended = Start { socketpair, ..judged(send) }.run(server)?;
                ended.answered().and_then(|()| ended.left_alone()).map_err(|why| format!("{send}: {why}"))?;
            }
        }
        ensure(daemon.find_shadow("/bin/benign-server")?.is_none(), || "a benign server has a shadow record".into())
    });
    report.check("grep_over_a_json_rpc_log_in_a_pipe_is_left_alone", || {
        let mut log =
            b"{\"jsonrpc\":\"2.0\",\"method\":\"window/logMessage\",\"params\":{\"message\":\"started\"}}\n".to_vec();
        for name in ["acp", "codex"] {
            log.extend(messages::message(name).unwrap_or_default());
        }
        for name in ["initialize", "discover"] {
            log.extend(b"2026-11-21T10:00:00Z client -> server ");
            log.extend(messages::message(name).unwrap_or_default());
        }
        fs::write("/tmp/rpc.log", log).map_err(|e| e.to_string())?;
        let ended = judged("none").run(&["sh", "-c", "cat /tmp/rpc.log | grep -c initialize"])?;
        ended.answered()?;
        ended.left_alone()
    });
    report.check("grep_over_a_log_of_mcp_traffic_in_a_pipe_is_left_alone", || {
        let log: Vec<u8> =
            ["initialize", "discover", "tools-list-2026"].into_iter().filter_map(messages::message).flatten().collect();
        fs::write("/tmp/mcp.log", log).map_err(|e| e.to_string())?;
        let ended = judged("none").run(&["sh", "-c", "cat /tmp/mcp.log | /usr/bin/grep -c jsonrpc"])?;
        ended.answered()?;
        ended.left_alone()
    });
    report.check("the_connector_may_read_what_the_client_sends_it", || {
        let agent = "guest@test.lazaret.local";
        daemon.cli(&["agent", "enroll", agent])?;
        judged("initialize").run(&["/bin/lazaret", "connect", "--agent", agent])?.answered()
    });
}

fn orphaned(daemon: &mut Daemon, options: &Options<'_>) -> Check {
    install_tracer("/opt/bin/configured-orphan", "orphan")?;
    let lost = lost_events(daemon)?;
    let mut tried = 0;
    let mut both_stop = |when: &str| -> Check {
        tried += 1;
        let why = |why: String| format!("{when}: {why}");
        judged("none").run(&["/opt/bin/configured-orphan", "--serve"])?.stopped().map_err(why)?;
        let shadow = install_shadow(&format!("orphan-{tried}"))?;
        judged("initialize").run(&shadow.command("read"))?.stopped().map_err(why)?;
        ensure(!shadow.has_read(), || format!("{when}: it read the message"))
    };
    daemon.kill_9()?;
    both_stop("without a daemon")?;

    // So much to read that a daemon which guards before it has read it is caught.
    write_client_config(&bench::CONFIGURED, 1000)?;
    // Another one every few milliseconds: a gap while the new programs take over need not be longer.
    let again = format!(
        "echo 0 > {JUDGED}/cgroup.procs; while [ ! -e /tmp/started ]; do /opt/bin/configured-orphan --serve; done"
    );
    let mut again =
        Command::new("sh").args(["-c", &again]).spawn().map_err(|e| format!("cannot start a shell: {e}"))?;
    let mut no_gap = Ok(());
    let started = Daemon::launch(options).and_then(|new| {
        *daemon = new;
        while !daemon.is_ready(Duration::ZERO)? {
            if no_gap.is_ok() {
                no_gap = both_stop("while a new daemon starts");
            }
        }
        both_stop("with the new daemon")
    });
    fs::write("/tmp/started", "").and_then(|()| again.wait()).map_err(|e| format!("cannot end the shell: {e}"))?;
    started?;
    no_gap?;
    ensure(!traced("orphan"), || "one of many ran while the new daemon took over".into())?;
    // Whoever saw it: the programs of the daemon that was killed, while nobody read, or the new one's.
    for n in 1..=tried {
        daemon.shadow(&format!("/opt/bin/orphan-{n}"))?.has_evidence("handshake")?;
    }
    ensure(lost_events(daemon)? == lost, || "events were lost".into())?;
    ensure(process("/opt/bin/configured-orphan", "").is_none(), || "one of them still lives".into())
}

fn lost_events(daemon: &Daemon) -> Result<u64, String> {
    let status = daemon.json(&["status", "--json"])?;
    find(&status, "lost_events").and_then(Value::as_u64).ok_or_else(|| format!("no lost events in {status}"))
}
