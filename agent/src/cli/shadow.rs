//! `lazaret shadow`.

use super::args::shadow::{ShadowCommand, ShadowListArgs, ShadowShowArgs};
use super::instance::Instance;
use super::out::{self, Rows, plain, state};
use super::{CliError, when};
use crate::api::client::{AdminClient, escape};
use crate::api::types::{Adopt, Done, ServerView};
use crate::kernel::shadow::ShadowSpawn;

pub async fn run(instance: &Instance, command: ShadowCommand) -> Result<(), CliError> {
    let admin = instance.admin();
    match command {
        ShadowCommand::List(args) => list(&admin, &args).await,
        ShadowCommand::Show(args) => show(&admin, &args).await,
        ShadowCommand::Adopt(args) => adopt(&admin, &args.id, args.name).await,
        ShadowCommand::Release(args) => {
            let shadow = decide(&admin, &args.id, "release").await?;
            out::say(format!("{} runs on, this once; its next spawn is judged again.", shadow.id));
            Ok(())
        }
        ShadowCommand::Kill(args) => {
            let shadow = decide(&admin, &args.id, "kill").await?;
            out::say(format!("{} is ended; its next spawn is judged again.", shadow.id));
            Ok(())
        }
        ShadowCommand::Deny(args) => {
            let shadow = decide(&admin, &args.id, "deny").await?;
            out::say(format!("{} is denied for good.", shadow.id));
            Ok(())
        }
    }
}

async fn decide(admin: &AdminClient, id: &str, verb: &str) -> Result<ShadowSpawn, CliError> {
    Ok(admin.post(&format!("/v1/shadows/{}/{verb}", escape(id)), &Done {}).await?)
}

async fn list(admin: &AdminClient, args: &ShadowListArgs) -> Result<(), CliError> {
    let shadows: Vec<ShadowSpawn> = admin.get("/v1/shadows").await?;
    if args.json.json {
        return out::listing("shadow", "shadows", &shadows);
    }
    let mut rows = Rows::new(&["ID", "STATE", "KERNEL", "EVIDENCE", "TIMES", "LAST SEEN", "USER", "CLIENT", "COMMAND"]);
    for shadow in &shadows {
        rows.row([
            plain(&shadow.id),
            state(word(&shadow.state)),
            plain(word(&shadow.action)),
            plain(evidence(shadow)),
            plain(shadow.count.to_string()),
            plain(when(shadow.last_seen)),
            plain(user(shadow)),
            plain(shadow.client.clone().unwrap_or_default()),
            plain(out::shell(&shadow.argv)),
        ]);
    }
    rows.print("No MCP server was seen outside the door.")
}

async fn show(admin: &AdminClient, args: &ShadowShowArgs) -> Result<(), CliError> {
    let shadow: ShadowSpawn = admin.get(&format!("/v1/shadows/{}", escape(&args.id))).await?;
    if args.json.json {
        return out::listing("shadow", "shadows", &[shadow]);
    }
    out::field("shadow", &shadow.id)?;
    out::field("state", word(&shadow.state))?;
    out::field("kernel", format!("{} it, last time", word(&shadow.action)))?;
    out::field("evidence", evidence(&shadow))?;
    out::field("seen", format!("{} times, {} to {}", shadow.count, when(shadow.first_seen), when(shadow.last_seen)))?;
    out::line(format!(
        "{:<14}{}{}",
        "command",
        out::shell(&shadow.argv),
        if shadow.argv_truncated { " ... (cut by the kernel)" } else { "" }
    ))?;
    out::field("executable", shadow.exe.display().to_string())?;
    out::field("digest", shadow.exe_digest.as_deref().unwrap_or("unknown: the file had changed or gone"))?;
    out::field("directory", shadow.cwd.display().to_string())?;
    out::field("user", user(&shadow))?;
    if let Some(client) = &shadow.client {
        out::field("client", client)?;
    }
    if let Some(source) = &shadow.config_source {
        out::field("config", format!("{} in {}", source.name, source.path.display()))?;
    }
    let parents: Vec<String> = shadow.ancestors.iter().map(|a| format!("{} ({})", a.comm, a.pid)).collect();
    out::field("parents", parents.join(" < "))?;
    if !shadow.addresses.is_empty() {
        out::field("reached for", shadow.addresses.join(", "))?;
    }
    let processes: Vec<String> =
        shadow.processes.iter().map(|p| format!("{}{}", p.pid, if p.held { " (held)" } else { "" })).collect();
    out::field("processes", processes.join(", "))?;
    if shadow.was_running {
        out::field("started", "before Lazaret: it was already running")?;
    }
    if let Some(server) = &shadow.server {
        out::field("adopted as", server)?;
    }
    Ok(())
}

async fn adopt(admin: &AdminClient, id: &str, name: Option<String>) -> Result<(), CliError> {
    let server: ServerView = admin.post(&format!("/v1/shadows/{}/adopt", escape(id)), &Adopt { name }).await?;
    out::line(&server.name)?;
    out::say(format!(
        "{} is a server now, {}. Next: `lazaret server approve {}`",
        server.name, server.state, server.name
    ));
    Ok(())
}

fn evidence(shadow: &ShadowSpawn) -> String {
    shadow.evidence.iter().map(word).collect::<Vec<_>>().join("+")
}

fn user(shadow: &ShadowSpawn) -> String {
    shadow.user.clone().unwrap_or_else(|| format!("uid:{}", shadow.uid))
}

/// A unit variant as its JSON name.
pub fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        _ => String::new(),
    }
}
