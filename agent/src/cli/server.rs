//! `lazaret server`.

mod add;
mod diff;
mod login;

use super::args::server::{ServerApproveArgs, ServerCommand, ServerDenyArgs, ServerLogsArgs, ServerRemoveArgs};
use super::instance::Instance;
use super::out::{self, Rows, plain, state};
use super::talk::{Progress, confirm};
use super::{CliError, review, tool};
use crate::admission::review::Again;
use crate::admission::{AdmissionState, Source};
use crate::api::client::{AdminClient, escape};
use crate::api::types::{ApproveServer, Done, Logs, ReviewServer, ServerView, ToolView, Why};

pub async fn run(instance: &Instance, command: ServerCommand) -> Result<(), CliError> {
    let admin = instance.admin();
    match command {
        ServerCommand::Add(args) => add::run(&admin, *args).await,
        ServerCommand::List(args) => list(&admin, args.json.json).await,
        ServerCommand::Show(args) => show(&get(&admin, &args.name).await?, &admin, args.json.json, args.full).await,
        ServerCommand::Review(args) => {
            let again = match (args.update, args.rebuild) {
                (true, _) => Again::Update,
                (_, true) => Again::Rebuild,
                _ => Again::Keep,
            };
            let server = do_review(&admin, &args.name, again).await?;
            show(&server, &admin, args.json.json, false).await
        }
        ServerCommand::Diff(args) => diff::run(&admin, &args.name, args.full).await,
        ServerCommand::Approve(args) => approve(&admin, args).await,
        ServerCommand::Deny(args) => deny(&admin, args).await,
        ServerCommand::Remove(args) => remove(&admin, args).await,
        ServerCommand::Logs(args) => logs(&admin, &args).await,
        ServerCommand::Login(args) => login::run(&admin, args).await,
    }
}

fn path(name: &str) -> String {
    format!("/v1/servers/{}", escape(name))
}

async fn get(admin: &AdminClient, name: &str) -> Result<ServerView, CliError> {
    Ok(admin.get(&path(name)).await?)
}

async fn list(admin: &AdminClient, json: bool) -> Result<(), CliError> {
    let servers: Vec<ServerView> = admin.get("/v1/servers").await?;
    if json {
        return out::listing("server", "servers", &servers);
    }
    let mut rows = Rows::new(&["SERVER", "STATE", "SERVES", "TOOLS", "SOURCE", "FROM"]);
    for server in &servers {
        rows.row([
            plain(&server.name),
            state(server.state.to_string()),
            state(if server.active { "yes" } else { "no" }),
            plain(format!("{}/{}", server.tools.approved, server.tools.total())),
            plain(review::source(&server.launch.source)),
            plain(&server.origin),
        ]);
    }
    rows.print("No servers yet: `lazaret server add NAME -- COMMAND`, or `lazaret shadow adopt ID`.")
}

async fn show(server: &ServerView, admin: &AdminClient, json: bool, full: bool) -> Result<(), CliError> {
    if json {
        return out::listing("server", "servers", &[server]);
    }
    let tools = tool::of_server(admin, &server.name).await?;
    out::line(review::text(server, &tools, full).trim_end())?;
    match diff::since_approval(admin, server).await? {
        Some(changes) => out::line(format!("\n{changes}")),
        None => Ok(()),
    }
}

/// Builds, starts and lists it, in the cage; the daemon says how far it is.
async fn do_review(admin: &AdminClient, name: &str, again: Again) -> Result<ServerView, CliError> {
    let progress = Progress::start(&format!("Reviewing {name}: looking at what it is, and asking what it offers"));
    Ok(admin.work(&format!("{}/review", path(name)), &ReviewServer { again }, |step| progress.step(step)).await?)
}

/// A server that went back into quarantine although its reviewed pin was approved is no longer
/// what that review saw.
fn has_current_review(server: &ServerView) -> bool {
    let fell_back =
        |pin: &String| server.state == AdmissionState::Quarantined && server.decided_pin.as_ref() == Some(pin);
    server.review.as_ref().is_some_and(|review| !fell_back(&review.pin))
}

async fn approve(admin: &AdminClient, args: ServerApproveArgs) -> Result<(), CliError> {
    let mut server = get(admin, &args.name).await?;
    if !has_current_review(&server) {
        server = do_review(admin, &args.name, Again::Keep).await?;
    }
    let tools: Vec<ToolView> = tool::of_server(admin, &args.name).await?;
    let Some(shown) = server.review.as_ref().map(|review| review.pin.clone()) else {
        return Err(CliError::Failed(format!(
            "cannot approve {}: its review left no pin; run `lazaret server review {}`",
            args.name, args.name
        )));
    };
    out::say(review::text(&server, &tools, false));
    if let Some(changes) = diff::since_approval(admin, &server).await? {
        out::say(format!("{changes}\n"));
    }
    if let Some(pin) = args.pin.as_ref().filter(|pin| **pin != shown) {
        return Err(CliError::Failed(format!(
            "cannot approve {}: the pin is {shown}, not {pin}; something changed since that one was seen, read the review above",
            args.name
        )));
    }
    if server.active {
        out::say(format!("{} is approved already, with this very pin.", args.name));
    } else {
        confirm(
            &match &server.launch.source {
                Source::Remote(_) => format!("Approve {} to be called as long as it offers exactly this?", args.name),
                _ => format!("Approve {} to run exactly this, in the cage?", args.name),
            },
            args.yes,
        )?;
    }
    // A denial is reversed only by naming the pin; what is sent otherwise is what was shown.
    let pin = match server.state {
        AdmissionState::Denied => args.pin,
        _ => Some(shown),
    };
    let request = ApproveServer { pin, start: !args.no_start, why: args.why };
    let progress = Progress::start(&format!("Approving {}", args.name));
    let server: ServerView =
        admin.work(&format!("{}/approve", path(&args.name)), &request, |step| progress.step(step)).await?;
    drop(progress);
    if !server.active {
        out::say(format!("{} is {}: see `lazaret server show {}`.", server.name, server.state, server.name));
        return Err(CliError::Negative);
    }
    out::say(match &server.container {
        Some(origin) if matches!(server.launch.source, Source::Remote(_)) => {
            format!(
                "{} is approved and connected to at {origin}; {} tools are callable.",
                server.name, server.tools.approved
            )
        }
        Some(_) => {
            format!("{} is approved and runs in its cage; {} tools are callable.", server.name, server.tools.approved)
        }
        None => format!(
            "{} is approved; its first call starts it; {} tools are callable.",
            server.name, server.tools.approved
        ),
    });
    Ok(())
}

async fn deny(admin: &AdminClient, args: ServerDenyArgs) -> Result<(), CliError> {
    let server: ServerView = admin.post(&format!("{}/deny", path(&args.name)), &Why { why: args.why }).await?;
    out::say(format!("{} is {}.", server.name, server.state));
    Ok(())
}

async fn remove(admin: &AdminClient, args: ServerRemoveArgs) -> Result<(), CliError> {
    let server = get(admin, &args.name).await?;
    confirm(
        &format!("Forget {}, its {} tools and every decision on them?", server.name, server.tools.total()),
        args.yes,
    )?;
    let Done {} = admin.delete(&path(&args.name)).await?;
    out::say(format!("{} is removed.", args.name));
    Ok(())
}

async fn logs(admin: &AdminClient, args: &ServerLogsArgs) -> Result<(), CliError> {
    let logs: Logs = admin.get(&format!("{}/logs?tail={}", path(&args.name), args.lines)).await?;
    if args.json.json {
        return out::object("log", &logs);
    }
    if logs.containers.is_empty() {
        out::say(format!("{} has not run yet, or nothing of it was kept.", args.name));
    }
    for log in &logs.containers {
        let remote = log.container.contains("://");
        let container = log.container.get(..12).filter(|_| !remote).unwrap_or(&log.container);
        let what = if remote { "connection to" } else { "container" };
        let holder = log.holder.as_ref().map(|holder| format!(" for {}", out::visible(holder))).unwrap_or_default();
        out::say(match &log.ended {
            Some(ended) => {
                format!("{what} {container}{holder}, ended {}: {}", super::when(ended.at), out::visible(&ended.why))
            }
            None if remote => format!("{what} {container}{holder}, open"),
            None => format!("{what} {container}{holder}, running"),
        });
        log.lines.iter().try_for_each(|line| out::line(out::visible(line)))?;
    }
    Ok(())
}
