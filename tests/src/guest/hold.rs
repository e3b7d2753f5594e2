//! Hold: what evidence convicts stands still until a human decides.

use super::bench::{SOON, Start, install_shadow, install_tracer, process, traced};
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
    });
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
