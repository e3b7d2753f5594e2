//! `lazaret agent`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Json;
use crate::identity::RevocationReason;

/// Agents: who may come through the door
#[derive(Debug, Subcommand)]
pub enum AgentCommand {
    Enroll(EnrollArgs),
    List(AgentListArgs),
    Show(AgentShowArgs),
    Suspend(AgentSuspendArgs),
    Resume(AgentResumeArgs),
    Revoke(AgentRevokeArgs),
    #[command(subcommand)]
    Token(AgentTokenCommand),
    /// Make or read the key file and print its public key: what `enroll` runs as the human behind sudo
    #[command(hide = true)]
    Key(AgentKeyArgs),
}

/// Tokens of HTTP clients that are in force; `lazaret token` makes one
#[derive(Debug, Subcommand)]
pub enum AgentTokenCommand {
    List(AgentTokenListArgs),
    Revoke(AgentTokenRevokeArgs),
}

/// List the tokens in force: whose each is and until when; never the token itself
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lazaret agent token list --json")]
pub struct AgentTokenListArgs {
    #[command(flatten)]
    pub json: Json,
}

/// Revoke one token; what runs on it ends at once
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lazaret agent token revoke 5f0c8a1b9d3e7742")]
pub struct AgentTokenRevokeArgs {
    /// Its id, as `lazaret agent token list` shows it.
    pub id: String,
}

/// Make the agent's Ed25519 key here and register its public half
///
/// The private key never leaves this process and its file (0600). Under sudo the file belongs to the human who ran it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lazaret agent enroll claude-code                 becomes claude-code@USER.lazaret.local
  lazaret agent enroll build@ci.acme.example --owner ann --key /etc/ci/build.pem")]
pub struct EnrollArgs {
    /// NAME, or NAME@SCOPE.PROVIDER; without a scope your user name is taken.
    pub address: String,
    /// Who answers for it [default: you]
    #[arg(long, value_name = "NAME")]
    pub owner: Option<String>,
    /// Key file to make, or to use if it is there.
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    #[command(flatten)]
    pub json: Json,
}

/// List agents and their state
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lazaret agent list --json")]
pub struct AgentListArgs {
    #[command(flatten)]
    pub json: Json,
}

/// Show one agent: keys, state, history
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lazaret agent show claude-code")]
pub struct AgentShowArgs {
    pub address: String,
    #[command(flatten)]
    pub json: Json,
}

/// Shut an agent out until it is resumed; its open sessions end
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lazaret agent suspend claude-code --reason \"looking into it\"")]
pub struct AgentSuspendArgs {
    pub address: String,
    /// Why, for the record.
    #[arg(long, value_name = "TEXT", default_value = "suspended by an operator")]
    pub reason: String,
}

/// Let a suspended agent in again
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lazaret agent resume claude-code")]
pub struct AgentResumeArgs {
    pub address: String,
}

/// Shut an agent and its key out for good; its open sessions end
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lazaret agent revoke claude-code --reason key_compromise")]
pub struct AgentRevokeArgs {
    pub address: String,
    /// Why, for the record; agent_deregistered retires it without blame.
    #[arg(long, value_enum, value_name = "REASON", default_value = "admin_action")]
    pub reason: RevocationReason,
}

#[derive(Debug, Args)]
pub struct AgentKeyArgs {
    pub address: String,
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Only read the key that is there.
    #[arg(long)]
    pub no_create: bool,
}
