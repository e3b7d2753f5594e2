//! Scope: what is outside of it is neither denied nor killed, whatever the evidence.

use super::bench::{Start, install_shadow, install_tracer, traced};
use super::daemon::{self, Daemon, Options};
use super::enforce::{JUDGED, judged};
use super::images::install_set_uid;
use super::report::{Report, ensure};

/// Under the enforcing daemon of [`super::enforce`], whose scope is a cgroup.
pub fn by_cgroup(report: &mut Report, _daemon: &Daemon) {
    report.check("outside_of_the_cgroup_a_shadow_server_is_left_alone", || {
        let shadow = install_shadow("outside")?;
        Start::sending("initialize").run(&shadow.command("read"))?.answered()?;
        install_tracer("/opt/bin/configured", "configured-outside")?;
        Start::silent().run(&["/opt/bin/configured", "--serve"])?.left_alone()?;
        ensure(traced("configured-outside"), || "it left no trace".into())
    });
    report.check("a_cgroup_below_the_judged_one_is_judged", || {
        let inner = format!("{JUDGED}/inner");
        let shadow = install_shadow("inside")?;
        Start { cgroup: Some(&inner), ..judged("initialize") }.run(&shadow.command("read"))?.stopped()?;
        ensure(!shadow.has_read(), || "it read the message".into())
    });
}

/// With a daemon of its own.
pub fn by_uid(report: &mut Report) {
    let options = Options { name: "uid", mode: "enforce", scope: "uid:1000", config: None };
    daemon::session(report, &options, |report, daemon| {
        let user = |send| Start { uid: Some(1000), ..Start::sending(send) };
        report.check("inside_of_the_uid_scope_a_shadow_server_is_stopped", || {
            install_tracer("/opt/bin/configured-user", "user")?;
            user("none").run(&["/opt/bin/configured-user", "--serve"])?.stopped()?;
            ensure(!traced("user"), || "it ran".into())?;
            let shadow = install_shadow("user-thing")?;
            user("initialize").run(&shadow.command("read"))?.stopped()?;
            ensure(shadow.started() && !shadow.has_read(), || "it read the message, or never began".into())?;
            daemon.shadow(&shadow.path)?.has_evidence("handshake")
        });
        report.check("outside_of_the_uid_scope_a_shadow_server_is_left_alone", || {
            install_tracer("/opt/bin/configured-user", "not-user")?;
            Start::silent().run(&["/opt/bin/configured-user", "--serve"])?.left_alone()?;
            ensure(traced("not-user"), || "it left no trace".into())?;
            let shadow = install_shadow("root-thing")?;
            Start::sending("initialize").run(&shadow.command("read"))?.answered()
        });
        report.check("who_becomes_root_stays_in_the_scope_of_the_uid", || {
            let become_root = [install_set_uid()?, "become-root"];
            install_tracer("/opt/bin/configured-user", "user-as-root")?;
            user("none").run(&[&become_root[..], &["/opt/bin/configured-user", "--serve"]].concat())?;
            ensure(!traced("user-as-root"), || "it ran".into())?;
            let shadow = install_shadow("user-as-root-thing")?;
            let command: Vec<String> =
                become_root.map(str::to_owned).into_iter().chain(shadow.command("read")).collect();
            user("initialize").run(&command)?.unanswered()?;
            ensure(shadow.started() && !shadow.has_read(), || "it read the message, or never began".into())?;
            let ended = user("acp").run(&[&become_root[..], &["/bin/benign-server", "acp"]].concat())?;
            ended.answered().and_then(|()| ended.left_alone())
        });
    });
}
