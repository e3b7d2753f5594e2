//! What was typed: the one definition of every verb and flag. Help, man page and completions
//! are made from it. What a flag *means* is decided by the verb's own file in `cli/`.

pub mod agent;
pub mod client;
pub mod daemon;
pub mod policy;
pub mod read;
pub mod server;
pub mod shadow;
pub mod when;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// One guarded door for every MCP tool call on a Linux host; the kernel closes every other one.
#[derive(Debug, Parser)]
#[command(
    name = "lazaret",
    version,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "\
Start here:
  sudo lazaret daemon                 run the agent in observe mode: it reports and stops nothing
  lazaret status                      what is guarded, and how strongly
  lazaret inventory                   every MCP server that a client on this host can reach
  lazaret doctor                      what is wrong, and how to mend it

Exit codes: 0 done; 1 a negative verdict; 2 usage; 3 daemon unreachable; 4 bad configuration; 5 not permitted.
stdout is data, stderr is talk."
)]
pub struct Cli {
    #[command(flatten)]
    pub globals: Globals,
    #[command(subcommand)]
    pub command: Command,
}

/// Where this instance's files and sockets are; several instances can run side by side.
#[derive(Debug, Clone, Default, Args)]
pub struct Globals {
    /// Configuration file [default: /etc/lazaret/config.toml]
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "LAZARET_CONFIG",
        hide_env_values = true,
        help_heading = "Instance"
    )]
    pub config: Option<PathBuf>,
    /// Directory of the state [default: /var/lib/lazaret]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "LAZARET_STATE_DIR",
        hide_env_values = true,
        help_heading = "Instance"
    )]
    pub state_dir: Option<PathBuf>,
    /// Directory of the sockets [default: /run/lazaret]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "LAZARET_RUN_DIR",
        hide_env_values = true,
        help_heading = "Instance"
    )]
    pub run_dir: Option<PathBuf>,
    /// Directory below bpffs that links and maps are pinned in.
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "LAZARET_BPF_DIR",
        hide_env_values = true,
        help_heading = "Instance"
    )]
    pub bpf_dir: Option<PathBuf>,
    /// Directory of the Cedar policies.
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "LAZARET_POLICY_DIR",
        hide_env_values = true,
        help_heading = "Instance"
    )]
    pub policy_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Daemon(daemon::DaemonArgs),
    Status(read::StatusArgs),
    Doctor(read::DoctorArgs),
    Connect(client::ConnectArgs),
    Token(client::TokenArgs),
    #[command(subcommand)]
    Client(client::ClientCommand),
    Inventory(client::InventoryArgs),
    #[command(subcommand)]
    Shadow(shadow::ShadowCommand),
    #[command(subcommand)]
    Server(server::ServerCommand),
    #[command(subcommand)]
    Tool(server::ToolCommand),
    Search(read::SearchArgs),
    #[command(subcommand)]
    Agent(agent::AgentCommand),
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    #[command(subcommand)]
    Ask(policy::AskCommand),
    #[command(subcommand)]
    Audit(read::AuditCommand),
    Hook(read::HookArgs),
    Completions(read::CompletionsArgs),
    Man(read::ManArgs),
}

/// The flag of every verb that lists or shows.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct Json {
    /// Print one JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
}
