//! What the kernel programs cost, in instructions: the same operations without a daemon and under one.
//!
//! Runs alone, in a guest whose clock counts instructions (`qemu::measure`), with the number of execs of its storm on
//! the command line: `lazaret.storm=N`.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::bench::{CONFIGURED, install, install_tracer, traced};
use super::daemon::{self, Daemon, Options};
use super::enforce::JUDGED;
use super::place;
use super::report::{Check, Report};
use crate::host::elf;

const TINY: &str = "/opt/bin/tiny";

/// The number of execs, if this guest is one that measures.
pub fn storm_size() -> Option<u32> {
    let line = place::command_line();
    line.split_whitespace().find_map(|word| word.strip_prefix("lazaret.storm="))?.parse().ok()
}

pub fn run(report: &mut Report, storm_size: u32) {
    // Its first instructions open what is there already: the smallest program that there is.
    let ready = install(TINY, &elf::image("/dev/null".as_ref()))
        .and_then(|()| fs::create_dir_all(JUDGED).map_err(|e| format!("cannot make {JUDGED}: {e}")));
    if let Err(why) = ready.and_then(|()| measure(report, "without", "/sys/fs/cgroup")) {
        return report.failed("the_cost_without_a_daemon", &why);
    }
    let scope = format!("cgroup:{JUDGED}");
    for (name, scope) in [("cost-cgroup", scope.as_str()), ("cost-host", "host")] {
        let options = Options { name, mode: "enforce", scope, config: None };
        daemon::session(report, &options, |report, daemon| {
            let done = if scope == "host" {
                measure(report, "in-host-scope", "/sys/fs/cgroup")
            } else {
                measure(report, "outside-of-scope", "/sys/fs/cgroup")
                    .and_then(|()| measure(report, "in-cgroup-scope", JUDGED))
                    .and_then(|()| storm(report, daemon, storm_size))
            };
            if let Err(why) = done {
                report.failed(&format!("the_{name}"), &why);
            }
        });
    }
}

fn bench(cgroup: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "echo 0 > \"$0/cgroup.procs\" && exec kernel-bench \"$@\"", cgroup]).args(arguments);
    command.stdin(Stdio::null());
    command
}

fn measure(report: &Report, state: &str, cgroup: &str) -> Check {
    let output = bench(cgroup, &["operations"]).output().map_err(|e| format!("cannot run kernel-bench: {e}"))?;
    if !output.status.success() {
        return Err(format!("kernel-bench ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr)));
    }
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let figure = line.split_once(' ').and_then(|(name, count)| Some((name, count.parse::<f64>().ok()?)));
        let (operation, instructions) = figure.ok_or_else(|| format!("kernel-bench printed {line:?}"))?;
        report.figure(&json!({"state": state, "operation": operation, "instructions": instructions}));
    }
    Ok(())
}

/// Executes so often, now and then a server that a client config names.
fn storm(report: &Report, daemon: &Daemon, count: u32) -> Check {
    if count == 0 {
        return Ok(());
    }
    install_tracer(CONFIGURED[0][0], "storm")?;
    let count = count.to_string();
    let arguments = [&["storm", &count, TINY, "--"], CONFIGURED[0]].concat();
    let mut bench = bench(JUDGED, &arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("cannot run kernel-bench: {e}"))?;
    if let Some(progress) = bench.stderr.take() {
        BufReader::new(progress).lines().map_while(Result::ok).for_each(|line| report.log(&line));
    }
    let output = bench.wait_with_output().map_err(|e| format!("cannot wait for kernel-bench: {e}"))?;
    let mut fate: Value = serde_json::from_slice(&output.stdout)
        .map_err(|e| format!("the storm ended with {} and no count ({e})", output.status))?;
    let kernel = daemon.json(&["status", "--json"])?["kernel"].take();
    fate["a_server_left_a_trace"] = traced("storm").into();
    fate["lost_events"] = kernel["lost_events"].clone();
    fate["bad_events"] = kernel["bad_events"].clone();
    report.figure(&json!({"storm": fate}));
    Ok(())
}
