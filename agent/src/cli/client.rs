//! `lazaret client`.

mod install;

use serde::{Deserialize, Serialize};

use super::CliError;
use super::args::client::ClientCommand;
use super::instance::Instance;
use super::out::{self, Rows, Tone, plain, state};
use crate::api::client::AdminClient;

pub async fn run(instance: &Instance, command: ClientCommand) -> Result<(), CliError> {
    match command {
        ClientCommand::List(args) => list(&instance.admin(), args.json.json).await,
        ClientCommand::Install(args) => install::run(instance, args).await,
        ClientCommand::Remove(args) => install::remove(instance, args).await,
    }
}

/// The daemon's scan, as far as it is shown.
#[derive(Deserialize)]
struct Scan {
    files: Vec<ClientFile>,
    #[serde(default)]
    warnings: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct ClientFile {
    client: String,
    path: std::path::PathBuf,
    #[serde(default)]
    servers: Vec<ClientServer>,
    error: Option<String>,
    /// Whether its settings tell the door of its sub-agents; `None` where it has no such settings, or they cannot be
    /// read from here.
    #[serde(skip_deserializing)]
    hooks: Option<bool>,
    /// What else the daemon says of it.
    #[serde(flatten)]
    rest: serde_json::Map<String, serde_json::Value>,
}

#[derive(Serialize, Deserialize)]
struct ClientServer {
    name: String,
    door: bool,
    disabled: bool,
    #[serde(flatten)]
    rest: serde_json::Map<String, serde_json::Value>,
}

async fn list(admin: &AdminClient, json: bool) -> Result<(), CliError> {
    let mut scan: Scan = admin.get("/v1/clients").await?;
    for file in &mut scan.files {
        file.hooks = hooks(file);
    }
    if json {
        return out::listing("client", "clients", &scan.files);
    }
    let mut rows = Rows::new(&["CLIENT", "CONFIG", "DOOR", "HOOKS", "AROUND THE DOOR", "PROBLEM"]);
    for file in &scan.files {
        let around: Vec<&str> = file
            .servers
            .iter()
            .filter(|server| !server.door && !server.disabled)
            .map(|server| server.name.as_str())
            .collect();
        let tone = if around.is_empty() { Tone::Plain } else { Tone::Bad };
        rows.row([
            plain(&file.client),
            plain(file.path.display().to_string()),
            state(if file.servers.iter().any(|server| server.door) { "yes" } else { "no" }),
            plain(file.hooks.map_or("", |hooks| if hooks { "yes" } else { "no" })),
            (around.join(", "), tone),
            plain(file.error.clone().unwrap_or_default()),
        ]);
    }
    rows.print("No MCP client has a config on this host.")?;
    scan.warnings.iter().for_each(|warning| out::say(out::visible(warning)));
    Ok(())
}

/// Of the home that the config lies in.
fn hooks(file: &ClientFile) -> Option<bool> {
    let home = file.path.parent().filter(|_| file.path.file_name().is_some_and(|name| name == ".claude.json"))?;
    crate::admission::install::hooks_are_installed(&file.client, home).ok()
}
