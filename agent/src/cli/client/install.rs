//! Pointing a client at the connector, and back: shown first, then asked, then done.

use std::path::{Path, PathBuf};

use crate::admission::install::{self, Adopted, Applied, ClientChange, Door, InstallError, Plan};
use crate::api::client::{AdminClient, escape};
use crate::api::types::{Done, ServerView};
use crate::cli::args::client::{ClientInstallArgs, ClientRemoveArgs};
use crate::cli::instance::{Human, Instance};
use crate::cli::{CliError, agent, out, talk};
use crate::config;
use crate::identity::Address;

pub async fn run(instance: &Instance, args: ClientInstallArgs) -> Result<(), CliError> {
    let admin = instance.admin();
    let human = whose(args.home.as_deref())?;
    // Says at once when the client is none that is written.
    let config = install::config_path(&args.client, &human.home).map_err(failure)?;
    let address = agent::address_of(instance, args.agent.as_deref().unwrap_or(&args.client), Some(&human)).await?;
    let usual = usual_key(&human.home, &address);
    let key = match &args.key {
        Some(key) => std::path::absolute(key).map_err(CliError::failed)?,
        None => key_file(&address, &usual),
    };

    let earlier: Option<ClientChange> = admin.get(&change_path(&config)).await?;
    let servers: Vec<ServerView> = admin.get("/v1/servers").await?;
    let adopted: Vec<Adopted> = servers.iter().filter(|server| server.active).map(adopted).collect();
    let door = Door {
        command: std::env::current_exe()
            .map_err(|e| CliError::Failed(format!("cannot tell where this program is: {e}; give its path in PATH")))?,
        agent: address.to_string(),
        key: (key != usual).then(|| key.clone()),
        run_dir: moved_run_dir(&instance.paths.run_dir)?,
    };
    let plan = install::install(&args.client, &human.home, &door, &adopted, earlier).map_err(failure)?;
    let moved = plan.moved.join(", ");
    if !ask(&plan, args.dry_run, args.yes)? {
        return if args.hooks { hooks(&admin, &args, &human, &door).await } else { Ok(()) };
    }
    agent::ensure(instance, &address, &key, &human).await?;
    if let Some(change) = apply(plan)?.change {
        let Done {} = admin.post("/v1/clients/change", &change).await?;
    }
    out::say(format!("{} now connects as {address}; restart it.", args.client));
    if !moved.is_empty() {
        out::say(format!("Moved from its config to the door: {}.", out::visible(&moved)));
    }
    let waiting: Vec<&str> = servers
        .iter()
        .filter(|server| !server.active && server.origin.starts_with("shadow:"))
        .map(|server| server.name.as_str())
        .collect();
    if !waiting.is_empty() {
        out::say(format!(
            "Servers that were adopted and not approved yet, so that entries which start them stay: {}.",
            out::visible(&waiting.join(", "))
        ));
    }
    if args.hooks { hooks(&admin, &args, &human, &door).await } else { Ok(()) }
}

/// The client's hooks, after its connector.
async fn hooks(admin: &AdminClient, args: &ClientInstallArgs, human: &Human, door: &Door) -> Result<(), CliError> {
    let earlier: Option<ClientChange> = match install::settings_path(&args.client, &human.home).map_err(failure)? {
        Some(settings) => admin.get(&change_path(&settings)).await?,
        None => None,
    };
    let plan = install::install_hooks(&args.client, &human.home, door, earlier).map_err(failure)?;
    let nothing_new = plan.changes_nothing();
    if !ask(&plan, args.dry_run, args.yes)? {
        return Ok(());
    }
    if let Some(change) = apply(plan)?.change {
        let Done {} = admin.post("/v1/clients/change", &change).await?;
    }
    if !nothing_new {
        out::say(format!("{} now tells the door of its sub-agents; restart it.", args.client));
        out::say(format!("Its settings are part of what is vouched for: see `lazaret agent show {}`.", door.agent));
    }
    Ok(())
}

/// Takes the hooks out, where there are any. Whether there were.
async fn remove_hooks(admin: &AdminClient, args: &ClientRemoveArgs, human: &Human) -> Result<bool, CliError> {
    let Some(settings) = install::settings_path(&args.client, &human.home).map_err(failure)? else { return Ok(false) };
    let change: Option<ClientChange> = admin.get(&change_path(&settings)).await?;
    let Some(plan) = install::remove_hooks(&args.client, &human.home, change.as_ref()).map_err(failure)? else {
        return Ok(false);
    };
    if ask(&plan, args.dry_run, args.yes)? {
        apply(plan)?;
        let Done {} = admin.delete(&change_path(&settings)).await?;
        out::say(format!("{} no longer tells the door of its sub-agents; restart it.", args.client));
    }
    Ok(true)
}

pub async fn remove(instance: &Instance, args: ClientRemoveArgs) -> Result<(), CliError> {
    let admin = instance.admin();
    let human = whose(args.home.as_deref())?;
    let config = install::config_path(&args.client, &human.home).map_err(failure)?;
    let change: Option<ClientChange> = admin.get(&change_path(&config)).await?;
    let had_hooks = remove_hooks(&admin, &args, &human).await?;
    let plan = match install::remove(&args.client, &human.home, change.as_ref()) {
        Err(InstallError::NotInstalled { .. }) if had_hooks => return Ok(()),
        plan => plan.map_err(failure)?,
    };
    let moved = plan.moved.join(", ");
    if !ask(&plan, args.dry_run, args.yes)? {
        return Ok(());
    }
    apply(plan)?;
    let Done {} = admin.delete(&change_path(&config)).await?;
    out::say(format!("{} no longer uses the connector; restart it.", args.client));
    if !moved.is_empty() {
        out::say(format!("Back in its config, around the door: {}.", out::visible(&moved)));
    }
    Ok(())
}

fn whose(home: Option<&Path>) -> Result<Human, CliError> {
    match home {
        Some(home) => Human::of_home(home).map_err(|e| CliError::Usage(e.to_string())),
        None => Human::invoking().map_err(CliError::failed),
    }
}

/// Where the connector looks when the client starts it with nothing but HOME.
fn usual_key(home: &Path, address: &Address) -> PathBuf {
    home.join(".config/lazaret/agents").join(format!("{address}.pem"))
}

/// The agent's key: at its usual place, or where this user keeps the key of an enrolled agent.
fn key_file(address: &Address, usual: &Path) -> PathBuf {
    let elsewhere = crate::identity::default_key_path(address).ok().filter(|path| path.exists() && !usual.exists());
    elsewhere.unwrap_or_else(|| usual.to_owned())
}

fn moved_run_dir(run_dir: &Path) -> Result<Option<PathBuf>, CliError> {
    if run_dir == Path::new(config::DEFAULT_RUN_DIR) {
        return Ok(None);
    }
    std::path::absolute(run_dir).map(Some).map_err(CliError::failed)
}

fn adopted(server: &ServerView) -> Adopted {
    Adopted {
        name: server.name.clone(),
        source: server.launch.source.clone(),
        args: server.launch.args.clone(),
        configured: server.launch.configured.clone(),
    }
}

fn change_path(config: &Path) -> String {
    format!("/v1/clients/change?path={}", escape(&config.display().to_string()))
}

/// Shows the diff on stdout, and asks. Whether it is to be done.
fn ask(plan: &Plan, dry_run: bool, yes: bool) -> Result<bool, CliError> {
    if plan.changes_nothing() {
        out::say(format!("{} is as it should be.", plan.path.display()));
        return Ok(!dry_run);
    }
    out::line(out::visible_lines(plan.diff.trim_end()))?;
    if dry_run {
        out::say("Nothing was changed.");
        return Ok(false);
    }
    talk::confirm(&format!("Write this to {}?", plan.path.display()), yes)?;
    Ok(true)
}

fn apply(plan: Plan) -> Result<Applied, CliError> {
    let applied = plan.apply().map_err(failure)?;
    if let Some(backup) = &applied.backup {
        out::say(format!("The file as it was: {}", backup.display()));
    }
    Ok(applied)
}

fn failure(error: InstallError) -> CliError {
    match error {
        InstallError::Unsupported(_) => CliError::Usage(error.to_string()),
        InstallError::Syntax { .. } | InstallError::Shape { .. } | InstallError::NoArray { .. } => {
            CliError::Configuration(error.to_string())
        }
        _ => CliError::Failed(error.to_string()),
    }
}
