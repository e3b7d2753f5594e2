//! `lazaret server` and `lazaret tool`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Json;
use crate::admission::{Isolation, OAuthGrant};

/// Servers behind the door: everything starts in quarantine
#[derive(Debug, Subcommand)]
pub enum ServerCommand {
    Add(Box<ServerAddArgs>),
    List(ServerListArgs),
    Show(ServerShowArgs),
    Review(ServerReviewArgs),
    Diff(ServerDiffArgs),
    Approve(ServerApproveArgs),
    Deny(ServerDenyArgs),
    Remove(ServerRemoveArgs),
    Logs(ServerLogsArgs),
    Login(ServerLoginArgs),
}

/// Add a server in quarantine; nothing is fetched and nothing runs
///
/// Say where its code comes from with one of --npm, --pypi, --local and --image, or where it is with --url, name an entry
/// of a client's config, or write the command as a config has it. Arguments after `--` go to the server.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lazaret server add files --npm @modelcontextprotocol/server-filesystem --mount /srv/docs:/data -- /data
  lazaret server add time --pypi mcp-server-time==2026.7.4
  lazaret server add files -- npx -y @modelcontextprotocol/server-filesystem /data
  lazaret server add mine --local ./server.py -- python3 {src}
  lazaret server add scan --image sha256:0123...
  lazaret server add issues --url https://mcp.example.com/mcp --oauth
  lazaret server add issues --from-config cursor:issues
  lazaret server add search --url https://mcp.example.com/mcp --header X-Api-Key=secret:SEARCH_KEY --secret SEARCH_KEY=@/root/key")]
pub struct ServerAddArgs {
    /// Name that operators and agents see.
    pub name: String,
    /// npm package, with or without a version, a range of them or a tag.
    #[arg(long, value_name = "PKG[@VERSION]", group = "source")]
    pub npm: Option<String>,
    /// PyPI project, with or without a version or a range of them.
    #[arg(long, value_name = "PKG[==VERSION]", group = "source")]
    pub pypi: Option<String>,
    /// File or directory of this host, copied into the image; the command after `--` runs in the cage, {src} is the copy.
    #[arg(long, value_name = "PATH", group = "source")]
    pub local: Option<PathBuf>,
    /// Image that is on this host already, by name or id.
    #[arg(long, value_name = "REF", group = "source")]
    pub image: Option<String>,
    /// Streamable HTTP server that somebody else runs. It is reached over TLS at public addresses, and nothing runs here.
    #[arg(long, value_name = "URL", groups = ["source", "place"])]
    pub url: Option<String>,
    /// Entry of a client's config on this host, as `lazaret inventory` names it, or CLIENT:ENTRY. What it sets becomes
    /// secrets.
    #[arg(long, value_name = "ENTRY", groups = ["source", "place"])]
    pub from_config: Option<String>,
    /// Environment of the server. `--env NAME` takes the value from your environment, so that it stands in no argv.
    #[arg(long = "env", short, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Environment that is a secret: the value comes from your environment, or from a file, and is never shown.
    #[arg(long = "secret", value_name = "NAME[=@FILE]")]
    pub secrets: Vec<String>,
    /// Loosening: a host path that the cage sees, read-only unless `:rw`.
    #[arg(long = "mount", value_name = "HOST:CONTAINER[:rw]")]
    pub mounts: Vec<String>,
    /// Loosening: a public host that the server may reach over TCP. There are no wildcards; every other host stays out of reach.
    #[arg(long = "egress", value_name = "HOST:PORT")]
    pub egress: Vec<String>,
    /// Loosening: the same, and it may lie in a private network; an IPv4 address may also be one of this host.
    #[arg(long = "egress-private", value_name = "HOST:PORT")]
    pub egress_private: Vec<String>,
    /// Who shares one container, and the state that the server keeps in it.
    #[arg(long, value_enum, default_value_t)]
    pub isolation: Isolation,
    /// Command of a client's config, or arguments for the server.
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
    // Last: its heading holds for whatever comes behind it.
    #[command(flatten)]
    pub remote: RemoteArgs,
}

/// What belongs to a remote server.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Remote servers")]
pub struct RemoteArgs {
    /// Header with a secret as its value. REF is of a --secret, or of your environment.
    #[arg(long = "header", value_name = "NAME=[PREFIX]secret:REF", requires = "url")]
    pub headers: Vec<String>,
    /// Loosening: it may lie in a private network, or be on this host where the URL says so.
    #[arg(long, requires = "place")]
    pub private: bool,
    /// Loosening: plain HTTP, to a server on this host only.
    #[arg(long, requires = "place")]
    pub plain_http: bool,
    /// It wants a login by OAuth: `lazaret server login NAME`.
    #[arg(long, requires = "place")]
    pub oauth: bool,
    /// Client that was registered for this; else one is registered at the login.
    #[arg(long, value_name = "ID", requires = "oauth")]
    pub oauth_client_id: Option<String>,
    /// Secret of that client.
    #[arg(long, value_name = "secret:REF", requires = "oauth_client_id")]
    pub oauth_client_secret: Option<String>,
    /// What to ask for; else what the server says.
    #[arg(long = "oauth-scope", value_name = "SCOPE", requires = "oauth")]
    pub oauth_scopes: Vec<String>,
    /// The only authorization server to take.
    #[arg(long, value_name = "URL", requires = "oauth")]
    pub oauth_issuer: Option<String>,
    /// Who logs in: a person, or the daemon with the client's secret.
    #[arg(long, value_enum, default_value_t, requires = "oauth")]
    pub oauth_grant: OAuthGrant,
}

/// Log in at a remote server: prints a URL for your browser, and waits for its answer
///
/// Without a browser on this machine, open the URL elsewhere, and paste the address of the page that then cannot be shown.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  lazaret server login issues\n  lazaret server login issues --logout")]
pub struct ServerLoginArgs {
    pub name: String,
    /// Port of this host that the answer comes to, where the client was registered with one.
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub port: u16,
    /// Forget the login instead.
    #[arg(long, conflicts_with = "port")]
    pub logout: bool,
}

/// List servers and their state
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lazaret server list --json")]
pub struct ServerListArgs {
    #[command(flatten)]
    pub json: Json,
}

/// Show one server: launch definition, last review, history
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  lazaret server show files\n  lazaret server show files --full | less")]
pub struct ServerShowArgs {
    pub name: String,
    /// Also the whole tool descriptors, the package and its lock.
    #[arg(long, conflicts_with = "json")]
    pub full: bool,
    #[command(flatten)]
    pub json: Json,
}

/// Build it, start it in the cage without network, list its tools, and show what was found
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  lazaret server review files\n  lazaret server review files --json | jq .servers[0].review.pin"
)]
pub struct ServerReviewArgs {
    pub name: String,
    /// Resolve its versions anew, as if it had never been reviewed; what differs puts it into quarantine.
    #[arg(long, conflicts_with = "rebuild")]
    pub update: bool,
    /// Build it again from the lock of its last review, and refuse if any file differs.
    #[arg(long)]
    pub rebuild: bool,
    #[command(flatten)]
    pub json: Json,
}

/// Show what the newest review found otherwise than the approved one
///
/// Exits with 1 when they differ.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lazaret server review files; lazaret server diff files")]
pub struct ServerDiffArgs {
    pub name: String,
    /// As a unified diff of everything that the pin covers.
    #[arg(long)]
    pub full: bool,
}

/// Approve exactly what the review found; reviews first if there is no current review
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  lazaret server approve files\n  lazaret server approve files --pin sha256:9f86... --yes"
)]
pub struct ServerApproveArgs {
    pub name: String,
    /// Approve only if the reviewed pin is this one.
    #[arg(long, value_name = "DIGEST")]
    pub pin: Option<String>,
    /// Why, for the record.
    #[arg(long, value_name = "TEXT")]
    pub why: Option<String>,
    /// Do not ask.
    #[arg(long, short)]
    pub yes: bool,
    /// Do not start its container now; the first call does.
    #[arg(long)]
    pub no_start: bool,
}

/// Refuse a server for good; a running container is stopped
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lazaret server deny files --why \"the publisher changed\"")]
pub struct ServerDenyArgs {
    pub name: String,
    /// Why, for the record.
    #[arg(long, value_name = "TEXT", default_value = "an operator denied it")]
    pub why: String,
}

/// Forget a server and its tools; a running container is stopped
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lazaret server remove files --yes")]
pub struct ServerRemoveArgs {
    pub name: String,
    /// Do not ask.
    #[arg(long, short)]
    pub yes: bool,
}

/// Print what a server wrote to its standard error, also after its end
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lazaret server logs files -n 200")]
pub struct ServerLogsArgs {
    pub name: String,
    /// How many lines.
    #[arg(short = 'n', long = "lines", value_name = "N", default_value_t = 100)]
    pub lines: u32,
    #[command(flatten)]
    pub json: Json,
}

/// Tools of the servers behind the door
#[derive(Debug, Subcommand)]
pub enum ToolCommand {
    List(ToolListArgs),
    Show(ToolShowArgs),
    Approve(ToolApproveArgs),
    Block(ToolBlockArgs),
}

/// List tools and their state
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  lazaret tool list\n  lazaret tool list files --json")]
pub struct ToolListArgs {
    /// Only the tools of this server.
    pub server: Option<String>,
    #[command(flatten)]
    pub json: Json,
}

/// Show one tool: everything that an agent would see, its digest and its history
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lazaret tool show files:read_file")]
pub struct ToolShowArgs {
    #[arg(value_name = "SERVER:TOOL")]
    pub tool: String,
    #[command(flatten)]
    pub json: Json,
}

/// Approve one tool as it was reviewed; shows what is approved
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lazaret tool approve files:read_file")]
pub struct ToolApproveArgs {
    #[arg(value_name = "SERVER:TOOL")]
    pub tool: String,
    /// Approve only if its digest is this one.
    #[arg(long, value_name = "DIGEST")]
    pub digest: Option<String>,
    /// Why, for the record.
    #[arg(long, value_name = "TEXT", default_value = "an operator approved it")]
    pub why: String,
}

/// Block one tool: agents neither find nor call it
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lazaret tool block files:write_file --why \"read only\"")]
pub struct ToolBlockArgs {
    #[arg(value_name = "SERVER:TOOL")]
    pub tool: String,
    /// Why, for the record.
    #[arg(long, value_name = "TEXT", default_value = "an operator blocked it")]
    pub why: String,
}
