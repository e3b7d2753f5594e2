//! `lazaret agent`.

mod delegate;
mod enroll;
mod held;
mod keys;
mod vouch;

use std::io::Read as _;
use std::path::Path;

use super::args::agent::{AgentCommand, AgentRevokeArgs, AgentTokenCommand};
use super::instance::{Human, Instance};
use super::out::{self, Rows, plain, state};
use super::{CliError, token, when};
use crate::api::client::{AdminClient, escape};
use crate::api::types::{AgentView, Done, Revoke, StatusView, Why};
use crate::identity::{Address, Agent, Amendment, Vouch};
use crate::policy::{RateUse, Whose};

pub use enroll::ensure;
pub use held::chosen as chosen_key;

pub async fn run(instance: &Instance, command: AgentCommand) -> Result<(), CliError> {
    let admin = instance.admin();
    match command {
        AgentCommand::Enroll(args) => enroll::run(instance, args).await,
        AgentCommand::Key(args) => held::key(&args),
        AgentCommand::OpenToken(args) => crate::identity::source::token::serve(&args.uri).map_err(CliError::failed),
        AgentCommand::List(args) => list(&admin, args.json.json).await,
        AgentCommand::Show(args) => show(instance, &args.address, args.json.json).await,
        AgentCommand::Activate(args) => {
            let path = path(instance, &args.address, "activate").await?;
            say(&admin.post::<Agent>(&path, &Done {}).await?)
        }
        AgentCommand::Set(args) => {
            let amendment = Amendment {
                owner: args.owner,
                not_after: args.rights.not_after,
                actions: enroll::actions(&args.rights)?,
                limits: enroll::limits(&args.rights),
            };
            if amendment == Amendment::default() {
                return Err(CliError::Usage("there is nothing to change; see `lazaret agent set --help`".into()));
            }
            let path = path(instance, &args.address, "amend").await?;
            print_rights(&admin.post::<Agent>(&path, &amendment).await?)
        }
        AgentCommand::Vouch(args) => vouch::run(instance, args).await,
        AgentCommand::Rotate(args) => keys::rotate(instance, args).await,
        AgentCommand::Card(command) => keys::card(instance, command).await,
        AgentCommand::Revocations(args) => keys::revocations(instance, args).await,
        AgentCommand::Deregister(args) => {
            let path = path(instance, &args.address, "deregister").await?;
            say(&admin.post::<Agent>(&path, &Done {}).await?)
        }
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
        AgentCommand::Delegate(args) => delegate::run(instance, args).await,
        AgentCommand::Revoke(AgentRevokeArgs { delegation: Some(jti), .. }) => {
            let Done {} = admin.post(&format!("/v1/delegations/{}/revoke", escape(&jti)), &Done {}).await?;
            out::say(format!("The delegation {jti} is revoked, and all that was granted on it."));
            Ok(())
        }
        AgentCommand::Revoke(args) => {
            let path = path(instance, args.address.as_deref().unwrap_or_default(), "revoke").await?;
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
    Ok(place(&address(instance, text).await?, verb))
}

/// An agent, or one of its verbs, in the operators' API.
fn place(address: &Address, verb: &str) -> String {
    let slash = if verb.is_empty() { "" } else { "/" };
    format!("/v1/agents/{}{slash}{verb}", escape(address.as_str()))
}

/// A file that the user named; what is longer is some other file.
fn read_file(path: &Path, longest: u64) -> Result<String, CliError> {
    let failed = |cause: String| CliError::Failed(format!("cannot read {}: {cause}", path.display()));
    let file = std::fs::File::open(path).map_err(|e| failed(e.to_string()))?;
    let mut text = String::new();
    file.take(longest + 1).read_to_string(&mut text).map_err(|e| failed(e.to_string()))?;
    if text.len() as u64 > longest {
        return Err(failed(format!("it is longer than {longest} bytes")));
    }
    Ok(text)
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
    let admin = instance.admin();
    let view: AgentView = admin.get(&place(&address, "")).await?;
    let rates: Vec<RateUse> = admin.get("/v1/rates").await?;
    let own = rates.into_iter().find(|rate| rate.whose == Whose::Agent(address.to_string()));
    let drifted = view.agent.vouch == Vouch::Drifted;
    if json {
        let mut shown = serde_json::to_value(&view).map_err(CliError::failed)?;
        shown["rate"] = serde_json::to_value(&own).map_err(CliError::failed)?;
        out::listing("agent", "agents", &[shown])?;
    } else {
        print(&view)?;
        out::field("rate", own.map_or_else(|| "no call lately".to_owned(), |own| super::status::rate(&own)))?;
    }
    if drifted { Err(CliError::Negative) } else { Ok(()) }
}

fn print(view: &AgentView) -> Result<(), CliError> {
    let agent = &view.agent;
    out::field("agent", agent.address.as_str())?;
    out::field("state", agent.state.to_string())?;
    out::field("did", &agent.did)?;
    out::field("fingerprint", format!("{} (raw), {} (SPKI)", agent.fingerprint, agent.fingerprint_spki))?;
    out::field("user", agent.uid.map_or_else(|| "any who holds the key".to_owned(), |uid| format!("uid {uid} only")))?;
    if agent.sub_agent {
        out::field("acts", "for other agents only: it connects with a delegation")?;
    }
    print_rights(agent)?;
    print_vouch(view)?;
    print_measured(view)?;
    for step in &agent.history {
        out::field("history", format!("{}  {} by {}: {}", when(step.at), step.to, step.by, step.why))?;
    }
    Ok(())
}

fn print_rights(agent: &Agent) -> Result<(), CliError> {
    out::field("owner", agent.owner.as_deref().unwrap_or("nobody named"))?;
    out::field("may call", agent.actions.to_string())?;
    let limit = |n: Option<String>, per: &str| n.map(|n| format!("{n} calls a {per}"));
    let limits: Vec<String> = [
        limit(agent.limits.calls_per_minute.map(|n| n.to_string()), "minute"),
        limit(agent.limits.calls_per_day.map(|n| n.to_string()), "day"),
    ]
    .into_iter()
    .flatten()
    .collect();
    out::field("limits", if limits.is_empty() { "those of all".to_owned() } else { limits.join(", ") })?;
    out::field("ends", agent.not_after.map_or_else(|| "never".to_owned(), when))
}

/// What the client was made of when it was last seen, vouched for or not.
fn print_measured(view: &AgentView) -> Result<(), CliError> {
    let Some(measured) = &view.measured else { return out::field("measured", "never") };
    out::field("measured", format!("{} on {}", measured.measurement.digest, when(measured.at)))?;
    for part in &measured.measurement.parts {
        out::field("part", format!("{} {} ({})", part.kind, part.name, part.digest))?;
    }
    Ok(())
}

/// Who vouches for what, until when, and what has changed since, part by part.
fn print_vouch(view: &AgentView) -> Result<(), CliError> {
    let agent = &view.agent;
    out::field("vouch", agent.vouch.to_string())?;
    let Some(vouched) = &agent.vouched else { return Ok(()) };
    let key = format!("{} ({})", vouched.signing_key, vouched.algorithm);
    out::field("vouched by", format!("{} with {key} on {}", vouched.by, when(vouched.at)))?;
    out::field("vouched until", when(vouched.document.not_after))?;
    out::field("vouched calls", vouched.document.capabilities.to_string())?;
    match &vouched.measurement {
        Some(measured) => out::field("vouched for", format!("{} ({} parts)", measured.digest, measured.parts.len()))?,
        None => out::field("vouched for", "the key alone: whatever program uses it")?,
    }
    if let Some(why) = &agent.distrusted {
        out::field("not counted", why)?;
    }
    if let Some(withdrawn) = &vouched.revoked {
        out::field("taken back", format!("{} by {}: {}", when(withdrawn.at), withdrawn.by, withdrawn.why))?;
    }
    for drifted in &view.drift {
        let word = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let how = word(serde_json::to_value(drifted.how).unwrap_or_default());
        let kind = word(serde_json::to_value(drifted.part.kind).unwrap_or_default());
        out::field("drift", format!("{how} {kind} {} ({})", drifted.part.name, drifted.part.digest))?;
    }
    Ok(())
}
