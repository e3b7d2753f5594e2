//! What the daemon tells the person who started it, and the journal.

use std::path::Path;

use super::App;
use crate::cli::out;
use crate::config::{Mode, Scope};
use crate::kernel::Action;
use crate::kernel::shadow::ShadowSpawn;

/// The end of the start: what is guarded and how strongly, and what to type next. On stderr,
/// since stdout is for data.
pub(super) async fn print(app: &App) {
    let report = app.kernel.report();
    let scan = app.clients.current();
    let mut lines = vec![format!(
        "Lazaret {} is ready: mode {}, scope {}",
        env!("CARGO_PKG_VERSION"),
        app.config.kernel.mode,
        app.config.kernel.scope
    )];
    let proven = report.hooks.iter().filter(|hook| hook.proven).count();
    lines.push(format!("  kernel    backend {} on {}, {proven} hooks proven by firing", report.backend, report.kernel));
    lines.extend(report.can.iter().map(|line| format!("            can:    {line}")));
    lines.extend(report.cannot.iter().map(|line| format!("            cannot: {line}")));
    match app.sandbox.info().await {
        Ok(docker) => {
            let open = docker.open_walls.join(", ");
            let able = if open.is_empty() { "cages can run".into() } else { format!("NO SERVER CAN RUN: {open}") };
            lines.push(format!("  {:<9} {} (API {}), {able}", docker.engine, docker.version, docker.api_version));
        }
        Err(e) => lines.push(format!("  Docker    NO SERVER CAN RUN: {e}")),
    }
    let mut clients: Vec<String> = scan.files.iter().map(|file| file.client.to_string()).collect();
    clients.sort();
    clients.dedup();
    lines.push(match clients.len() {
        0 => "  clients   no MCP client config found yet".to_owned(),
        _ => format!("  clients   {} ({} config files)", clients.join(", "), scan.files.len()),
    });
    let shadows: Vec<String> = scan
        .files
        .iter()
        .flat_map(|file| file.servers.iter().filter(|s| !s.door).map(move |s| (file, s)))
        .map(|(file, server)| format!("            {}: {} in {}", file.client, server.name, file.path.display()))
        .collect();
    match shadows.len() {
        0 => lines.push("  shadows   no config names a server outside the door".to_owned()),
        n => {
            lines.push(format!("  shadows   {n} servers that configs start outside the door:"));
            lines.extend(shadows);
        }
    }
    for file in scan.files.iter() {
        if let Some(error) = &file.error {
            lines.push(format!("  PROBLEM   {error}"));
        }
    }
    lines.push(format!("  sockets   {} and {}", app.paths.mcp_socket().display(), app.paths.admin_socket().display()));
    lines.extend(next_step(app));
    for line in lines {
        // Names and paths come from files that any user writes.
        out::say(out::visible(&line));
    }
}

fn next_step(app: &App) -> Vec<String> {
    let lazaret = command(app);
    match (app.config.kernel.mode, &app.config.kernel.scope) {
        (Mode::Observe, _) => vec![
            "Nothing is stopped in observe mode. Next, in another terminal:".to_owned(),
            format!("  {lazaret} status"),
            format!("  {lazaret} shadow list"),
            format!("  {lazaret} client install claude-code"),
            "and when nothing surprises you any more: --mode enforce".to_owned(),
        ],
        (_, Scope::Host) => {
            vec![format!(
                "Next: `{lazaret} shadow list` shows what was stopped, `{lazaret} shadow adopt ID` lets it in"
            )]
        }
        _ => vec![format!("Outside of its scope nothing is stopped. Next: `{lazaret} shadow list`")],
    }
}

/// What to type so that this program runs and finds this instance.
fn command(app: &App) -> String {
    let mut words = vec![program()];
    if app.paths.run_dir != Path::new(crate::config::DEFAULT_RUN_DIR) {
        let run_dir = std::path::absolute(&app.paths.run_dir).unwrap_or_else(|_| app.paths.run_dir.clone());
        words.extend(["--run-dir".to_owned(), run_dir.display().to_string()]);
    }
    out::shell(&words)
}

/// `lazaret` where a shell finds this very program under that name, else its path.
fn program() -> String {
    let name = || "lazaret".to_owned();
    let Some(own) = std::env::current_exe().ok() else { return name() };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&path).any(|dir| dir.join("lazaret").canonicalize().is_ok_and(|there| there == own));
    if found { name() } else { own.display().to_string() }
}

/// One line in the journal per thing that was caught.
pub(super) fn announce(shadow: &ShadowSpawn, app: &App) {
    let evidence: Vec<String> = shadow.evidence.iter().map(|e| format!("{e:?}").to_lowercase()).collect();
    let what = out::shell(&shadow.argv);
    let evidence = evidence.join("+");
    let lazaret = command(app);
    match shadow.action {
        Action::Observed => tracing::warn!(
            shadow = shadow.id,
            evidence,
            "an MCP server runs outside the door: {what}; look at it with `{lazaret} shadow show {}`",
            shadow.id
        ),
        Action::Held => tracing::warn!(
            shadow = shadow.id,
            evidence,
            "an MCP server outside the door is HELD: {what}; `{lazaret} shadow release {id}` lets it run once, `shadow kill {id}` ends it",
            id = shadow.id
        ),
        Action::Killed | Action::Denied => tracing::warn!(
            shadow = shadow.id,
            evidence,
            "an MCP server outside the door was stopped: {what}; `{lazaret} shadow adopt {}` lets it in through the door",
            shadow.id
        ),
    }
}
