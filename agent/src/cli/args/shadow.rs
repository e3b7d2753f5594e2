//! `lazaret shadow`.

use clap::{Args, Subcommand};

use super::Json;

/// MCP servers that were started, or about to be started, around the door
#[derive(Debug, Subcommand)]
pub enum ShadowCommand {
    List(ShadowListArgs),
    Show(ShadowShowArgs),
    Adopt(ShadowAdoptArgs),
    Release(ShadowReleaseArgs),
    Kill(ShadowKillArgs),
    Deny(ShadowDenyArgs),
}

/// List shadow spawns, newest first
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  lazaret shadow list\n  lazaret shadow list --json | jq -r '.shadows[].id'")]
pub struct ShadowListArgs {
    #[command(flatten)]
    pub json: Json,
}

/// Show one shadow spawn with all its evidence
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lazaret shadow show s-3f2a")]
pub struct ShadowShowArgs {
    pub id: String,
    #[command(flatten)]
    pub json: Json,
}

/// Make it a server of the house: quarantined, with its launch definition
///
/// It runs nowhere until it is reviewed and approved, and then only in the cage.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lazaret shadow adopt s-3f2a --name files && lazaret server approve files")]
pub struct ShadowAdoptArgs {
    pub id: String,
    /// Name of the new server [default: made from its package]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
}

/// Let it go this once: a held process runs on; the next spawn is judged again
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lazaret shadow release s-3f2a")]
pub struct ShadowReleaseArgs {
    pub id: String,
}

/// End its processes now; the next spawn is judged again
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lazaret shadow kill s-3f2a")]
pub struct ShadowKillArgs {
    pub id: String,
}

/// Refuse it for good
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lazaret shadow deny s-3f2a")]
pub struct ShadowDenyArgs {
    pub id: String,
}
