//! `lazaret inventory`.

use super::CliError;
use super::args::client::InventoryArgs;
use super::instance::Instance;
use super::out::{self, Rows, Tone, plain, state};
use crate::api::types::InventoryEntry;

pub async fn run(instance: &Instance, args: &InventoryArgs) -> Result<(), CliError> {
    let entries: Vec<InventoryEntry> = instance.admin().get("/v1/inventory").await?;
    if args.json.json {
        return out::listing("inventory", "servers", &entries);
    }
    let mut rows = Rows::new(&["SERVER", "DOOR", "STATE", "REACHED BY", "PUBLISHER", "UPDATED", "TOUCHES", "COMMAND"]);
    for entry in &entries {
        rows.row([
            plain(&entry.name),
            door(entry),
            entry.state.map_or_else(|| plain(""), |word| state(word.to_string())),
            plain(reached(entry)),
            plain(entry.publisher.clone().unwrap_or_default()),
            plain(&entry.updates),
            plain(&entry.touches),
            plain(entry.url.clone().unwrap_or_else(|| out::shell(&entry.command))),
        ]);
    }
    rows.print("No MCP client on this host can reach any server.")?;
    match entries.iter().filter(|entry| around(entry)).count() {
        0 => {}
        1 => out::say("1 server is reached around the door."),
        n => out::say(format!("{n} servers are reached around the door.")),
    }
    Ok(())
}

fn around(entry: &InventoryEntry) -> bool {
    !entry.door && !entry.disabled
}

fn door(entry: &InventoryEntry) -> (String, Tone) {
    match (entry.door, entry.disabled) {
        (true, _) => ("yes".into(), Tone::Good),
        (false, true) => ("off".into(), Tone::Plain),
        (false, false) => ("AROUND".into(), Tone::Bad),
    }
}

fn reached(entry: &InventoryEntry) -> String {
    match (&entry.client, &entry.config) {
        (Some(client), Some(config)) => format!("{client}: {}", config.display()),
        (Some(client), None) => format!("{client}, seen by the kernel"),
        (None, _) if entry.known_by == "door" => "agents, through the door".to_owned(),
        (None, _) => "seen by the kernel".to_owned(),
    }
}
