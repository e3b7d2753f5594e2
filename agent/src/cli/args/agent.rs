//! `lazaret agent`.

mod keys;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use jiff::Timestamp;

use super::Json;
use super::when::when;
use crate::identity::RevocationReason;
pub use keys::*;

/// Agents: who may come through the door
#[derive(Debug, Subcommand)]
pub enum AgentCommand {
    Enroll(EnrollArgs),
    List(AgentListArgs),
    Show(AgentShowArgs),
    Activate(AgentActivateArgs),
    Set(AgentSetArgs),
    Vouch(AgentVouchArgs),
    Suspend(AgentSuspendArgs),
    Resume(AgentResumeArgs),
    Revoke(AgentRevokeArgs),
    #[command(subcommand)]
    Token(AgentTokenCommand),
    Deregister(AgentDeregisterArgs),
    Rotate(AgentRotateArgs),
    #[command(subcommand)]
    Card(CardCommand),
    Revocations(RevocationsArgs),
    Delegate(DelegateArgs),
    /// Make or read the key file and print its public key: what `enroll` runs as the human behind sudo
    #[command(hide = true)]
    Key(AgentKeyArgs),
    #[command(hide = true)]
    OpenToken(OpenTokenArgs),
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
  lazaret agent enroll build@ci.acme.example --owner ann --key /etc/ci/build.pem
  lazaret agent enroll reviewer --allow 'git/*' time/now --not-after 30d --calls-per-day 500
  lazaret agent enroll claude-code --key-source ssh-agent:SHA256:FINGERPRINT
  lazaret agent enroll reviewer --sub-agent        acts for other agents only, by `lazaret agent delegate`")]
pub struct EnrollArgs {
    /// NAME, or NAME@SCOPE.PROVIDER; without a scope your user name is taken.
    pub address: String,
    /// Who answers for it [default: you]
    #[arg(long, value_name = "NAME")]
    pub owner: Option<String>,
    /// Key file to make, or to use if it is there.
    #[arg(long, value_name = "FILE", conflicts_with = "key_source")]
    pub key: Option<PathBuf>,
    /// It acts for other agents only: without a delegation it is refused.
    #[arg(long)]
    pub sub_agent: bool,
    /// A key that is elsewhere already: ssh-agent:SHA256:FINGERPRINT, pkcs11:URI, or file:PATH.
    #[arg(long, value_name = "SOURCE")]
    pub key_source: Option<crate::identity::SourceName>,
    /// Enroll it, and let it wait for `lazaret agent activate`.
    #[arg(long)]
    pub pending: bool,
    #[command(flatten)]
    pub rights: Rights,
    #[command(flatten)]
    pub json: Json,
}

/// What an agent is registered for.
#[derive(Debug, Clone, Default, Args)]
pub struct Rights {
    /// When it expires: 30d, a date, or a time.
    #[arg(long, value_name = "TIME", value_parser = when)]
    pub not_after: Option<Timestamp>,
    /// SERVER/TOOL patterns: the only tools that it ever finds, sees and calls.
    #[arg(long, value_name = "PATTERN", num_args = 1.., value_delimiter = ',')]
    pub allow: Vec<String>,
    /// Calls that it may make in a minute.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub calls_per_minute: Option<u32>,
    /// Calls that it may make in a day.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub calls_per_day: Option<u64>,
}

/// Let in an agent that was enrolled and waits
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lazaret agent activate reviewer@ann.lazaret.local")]
pub struct AgentActivateArgs {
    pub address: String,
}

/// Change who answers for an agent, what it may call, how often, and until when
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lazaret agent set claude-code --allow 'time/*' 'fs/read_*' --calls-per-minute 60")]
pub struct AgentSetArgs {
    pub address: String,
    /// Who answers for it.
    #[arg(long, value_name = "NAME")]
    pub owner: Option<String>,
    #[command(flatten)]
    pub rights: Rights,
}

/// Retire an agent without blame; its key is not accepted again
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lazaret agent deregister claude-code")]
pub struct AgentDeregisterArgs {
    pub address: String,
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

/// Let a sub-agent act for an agent, with no more than the agent has
///
/// The parent's own key signs it, on this side: the daemon has no part in it. It prints the chain, one hop on a line,
/// for `lazaret connect --delegation`. A sub-agent that hands on names its own chain with --delegation.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lazaret agent delegate claude-code@ann.lazaret.local reviewer@ann.lazaret.local --cap fs:read_file,git:* --out reviewer.chain
  lazaret agent delegate reviewer@ann.lazaret.local linter@ann.lazaret.local --cap fs:read_file --delegation reviewer.chain --ttl 15m

Any key that the agent can have signs, in a file, an ssh-agent or a PKCS#11 token; without --key or --key-source the one
that the agent was enrolled with.")]
pub struct DelegateArgs {
    /// Address of the agent that grants.
    pub parent: String,
    /// Address or did:key of the sub-agent.
    pub child: String,
    /// What is granted: server:tool, server:* or *:*.
    #[arg(long, value_name = "SERVER:TOOL", required = true, value_delimiter = ',')]
    pub cap: Vec<String>,
    /// Deepest depth that may come of it; the sub-agent of a top agent has 2 [default: the sub-agent's own]
    #[arg(long, value_name = "N")]
    pub max_depth: Option<u32>,
    /// How long it holds: a number with s, m, h or d [default: 8h, or as long as the parent's own]
    #[arg(long, value_name = "TTL")]
    pub ttl: Option<String>,
    /// The parent's own chain, where it is a sub-agent itself.
    #[arg(long, value_name = "FILE")]
    pub delegation: Option<PathBuf>,
    #[command(flatten)]
    pub key: KeyChoice,
    /// The sub-agent's public key [default: that of the key which you keep for it]
    #[arg(long, value_name = "KEY")]
    pub child_key: Option<String>,
    /// did of the daemon that it is for [default: that of the one which runs]
    #[arg(long, value_name = "DID")]
    pub daemon: Option<String>,
    /// File to write, instead of standard output.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    pub json: Json,
}

/// Shut an agent and its key out for good; its open sessions end
///
/// Sub-agents that act for it end with it. With --delegation only that grant ends, and all that was granted on it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lazaret agent revoke claude-code --reason key_compromise
  lazaret agent revoke --delegation 0f1e2d3c4b5a69788796a5b4c3d2e1f0")]
pub struct AgentRevokeArgs {
    #[arg(required_unless_present = "delegation", conflicts_with = "delegation")]
    pub address: Option<String>,
    /// Id of one delegation, as `agent delegate` and `audit show` name it.
    #[arg(long, value_name = "JTI")]
    pub delegation: Option<String>,
    /// Why, for the record; agent_deregistered retires it without blame.
    #[arg(long, value_enum, value_name = "REASON", default_value = "admin_action")]
    pub reason: RevocationReason,
}

#[derive(Debug, Args)]
pub struct AgentKeyArgs {
    pub address: String,
    #[command(flatten)]
    pub key: KeyChoice,
    /// Only read the key that is there.
    #[arg(long)]
    pub no_create: bool,
    /// Make the next key and sign for it.
    #[arg(long)]
    pub rotate: bool,
    /// The next key was accepted: put it in the place of the old one.
    #[arg(long, conflicts_with = "rotate")]
    pub rotated: bool,
    #[arg(long, value_name = "SOURCE")]
    pub new_key_source: Option<crate::identity::SourceName>,
}
