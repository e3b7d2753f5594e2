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
            for (uid, gid) in operators_with_a_desktop() {
                tokio::spawn(tell(uid, gid, body(&ask), ask.id.clone()));
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
fn operators_with_a_desktop() -> Vec<(u32, u32)> {
    let group = users::group(peer::GROUP);
    let dirs = std::fs::read_dir("/run/user").into_iter().flatten().flatten();
    let uids = dirs.filter_map(|dir| dir.file_name().to_str()?.parse::<u32>().ok());
    uids.filter_map(|uid| {
        let bus = std::fs::symlink_metadata(format!("/run/user/{uid}/bus")).ok()?;
        let user = users::by_uid(uid)?;
        let member = group.as_ref().is_some_and(|group| group.gid == user.gid || group.members.contains(&user.name));
        (bus.uid() == uid && (uid == 0 || member)).then_some((uid, user.gid))
    })
    .collect()
}

async fn tell(uid: u32, gid: u32, body: String, id: String) {
    let mut command = tokio::process::Command::new(PROGRAM);
    command
        .args(["--app-name=lazaret", "--urgency=critical", "--", "A tool call waits for you"])
        .arg(body)
        .env_clear()
        .env("DBUS_SESSION_BUS_ADDRESS", format!("unix:path=/run/user/{uid}/bus"))
        .env("XDG_RUNTIME_DIR", format!("/run/user/{uid}"))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    command.uid(uid).gid(gid);
    match tokio::time::timeout(PATIENCE, command.status()).await {
        Ok(Ok(status)) if status.success() => tracing::debug!(uid, ask = id, "the operator's desktop was told"),
        ended => tracing::debug!(uid, ask = id, "the operator's desktop was not told: {ended:?}"),
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
    use super::plain;

    #[test]
    fn no_markup_reaches_a_desktop() {
        assert_eq!(plain("<a href=\"x\">&\u{202e}"), "?a?href??x????");
        assert_eq!(plain("claude@acme.lazaret.local"), "claude@acme.lazaret.local");
    }
}
