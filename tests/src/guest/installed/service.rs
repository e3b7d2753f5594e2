//! The service from `systemctl enable` to the next boot.

use std::fs;
use std::path::Path;

use super::super::docker::{AGENT, CLIENT, IMAGE, import, shell};
use super::super::report::{Check, Report, ensure};
use super::{active, answers, configure, doctor, done, json, lazaret, property, status_of, systemctl};
use crate::poll;

use super::START;

/// Stays on the disk while the guest restarts.
const SECOND_BOOT: &str = "/var/lib/second-boot";
const CONFIG: &str = "[kernel]\nmode = \"enforce\"\n";

/// Whether there is more to look at after a restart of the guest.
pub fn session(report: &mut Report) -> bool {
    if Path::new(SECOND_BOOT).exists() {
        after_the_reboot(report);
        return false;
    }
    report.check("the_installed_service_gets_active_below_systemd_with_every_hook_proven", || {
        install()?;
        guards()
    });
    if let Ok(status) = json(&["status", "--json"]) {
        report.backend(status["kernel"]["backend"].as_str().unwrap_or_default());
    }
    report.check("the_unit_leaves_the_daemon_what_it_needs_and_takes_the_rest", walls);
    report.check("a_server_is_approved_and_called_through_the_installed_service", || {
        import(CLIENT)?;
        done(&["server", "add", IMAGE, "--image", IMAGE])?;
        done(&["server", "approve", IMAGE, "--yes"])?;
        done(&["agent", "enroll", AGENT])?;
        answers(IMAGE)
    });
    report.check("a_reload_keeps_the_process_and_a_restart_keeps_what_was_approved", || {
        let before = active()?;
        systemctl(&["reload", super::UNIT])?;
        ensure(active()? == before, || "the reload ended the daemon".into())?;
        answers(IMAGE)?;
        systemctl(&["restart", super::UNIT])?;
        ensure(active()? != before, || "it is the same process after a restart".into())?;
        guards()?;
        answers(IMAGE)
    });
    report.check("a_killed_daemon_is_started_again_by_systemd_and_serves", || {
        let before = active()?;
        systemctl(&["kill", "--kill-who=main", "--signal=KILL", super::UNIT])?;
        let again = poll(START, || active().ok().filter(|pid| *pid != before && *pid != 0));
        ensure(again.is_some(), || "systemd did not start it again".into())?;
        ensure(property("NRestarts")? == "1", || format!("systemd counts {:?} restarts", property("NRestarts")))?;
        guards()?;
        answers(IMAGE)
    });
    report.check("where_no_server_can_run_the_journal_warns_of_it", || {
        let warnings = || shell("journalctl --no-pager --unit lazaret --priority warning --output cat");
        configure(&format!("{CONFIG}[sandbox]\ndocker = \"/run/no-engine.sock\"\n"))?;
        systemctl(&["restart", super::UNIT])?;
        active()?;
        let warned = warnings()?;
        configure(CONFIG)?;
        ensure(warned.contains("no server can run"), || format!("its warnings are: {warned}"))
    });
    report.check("a_stopped_service_leaves_no_container_and_the_kernel_guards_on", || {
        systemctl(&["stop", super::UNIT])?;
        ensure(property("Result")? == "success", || format!("it ended with {:?}", property("Result")))?;
        ensure(property("ActiveState")? == "inactive", || format!("it is {:?}", property("ActiveState")))?;
        let left = shell(&format!("{CLIENT} ps --all --quiet"))?;
        ensure(left.is_empty(), || format!("containers are left: {left}"))?;
        let pinned = fs::read_dir("/sys/fs/bpf/lazaret").map_err(|e| format!("nothing is pinned: {e}"))?;
        ensure(pinned.count() > 0, || "nothing is pinned".into())
    });
    if let Err(e) = fs::write(SECOND_BOOT, "") {
        report.failed("the_guest_restarts", &e.to_string());
        return false;
    }
    true
}

fn after_the_reboot(report: &mut Report) {
    report.check("after_a_boot_the_service_is_there_and_what_was_approved_answers", || {
        // Nobody has started it but systemd.
        active()?;
        ensure(property("NRestarts")? == "0", || format!("systemd counts {:?} restarts", property("NRestarts")))?;
        guards()?;
        answers(IMAGE)
    });
}

/// As the README has it.
fn install() -> Check {
    configure(CONFIG)?;
    fs::create_dir_all("/etc/docker")
        .and_then(|()| fs::write("/etc/docker/daemon.json", super::DOCKERD))
        .map_err(|e| format!("cannot configure Docker: {e}"))?;
    systemctl(&["enable", "--now", "docker.service"])?;
    systemctl(&["enable", "--now", super::UNIT])?;
    ensure(property("Type")? == "notify", || "systemd was not told when it is ready".into())
}

/// It is active, every hook has fired, Docker can be used, and the whole host is guarded.
fn guards() -> Check {
    active()?;
    let status = json(&["status", "--json"])?;
    let hooks = status["kernel"]["hooks"].as_array().cloned().unwrap_or_default();
    let unproven: Vec<_> = hooks.iter().filter(|hook| hook["proven"] != true).collect();
    ensure(!hooks.is_empty() && unproven.is_empty(), || format!("not proven: {unproven:?} of {}", hooks.len()))?;
    ensure(status["kernel"]["backend"] == "lsm", || format!("the backend is {}", status["kernel"]["backend"]))?;
    ensure(status["mode"] == "enforce" && status["scope"] == "host", || format!("it is {status}"))?;
    for name in ["docker", "hooks", "state"] {
        let (verdict, detail) = doctor(name)?;
        ensure(verdict == "ok", || format!("doctor says of {name}: {verdict}, {detail}"))?;
    }
    let said = lazaret(&["status"])?;
    ensure(said.contains("cages can run"), || format!("`status` says: {said}"))
}

/// What the unit says, as the kernel sees it.
fn walls() -> Check {
    let status = status_of(active()?)?;
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
        ensure(status.contains(line), || format!("no {line:?} in {status}"))?;
    }
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:\t")).unwrap_or_default();
    let bounding = u64::from_str_radix(bounding, 16).map_err(|e| format!("its capabilities {bounding:?}: {e}"))?;
    // CAP_SYS_MODULE and CAP_SYS_BOOT are not among them, CAP_BPF is.
    ensure(bounding & (1 << 16 | 1 << 22) == 0 && bounding & 1 << 39 != 0, || format!("it may {bounding:x}"))?;
    let failed = shell("journalctl --no-pager --unit lazaret --priority warning --output cat")?;
    ensure(failed.trim().is_empty(), || format!("its journal has warnings: {failed}"))
}
