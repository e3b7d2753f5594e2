//! Enrolling: the private key is made here, in its owner's name; the daemon sees the public half.

use std::path::Path;

use super::held::{self, Made};
use crate::api::client::ClientError;
use crate::api::types::Enroll;
use crate::cli::args::agent::{EnrollArgs, KeyChoice, Rights};
use crate::cli::instance::{Human, Instance};
use crate::cli::{CliError, out};
use crate::identity::{Actions, Address, Agent, AgentState, CallLimits, Enrolment};

pub async fn run(instance: &Instance, args: EnrollArgs) -> Result<(), CliError> {
    let address = super::address(instance, &args.address).await?;
    let human = Human::invoking().map_err(CliError::failed)?;
    let choice = KeyChoice { key: args.key, key_source: args.key_source };
    let enrolment = Enrolment {
        owner: args.owner,
        not_after: args.rights.not_after,
        actions: actions(&args.rights)?.unwrap_or_default(),
        limits: limits(&args.rights),
        pending: args.pending,
        sub_agent: args.sub_agent,
        ..Enrolment::default()
    };
    let (agent, made) = enroll(instance, &address, enrolment, &choice, &human).await?;
    if args.json.json {
        return out::listing("agent", "agents", &[agent]);
    }
    out::line(agent.address.as_str())?;
    let verb = if made.fresh { "made" } else { "used" };
    out::say(format!("{} is {}; its key was {verb}: {}", agent.address, agent.state, made.source));
    match agent.state {
        AgentState::Pending => out::say(format!("Let it in with: lazaret agent activate {}", agent.address)),
        _ if agent.sub_agent => out::say(format!(
            "Its parent lets it in: lazaret agent delegate PARENT {} --cap SERVER:TOOL",
            agent.address
        )),
        _ => out::say(format!("It connects with: lazaret connect --agent {}", agent.address)),
    }
    Ok(())
}

/// What was typed of the actions; `None` where nothing was.
pub fn actions(rights: &Rights) -> Result<Option<Actions>, CliError> {
    if rights.allow.is_empty() {
        return Ok(None);
    }
    Actions::of(&rights.allow).map(Some).map_err(|e| CliError::Usage(e.to_string()))
}

pub fn limits(rights: &Rights) -> CallLimits {
    CallLimits { calls_per_minute: rights.calls_per_minute, calls_per_day: rights.calls_per_day }
}

/// Enrolls the agent of a client in `human`'s home, unless it is there, active, and its key fits.
pub async fn ensure(instance: &Instance, address: &Address, key: &Path, human: &Human) -> Result<(), CliError> {
    let choice = KeyChoice { key: Some(key.to_owned()), key_source: None };
    let (agent, made) = enroll(instance, address, Enrolment::default(), &choice, human).await?;
    if made.fresh {
        out::say(format!("Enrolled {}; its key is {}.", agent.address, made.source));
    }
    Ok(())
}

async fn enroll(
    instance: &Instance,
    address: &Address,
    enrolment: Enrolment,
    choice: &KeyChoice,
    human: &Human,
) -> Result<(Agent, Made), CliError> {
    let admin = instance.admin();
    let known: Vec<Agent> = admin.get("/v1/agents").await?;
    let known = known.into_iter().find(|agent| agent.address == *address && !agent.state.is_final());
    // A new key beside an enrolled one would only look like the agent's.
    let made = held::obtain(address, choice, human, known.is_none())?;
    if let Some(agent) = known {
        if agent.sub_agent != enrolment.sub_agent {
            return Err(CliError::Failed(format!(
                "cannot enroll {address}: it is enrolled {} sub-agent; revoke it first with `lazaret agent revoke {address}`",
                if agent.sub_agent { "as a" } else { "and no" }
            )));
        }
        return existing(agent, made);
    }
    let enrolment = Enrolment {
        owner: Some(enrolment.owner.unwrap_or_else(|| human.name.clone())),
        uid: Some(made.owner_uid),
        ..enrolment
    };
    let request = Enroll { address: address.to_string(), public_key: made.public_key.to_string(), enrolment };
    match admin.post("/v1/agents", &request).await {
        Ok(agent) => Ok((agent, made)),
        Err(ClientError::Refused(mut body)) if !made.fresh => {
            let source = &made.source;
            body.message.push_str(&format!(". The key is {source}: move that file away, or name another with --key"));
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
            agent.address, agent.fingerprint, made.source, agent.address
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
