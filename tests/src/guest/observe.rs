//! Observe: everything is written down, nothing is stopped - except what an override for one kind of evidence says.

use std::fs;
use std::os::unix::net::UnixListener;

use super::bench::{Start, install, install_shadow, install_tracer, trace, traced};
use super::daemon::{self, Daemon, Options};
use super::report::{Check, Report, ensure};

const DOCKER: &str = "/var/run/docker.sock";
const CONNECT_IS_ENFORCED: &str = "[kernel.evidence]\nconnect = \"enforce\"\n";

pub fn session(report: &mut Report) {
    let Ok(docker) = UnixListener::bind(DOCKER) else {
        return report.failed("the_guest_has_a_docker_socket", "cannot bind it");
    };
    // Takes every connection and hangs up: to the daemon that is a Docker that does not answer.
    std::thread::spawn(move || docker.incoming().for_each(drop));

    let options = Options { name: "observe", mode: "observe", scope: "host", config: Some(CONNECT_IS_ENFORCED) };
    daemon::session(report, &options, |report, daemon| {
        report.check("observe_stops_nothing_and_records_config_evidence", || {
            install_tracer("/opt/bin/configured-observed", "observed")?;
            Start::silent().run(&["/opt/bin/configured-observed", "--serve"])?.left_alone()?;
            ensure(traced("observed"), || "it left no trace".into())?;
            recorded(daemon, "/opt/bin/configured-observed", "config")
        });
        report.check("observe_stops_nothing_and_records_catalogue_evidence", || {
            install_tracer("/opt/bin/uvx", "uvx")?;
            Start::silent().run(&["/opt/bin/uvx", "mcp-server-fetch"])?.left_alone()?;
            ensure(traced("uvx"), || "it left no trace".into())?;
            recorded(daemon, "/opt/bin/uvx", "catalogue")
        });
        report.check("observe_stops_nothing_and_records_handshake_evidence", || {
            let shadow = install_shadow("observed-thing")?;
            Start::sending("initialize").run(&shadow.command("read"))?.answered()?;
            recorded(daemon, &shadow.path, "handshake")
        });
        report.check("a_flagged_process_is_denied_the_docker_socket", || {
            let connected = trace("thief.connected");
            let thief = "/opt/bin/configured-thief";
            install(thief, &fs::read("/bin/shadow-server").map_err(|e| e.to_string())?)?;
            let ended = Start::silent().run(&[thief, "--connect", DOCKER, "--connected", &connected])?;
            // One backend denies the call, the other ends the caller.
            let outcome = fs::read_to_string(&connected).unwrap_or_default();
            ensure(
                outcome.contains("Operation not permitted") || (outcome.is_empty() && ended.stopped().is_ok()),
                || format!("its connect went {outcome:?}"),
            )?;
            let shadow = daemon.shadow(thief)?;
            shadow.has_evidence("connect")?;
            shadow.has_action(&["den", "kill"])
        });
        report.check("a_process_without_evidence_may_connect_to_the_docker_socket", || {
            let connected = trace("honest.connected");
            Start::silent()
                .run(&["/bin/shadow-server", "--connect", DOCKER, "--connected", &connected])?
                .left_alone()?;
            let outcome = fs::read_to_string(&connected).unwrap_or_default();
            ensure(outcome == "connected", || format!("its connect went {outcome:?}"))
        });
        report.check("a_thread_that_executes_another_program_stays_flagged", || {
            for (way, name) in [("thread", "threads"), ("thread-alone", "alone")] {
                let connected = trace(&format!("{name}.connected"));
                install("/opt/bin/configured-evader", &fs::read("/bin/evader").map_err(|e| e.to_string())?)?;
                let server = ["/bin/shadow-server", "--connect", DOCKER, "--connected", &connected];
                let ended = Start::silent().run(&[&["/opt/bin/configured-evader", way][..], &server].concat())?;
                let outcome = fs::read_to_string(&connected).unwrap_or_default();
                ensure(
                    outcome.contains("Operation not permitted") || (outcome.is_empty() && ended.stopped().is_ok()),
                    || format!("{way}: its connect went {outcome:?}"),
                )?;
            }
            Ok(())
        });
        super::connect::reported(report, daemon);
    });
}

fn recorded(daemon: &Daemon, exe: &str, evidence: &str) -> Check {
    let shadow = daemon.shadow(exe)?;
    shadow.has_evidence(evidence)?;
    shadow.has_action(&["observed"])
}
