//! `lazaret tool`.

use super::args::server::{ToolCommand, ToolListArgs};
use super::instance::Instance;
use super::out::{self, Rows, plain, state};
use super::{CliError, review, when};
use crate::admission::AdmissionState;
use crate::api::client::{AdminClient, escape};
use crate::api::types::{DecideTool, ToolView};

pub async fn run(instance: &Instance, command: ToolCommand) -> Result<(), CliError> {
    let admin = instance.admin();
    match command {
        ToolCommand::List(args) => list(&admin, &args).await,
        ToolCommand::Show(args) => show(&admin, &args.tool, args.json.json).await,
        ToolCommand::Approve(args) => decide(&admin, &args.tool, AdmissionState::Approved, args.digest, args.why).await,
        ToolCommand::Block(args) => decide(&admin, &args.tool, AdmissionState::Denied, None, args.why).await,
    }
}

/// `server:tool`; a server's name has no colon, a tool's may.
pub fn split(text: &str) -> Result<(&str, &str), CliError> {
    match text.split_once(':') {
        Some((server, tool)) if !server.is_empty() && !tool.is_empty() => Ok((server, tool)),
        _ => Err(CliError::Usage(format!(
            "cannot read the tool {text:?}; write SERVER:TOOL, as `lazaret tool list` shows it"
        ))),
    }
}

pub async fn of_server(admin: &AdminClient, server: &str) -> Result<Vec<ToolView>, CliError> {
    Ok(admin.get(&format!("/v1/tools?server={}", escape(server))).await?)
}

async fn list(admin: &AdminClient, args: &ToolListArgs) -> Result<(), CliError> {
    let tools = match &args.server {
        Some(server) => of_server(admin, server).await?,
        None => admin.get("/v1/tools").await?,
    };
    if args.json.json {
        return out::listing("tool", "tools", &tools);
    }
    let mut rows = Rows::new(&["TOOL", "STATE", "CALLABLE", "DESCRIPTION"]);
    for tool in &tools {
        rows.row([
            plain(format!("{}:{}", tool.server, tool.name)),
            state(tool.state.to_string()),
            state(if tool.callable { "yes" } else { "no" }),
            plain(summary(tool)),
        ]);
    }
    rows.print("No tools yet: review a server first, `lazaret server review NAME`.")
}

/// The first line of the description, as much as a table bears.
pub fn summary(tool: &ToolView) -> String {
    let text = tool.description.as_deref().or(tool.title.as_deref()).unwrap_or_default();
    let line = text.trim().lines().next().unwrap_or_default();
    match line.char_indices().nth(100) {
        Some((cut, _)) => format!("{}…", &line[..cut]),
        None => line.to_owned(),
    }
}

async fn show(admin: &AdminClient, text: &str, json: bool) -> Result<(), CliError> {
    let (server, name) = split(text)?;
    let found: Vec<ToolView> = admin.get(&format!("/v1/tools?server={}&tool={}", escape(server), escape(name))).await?;
    if json {
        return out::listing("tool", "tools", &found);
    }
    for tool in &found {
        out::field("tool", format!("{}:{}", tool.server, tool.name))?;
        out::field(
            "state",
            format!("{}{}", tool.state, if tool.callable { "" } else { ", agents neither find nor call it" }),
        )?;
        out::field("digest", &tool.digest)?;
        out::line("")?;
        // Any JSON text is shown whole: that is what an agent would see.
        out::line(out::visible_lines(&review::pretty(&tool.descriptor)))?;
        out::line("")?;
        for step in &tool.history {
            out::line(format!(
                "{}  {} by {}: {}",
                when(step.at),
                step.to,
                out::visible(&step.by),
                out::visible(&step.why)
            ))?;
        }
    }
    Ok(())
}

/// Shows the tool, and decides on exactly that: on the digest which was named, else on the one which was shown.
async fn decide(
    admin: &AdminClient,
    text: &str,
    to: AdmissionState,
    digest: Option<String>,
    why: String,
) -> Result<(), CliError> {
    let (server, tool) = split(text)?;
    let shown: Vec<ToolView> = admin.get(&format!("/v1/tools?server={}&tool={}", escape(server), escape(tool))).await?;
    for tool in &shown {
        review::tool_lines(tool, false).iter().for_each(out::say);
        out::say(format!("      digest: {}", tool.digest));
    }
    let digest = digest.or_else(|| shown.first().map(|tool| tool.digest.clone()));
    let request = DecideTool { server: server.into(), tool: tool.into(), to, digest, why };
    let tool: ToolView = admin.post("/v1/tools/decide", &request).await?;
    out::say(match (tool.state, tool.callable) {
        (AdmissionState::Approved, true) => format!("{text} is approved: agents find and call it."),
        (AdmissionState::Approved, false) => {
            format!("{text} is approved, but its server is not: agents do not see it yet.")
        }
        _ => format!("{text} is blocked: agents neither find nor call it."),
    });
    Ok(())
}
