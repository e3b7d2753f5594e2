//! `lazaret agent`.

mod enroll;

use super::args::agent::{AgentCommand, AgentTokenCommand};
use super::instance::{Human, Instance};
use super::out::{self, Rows, plain, state};
use super::{CliError, token, when};
use crate::api::client::{AdminClient, escape};
use crate::api::types::{Done, Revoke, StatusView, Why};
use crate::identity::{Address, Agent};

pub use enroll::ensure;

pub async fn run(instance: &Instance, command: AgentCommand) -> Result<(), CliError> {
    let admin = instance.admin();
    match command {
        AgentCommand::Enroll(args) => enroll::run(instance, args).await,
        AgentCommand::Key(args) => enroll::key(&args),
        AgentCommand::List(args) => list(&admin, args.json.json).await,
        AgentCommand::Show(args) => show(instance, &args.address, args.json.json).await,
        AgentCommand::Suspend(args) => {
            let path = path(instance, &args.address, "suspend").await?;
            say(&admin.post::<Agent>(&path, &Why { why: args.reason }).await?)
        }
        AgentCommand::Resume(args) => {
            let path = path(instance, &args.address, "resume").await?;
            say(&admin.post::<Agent>(&path, &Done {}).await?)
        }
        AgentCommand::Token(AgentTokenCommand::List(args)) => token::list(&admin, args.json.json).await,
        AgentCommand::Token(AgentTokenCommand::Revoke(args)) => token::revoke(&admin, &args.id).await,
        AgentCommand::Revoke(args) => {
            let path = path(instance, &args.address, "revoke").await?;
            say(&admin.post::<Agent>(&path, &Revoke { reason: args.reason }).await?)
        }
    }
}

/// `NAME` becomes `NAME@USER.PROVIDER` of whoever types it.
pub async fn address(instance: &Instance, text: &str) -> Result<Address, CliError> {
    address_of(instance, text, None).await
}

/// The same for another user; the provider is the daemon's.
pub async fn address_of(instance: &Instance, text: &str, human: Option<&Human>) -> Result<Address, CliError> {
    let text = if text.contains('@') {
        text.to_owned()
    } else {
        let human = match human {
            Some(human) => human.clone(),
            None => Human::invoking().map_err(CliError::failed)?,
        };
        let status: StatusView = instance.admin().get("/v1/status").await?;
        format!("{text}@{}.{}", human.segment(), status.provider)
    };
    text.parse().map_err(|e: crate::identity::AddressError| CliError::Usage(e.to_string()))
}

async fn path(instance: &Instance, text: &str, verb: &str) -> Result<String, CliError> {
    Ok(format!("/v1/agents/{}/{verb}", escape(address(instance, text).await?.as_str())))
}

fn say(agent: &Agent) -> Result<(), CliError> {
    out::say(format!("{} is {}.", agent.address, agent.state));
    Ok(())
}

async fn list(admin: &AdminClient, json: bool) -> Result<(), CliError> {
    let agents: Vec<Agent> = admin.get("/v1/agents").await?;
    if json {
        return out::listing("agent", "agents", &agents);
    }
    let mut rows = Rows::new(&["AGENT", "STATE", "VOUCH", "OWNER", "UID", "SINCE", "FINGERPRINT"]);
    for agent in &agents {
        rows.row([
            plain(agent.address.to_string()),
            state(agent.state.to_string()),
            plain(agent.vouch.to_string()),
            plain(agent.owner.clone().unwrap_or_default()),
            plain(agent.uid.map(|uid| uid.to_string()).unwrap_or_default()),
            plain(when(agent.created_at)),
            plain(&agent.fingerprint),
        ]);
    }
    rows.print("No agents yet: `lazaret agent enroll NAME`.")
}

async fn show(instance: &Instance, text: &str, json: bool) -> Result<(), CliError> {
    let address = address(instance, text).await?;
    let agent: Agent = instance.admin().get(&format!("/v1/agents/{}", escape(address.as_str()))).await?;
    if json {
        return out::listing("agent", "agents", &[agent]);
    }
    print(&agent)
}

fn print(agent: &Agent) -> Result<(), CliError> {
    out::field("agent", agent.address.as_str())?;
    out::field("state", agent.state.to_string())?;
    out::field("did", &agent.did)?;
    out::field("fingerprint", format!("{} (raw), {} (SPKI)", agent.fingerprint, agent.fingerprint_spki))?;
    out::field("owner", agent.owner.as_deref().unwrap_or("nobody named"))?;
    out::field("user", agent.uid.map_or_else(|| "any who holds the key".to_owned(), |uid| format!("uid {uid} only")))?;
    out::field("vouch", agent.vouch.to_string())?;
    for step in &agent.history {
        out::field("history", format!("{}  {} by {}: {}", when(step.at), step.to, step.by, step.why))?;
    }
    Ok(())
}
