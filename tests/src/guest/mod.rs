//! The scenarios that run inside a test guest, against the real daemon.
//!
//! Invariant: a check proves its own ground. Where it says that something was stopped, the same program is seen
//! to run where it should.
//!
//! One daemon serves one *session* of checks; the guest has one daemon at a time, and its scope is the whole guest
//! unless the session says otherwise.

mod bench;
mod channel;
mod config;
mod connect;
pub mod connect_requests;
mod cost;
mod daemon;
mod docker;
mod docker_api;
mod door;
mod enforce;
mod evasion;
mod exec;
mod handover;
mod hold;
mod images;
mod installed;
mod launch;
mod observe;
mod place;
pub mod real;
mod report;
mod scope;
mod survival;
pub mod tamper;

use report::Report;

type Session = fn(&mut Report);

const SESSIONS: [(&str, Session); 11] = [
    ("bare", bare),
    ("connect", connect::session),
    ("enforce", enforce::session),
    ("exec", exec::session),
    ("hold", hold::session),
    ("observe", observe::session),
    ("running", survival::running),
    ("storm", survival::storm),
    ("tamper", survival::tampering),
    ("versions", survival::versions),
    ("uid", scope::by_uid),
];

/// Alone in its guest: the one that has Docker.
const DOCKER: [(&str, Session); 1] = [("docker", docker::session)];

/// Alone in its guest: the one that has this machine's own files.
const REAL: [(&str, Session); 1] = [("real", real::session)];

/// Sessions that have no place among other people's processes, and why.
const NOT_ON_A_HOST: [(&str, &str); 1] = [("uid", "a uid is not this run's alone")];

/// What must hold before any daemon, or the other checks prove nothing.
fn bare(report: &mut Report) {
    bench::bare(report);
    evasion::bare(report);
    channel::bare(report);
    handover::bare(report);
    exec::bare(report);
}

/// Runs every scenario that the command line (`place`) does not leave out, and prints the results on stdout.
pub fn run() {
    if let Some(session) = installed::session() {
        return installed::run(session);
    }
    let sessions = match () {
        () if real::is_here() => &REAL[..],
        () if docker::is_here() => &DOCKER,
        () => &SESSIONS,
    };
    let mut report = Report::from_cmdline(&sessions.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    let fenced = if place::is_the_host() { place::fenced() } else { Ok(()) };
    if let Err(why) = fenced.and_then(|()| bench::prepare()).and_then(|()| exec::write_configs()) {
        report.failed("the_guest_is_ready", &why);
        return report.end();
    }
    if let Some(storm_size) = cost::storm_size() {
        cost::run(&mut report, storm_size);
        return report.end();
    }
    for (name, session) in sessions {
        let unfit = NOT_ON_A_HOST.iter().find(|(unfit, _)| place::is_the_host() && unfit == name);
        if let Some((_, why)) = unfit {
            report.log(&format!("the session {name} is left out: {why}"));
        } else if report.wants_session(name) {
            session(&mut report);
        }
    }
    report.end();
}
