//! Calls a human to a waiting call: a notification on the desktop of each operator who is logged in; and ends the
//! approvals of what was revoked.
//!
//! The call is a courtesy: the call waits whether or not anybody was told, and no value of an argument is
//! in it. Whatever a peer chose is reduced to plain letters first, since desktops read markup.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::App;
use crate::api::{peer, users};
use crate::policy::AskView;

const PROGRAM: &str = "/usr/bin/notify-send";
/// Where users who are logged in have their directory, and in it their session bus.
const DESKTOPS: &str = "/run/user";
/// One notification takes no longer; a desktop that does not answer is left alone.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) async fn follow(app: Arc<App>, cancel: CancellationToken) {
    let mut news = app.gates.asks().news();
    loop {
        let ask = tokio::select! {
            () = cancel.cancelled() => return,
            ask = news.recv() => match ask {
                Ok(ask) => ask,
                Err(RecvError::Lagged(_)) => continue,
                Err(RecvError::Closed) => return,
            },
        };
        if app.config.ask.notify && Path::new(PROGRAM).exists() {
            for operator in operators_with_a_desktop(Path::new(DESKTOPS)) {
                let (body, id) = (body(&ask), ask.id.clone());
                tokio::spawn(async move {
                    match tell(Path::new(PROGRAM), Path::new(DESKTOPS), operator, body).await {
                        Ok(()) => tracing::debug!(uid = operator.0, ask = id, "the operator's desktop was told"),
                        Err(why) => {
                            tracing::debug!(uid = operator.0, ask = id, "the operator's desktop was not told: {why}");
                        }
                    }
                });
            }
        }
    }
}

/// Agents and tools that lose their standing take the approvals of their calls with them.
pub(super) async fn end_what_was_revoked(app: Arc<App>, cancel: CancellationToken) {
    let (mut agents, mut tools) = (app.registry.changes(), app.admission.changes());
    loop {
        let gates = app.gates.clone();
        match tokio::task::spawn_blocking(move || gates.forget_approvals()).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::error!("the end of an approval could not be recorded: {e}"),
            Err(e) => tracing::error!("the approvals could not be looked through: {e}"),
        }
        let changed = tokio::select! {
            () = cancel.cancelled() => return,
            changed = agents.changed() => changed,
            changed = tools.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Users with a session bus of their own who may operate this daemon.
fn operators_with_a_desktop(desktops: &Path) -> Vec<(u32, u32)> {
    let group = users::group(peer::GROUP);
    let dirs = std::fs::read_dir(desktops).into_iter().flatten().flatten();
    let uids = dirs.filter_map(|dir| dir.file_name().to_str()?.parse::<u32>().ok());
    uids.filter_map(|uid| {
        let bus = std::fs::symlink_metadata(desktops.join(uid.to_string()).join("bus")).ok()?;
        let user = users::by_uid(uid)?;
        let member = group.as_ref().is_some_and(|group| group.gid == user.gid || group.members.contains(&user.name));
        (bus.uid() == uid && (uid == 0 || member)).then_some((uid, user.gid))
    })
    .collect()
}

async fn tell(program: &Path, desktops: &Path, (uid, gid): (u32, u32), body: String) -> Result<(), String> {
    let desktop = desktops.join(uid.to_string());
    let mut command = tokio::process::Command::new(program);
    command
        .args(["--app-name=lazaret", "--urgency=critical", "--", "A tool call waits for you"])
        .arg(body)
        .env_clear()
        .env("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={}", desktop.join("bus").display()))
        .env("XDG_RUNTIME_DIR", &desktop)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    command.uid(uid).gid(gid);
    match tokio::time::timeout(PATIENCE, command.status()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(status.to_string()),
        Ok(Err(e)) => Err(e.to_string()),
        Err(_) => Err(format!("no answer for {} s", PATIENCE.as_secs())),
    }
}

fn body(ask: &AskView) -> String {
    let names: Vec<String> = ask.argument_names.iter().take(8).map(|name| plain(name)).collect();
    format!(
        "{} wants {}:{} ({}). lazaret ask show {}",
        plain(&ask.binding.agent),
        plain(&ask.binding.server),
        plain(&ask.binding.tool),
        names.join(", "),
        plain(&ask.id)
    )
}

/// Letters that no desktop takes for markup.
fn plain(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "@._-".contains(c) { c } else { '?' };
    text.chars().take(64).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn the_operator_s_own_bus_is_told_as_that_user_and_nothing_of_the_daemon_s_goes_along() {
        let dir = tempfile::tempdir().unwrap();
        let own = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        let desktop = dir.path().join(own.to_string());
        std::fs::create_dir(&desktop).unwrap();
        let (program, told) = (dir.path().join("notify-send"), dir.path().join("told"));
        let script = format!("#!/bin/sh\n{{ id -u; printf '%s\\n' \"$@\"; /usr/bin/env; }} > {}\n", told.display());
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
        tell(&program, dir.path(), (own, gid), "-x wants <b>".into()).await.unwrap();
        let told = std::fs::read_to_string(&told).unwrap();
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(lines[0], own.to_string());
        assert_eq!(lines[3..6], ["--", "A tool call waits for you", "-x wants <b>"], "no text is taken for an option");
        assert!(told.contains(&format!("DBUS_SESSION_BUS_ADDRESS=unix:path={}/bus\n", desktop.display())), "{told}");
        assert!(!told.contains("CARGO"), "{told}");
        std::fs::write(&program, "#!/bin/sh\nexit 1\n").unwrap();
        assert!(tell(&program, dir.path(), (own, gid), String::new()).await.is_err());
    }

    #[test]
    fn a_desktop_is_its_user_s_and_only_an_operator_s_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let own = rustix::process::geteuid().as_raw();
        // Somebody else's directory with a bus of ours in it, one without a bus, and what is no user's.
        for name in ["4294967", "65534", "lost+found"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        std::fs::write(dir.path().join("4294967/bus"), "").unwrap();
        assert_eq!(operators_with_a_desktop(dir.path()), []);
        std::fs::create_dir(dir.path().join(own.to_string())).unwrap();
        std::fs::write(dir.path().join(own.to_string()).join("bus"), "").unwrap();
        let told = operators_with_a_desktop(dir.path());
        assert!(own != 0 || told == [(0, 0)], "{told:?}");
    }

    #[test]
    fn no_markup_reaches_a_desktop() {
        assert_eq!(plain("<a href=\"x\">&\u{202e}"), "?a?href??x????");
        assert_eq!(plain("claude@acme.lazaret.local"), "claude@acme.lazaret.local");
    }
}
