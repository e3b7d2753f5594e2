//! `lazaret connect`, `lazaret client` and `lazaret inventory`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Json;

/// Stdio connector: what an MCP client's config starts in place of the servers
#[derive(Debug, Args)]
#[command(after_help = "\
Example, in an MCP client's config:
  {\"mcpServers\": {\"lazaret\": {\"command\": \"/usr/bin/lazaret\",
                              \"args\": [\"connect\", \"--agent\", \"claude-code@ann.lazaret.local\"]}}}")]
pub struct ConnectArgs {
    /// Address of the agent that connects: NAME@SCOPE.PROVIDER.
    #[arg(long, value_name = "ADDRESS", allow_hyphen_values = true)]
    pub agent: String,
    #[command(flatten)]
    pub key: super::agent::KeyChoice,
    /// The agent is a sub-agent: the chain that `lazaret agent delegate` wrote for it.
    #[arg(long, value_name = "FILE")]
    pub delegation: Option<PathBuf>,
}

/// Short-lived bearer token for a client that speaks MCP over HTTP
///
/// Proves the agent's key to the daemon as the connector does. The token serves your user on this host only, until it
/// expires or the agent loses its standing. Needs [http] listen in the daemon's configuration. That of a sub-agent ends at
/// the latest with its delegation, and with every agent and every grant above it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lazaret token --agent claude-code@ann.lazaret.local
  TOKEN=$(lazaret token --agent claude-code@ann.lazaret.local --ttl 1h)
  lazaret token --agent claude-code@ann.lazaret.local --headers   {\"Authorization\": \"Bearer ...\"}, for a client's helper
  lazaret token --agent reviewer@ann.lazaret.local --delegation reviewer.chain      for a sub-agent

stdout is the token alone; where it serves and until when is said on stderr.")]
pub struct TokenArgs {
    /// Address of the agent that the client acts as: NAME@SCOPE.PROVIDER.
    #[arg(long, value_name = "ADDRESS", allow_hyphen_values = true)]
    pub agent: String,
    /// For how long: 90s, 10m, 1h [default: [http] token_secs of the daemon]
    #[arg(long, value_name = "TIME")]
    pub ttl: Option<String>,
    #[command(flatten)]
    pub key: super::agent::KeyChoice,
    /// The agent is a sub-agent: the chain that `lazaret agent delegate` wrote for it.
    #[arg(long, value_name = "FILE")]
    pub delegation: Option<PathBuf>,
    /// Print the header that carries it, as a JSON object.
    #[arg(long, conflicts_with = "json")]
    pub headers: bool,
    #[command(flatten)]
    pub json: Json,
}

/// The host's MCP clients: find them, point one at the connector, take it back
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    List(ClientListArgs),
    Install(ClientInstallArgs),
    Remove(ClientRemoveArgs),
}

/// List the client configs on this host and the servers that they start
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lazaret client list --json")]
pub struct ClientListArgs {
    #[command(flatten)]
    pub json: Json,
}

/// Point a client at the connector; shows the diff, asks, keeps a backup
///
/// Servers that were adopted and approved leave the client's config, because the client now reaches them through
/// the door. Everything else in the file stays as it is, byte for byte. `client remove` takes the hooks out as well.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lazaret client install claude-code --dry-run
  lazaret client install claude-code --hooks
  lazaret client install claude-code --agent reviewer@ann.lazaret.local --yes")]
pub struct ClientInstallArgs {
    /// Which client: claude-code.
    pub client: String,
    /// Agent that the client connects as [default: CLIENT@USER.PROVIDER, enrolled if it is not yet]
    #[arg(long, value_name = "ADDRESS")]
    pub agent: Option<String>,
    /// The agent's key file [default: below the home, made if it is not there]
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Also put the hooks into its settings that tell the door which of its sub-agents makes a call.
    #[arg(long)]
    pub hooks: bool,
    /// Home directory whose config is changed [default: yours]
    #[arg(long, value_name = "DIR")]
    pub home: Option<PathBuf>,
    /// Show the diff and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask.
    #[arg(long, short)]
    pub yes: bool,
}

/// Take the connector out of a client's config; what the client had before comes back from its backup
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lazaret client remove claude-code")]
pub struct ClientRemoveArgs {
    /// Which client: claude-code.
    pub client: String,
    /// Home directory whose config is changed [default: yours]
    #[arg(long, value_name = "DIR")]
    pub home: Option<PathBuf>,
    /// Show the diff and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask.
    #[arg(long, short)]
    pub yes: bool,
}

/// Every MCP server that any client on this host can reach, and whether it goes through the door
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  lazaret inventory\n  lazaret inventory --json | jq '.servers[] | select(.door == false)'"
)]
pub struct InventoryArgs {
    #[command(flatten)]
    pub json: Json,
}
