//! Enrolling: the private key is made here, in its owner's name; the daemon sees the public half.
//!
//! Invariant: root never writes below another user's home directory. Under sudo the key is made
//! by a process that has only that user's rights, so that a planted link leads nowhere new.

use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::api::client::ClientError;
use crate::api::types::Enroll;
use crate::cli::args::agent::{AgentKeyArgs, EnrollArgs};
use crate::cli::instance::{Human, Instance};
use crate::cli::{CliError, out};
use crate::identity::{self, Address, Agent, AgentKey, AgentState, KeyError, PublicKey};

/// A key file, as the process that can read it tells of it.
#[derive(Serialize, Deserialize)]
pub struct Made {
    pub path: PathBuf,
    public_key: PublicKey,
    owner_uid: u32,
    fresh: bool,
}

pub async fn run(instance: &Instance, args: EnrollArgs) -> Result<(), CliError> {
    let address = super::address(instance, &args.address).await?;
    let human = Human::invoking().map_err(CliError::failed)?;
    let (agent, made) = enroll(instance, &address, args.owner, args.key.as_deref(), &human).await?;
    if args.json.json {
        return out::listing("agent", "agents", &[agent]);
    }
    out::line(agent.address.as_str())?;
    let verb = if made.fresh { "made" } else { "used" };
    out::say(format!("{} is {}; its key was {verb}: {}", agent.address, agent.state, made.path.display()));
    out::say(format!("It connects with: lazaret connect --agent {}", agent.address));
    Ok(())
}

/// Enrolls the agent of a client in `human`'s home, unless it is there, active, and its key fits.
pub async fn ensure(instance: &Instance, address: &Address, key: &Path, human: &Human) -> Result<(), CliError> {
    let (agent, made) = enroll(instance, address, None, Some(key), human).await?;
    if made.fresh {
        out::say(format!("Enrolled {}; its key is {}.", agent.address, made.path.display()));
    }
    Ok(())
}

async fn enroll(
    instance: &Instance,
    address: &Address,
    owner: Option<String>,
    key: Option<&Path>,
    human: &Human,
) -> Result<(Agent, Made), CliError> {
    let admin = instance.admin();
    let known: Vec<Agent> = admin.get("/v1/agents").await?;
    let known = known.into_iter().find(|agent| agent.address == *address && !agent.state.is_final());
    let made = obtain(address, key, human, known.as_ref())?;
    if let Some(agent) = known {
        return existing(agent, made);
    }
    let request = Enroll {
        address: address.to_string(),
        public_key: made.public_key.to_string(),
        owner: Some(owner.unwrap_or_else(|| human.name.clone())),
        uid: Some(made.owner_uid),
    };
    match admin.post("/v1/agents", &request).await {
        Ok(agent) => Ok((agent, made)),
        Err(ClientError::Refused(mut body)) if !made.fresh => {
            let path = made.path.display();
            body.message.push_str(&format!(". The key is {path}: move that file away, or name another with --key"));
            Err(ClientError::Refused(body).into())
        }
        Err(e) => Err(e.into()),
    }
}

/// An agent that is enrolled already: the same key is no news, another one an error.
fn existing(agent: Agent, made: Made) -> Result<(Agent, Made), CliError> {
    if agent.public_key != made.public_key {
        return Err(CliError::Failed(format!(
            "cannot enroll {}: it is enrolled with another key ({}) than {} holds; revoke it first with `lazaret agent revoke {}`, or name its key with --key",
            agent.address,
            agent.fingerprint,
            made.path.display(),
            agent.address
        )));
    }
    if agent.state != AgentState::Active {
        return Err(CliError::Failed(format!(
            "cannot enroll {}: it is enrolled and {}; see `lazaret agent show {}`",
            agent.address, agent.state, agent.address
        )));
    }
    Ok((agent, made))
}

fn obtain(address: &Address, key: Option<&Path>, human: &Human, known: Option<&Agent>) -> Result<Made, CliError> {
    // A new key beside an enrolled one would only look like the agent's.
    let create = known.is_none();
    if human.behind_sudo { as_human(address, key, human, create) } else { load_or_make(address, key, create) }
}

fn load_or_make(address: &Address, key: Option<&Path>, create: bool) -> Result<Made, CliError> {
    let path = match key {
        Some(path) => std::path::absolute(path).map_err(CliError::failed)?,
        None => identity::default_key_path(address).map_err(|e| CliError::Configuration(e.to_string()))?,
    };
    let (key, fresh) = match AgentKey::load(&path) {
        Ok(key) => (key, false),
        Err(KeyError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound && !create => {
            return Err(CliError::Failed(format!(
                "cannot enroll {address}: it is enrolled already, and its key is not at {}; name the key's file with --key, or revoke the agent first",
                path.display()
            )));
        }
        Err(KeyError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            let key = AgentKey::generate().map_err(CliError::failed)?;
            key.save(&path).map_err(CliError::failed)?;
            (key, true)
        }
        Err(e) => return Err(CliError::failed(e)),
    };
    let owner_uid = std::fs::metadata(&path).map_err(CliError::failed)?.uid();
    Ok(Made { path, public_key: key.public(), owner_uid, fresh })
}

/// `lazaret agent key`, run with the rights of the human behind sudo and nothing else.
fn as_human(address: &Address, key: Option<&Path>, human: &Human, create: bool) -> Result<Made, CliError> {
    let failed =
        |cause: String| CliError::Failed(format!("cannot make the key of {address} as {}: {cause}", human.name));
    let program = std::env::current_exe().map_err(|e| failed(e.to_string()))?;
    let mut command = Command::new(program);
    command.args(["agent", "key", address.as_str()]);
    if !create {
        command.arg("--no-create");
    }
    if let Some(key) = key {
        command.arg("--key").arg(std::path::absolute(key).map_err(|e| failed(e.to_string()))?);
    }
    let output = command
        .env_clear()
        .env("HOME", &human.home)
        .env("PATH", "/usr/bin:/bin")
        .current_dir("/")
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .gid(human.gid)
        .uid(human.uid)
        .output()
        .map_err(|e| failed(e.to_string()))?;
    if !output.status.success() {
        let cause = String::from_utf8_lossy(&output.stderr);
        return Err(failed(out::visible(cause.trim().trim_start_matches("lazaret: "))));
    }
    serde_json::from_slice(&output.stdout).map_err(|e| failed(format!("its answer was not understood ({e})")))
}

/// `lazaret agent key`: makes or reads the key and prints what is public about it.
pub fn key(args: &AgentKeyArgs) -> Result<(), CliError> {
    let address: Address = args.address.parse().map_err(|e: identity::AddressError| CliError::Usage(e.to_string()))?;
    out::json_line(&load_or_make(&address, args.key.as_deref(), !args.no_create)?)
}
