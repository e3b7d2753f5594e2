//! The scenarios that run inside a test guest, against the real daemon.
//!
//! Invariant: a check proves its own ground. Where it says that something was stopped, the same program is seen
//! to run where it should.
//!
//! One daemon serves one *session* of checks; the guest has one daemon at a time, and its scope is the whole guest
//! unless the session says otherwise.

mod bench;
mod daemon;
mod docker;
mod docker_api;
mod enforce;
mod evasion;
mod hold;
mod launch;
mod observe;
mod report;
mod scope;

use report::Report;

type Session = fn(&mut Report);

const SESSIONS: [(&str, Session); 5] = [
    ("bare", bare),
    ("enforce", enforce::session),
    ("hold", hold::session),
    ("observe", observe::session),
    ("uid", scope::by_uid),
];

/// Alone in its guest: the one that has Docker.
const DOCKER: [(&str, Session); 1] = [("docker", docker::session)];

/// What must hold before any daemon, or the other checks prove nothing.
fn bare(report: &mut Report) {
    bench::bare(report);
    evasion::bare(report);
}

/// Runs every scenario that the kernel command line does not leave out, and prints the results on stdout.
pub fn run() {
    let sessions = if docker::is_here() { &DOCKER[..] } else { &SESSIONS };
    let mut report = Report::from_cmdline(&sessions.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    if let Err(why) = bench::prepare() {
        report.failed("the_guest_is_ready", &why);
        return report.end();
    }
    for (name, session) in sessions {
        if report.wants_session(name) {
            session(&mut report);
        }
    }
    report.end();
}
