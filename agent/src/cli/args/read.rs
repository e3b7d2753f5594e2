//! The verbs that only look: `status`, `doctor`, `search`, `audit`, and the
//! two that print the command line itself.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Json;

/// What is guarded, and how strongly
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  lazaret status\n  lazaret status --json | jq -r .mode")]
pub struct StatusArgs {
    #[command(flatten)]
    pub json: Json,
}

/// What is wrong, and how to mend it; works without a daemon
///
/// Exits with 1 when a check fails.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  sudo lazaret doctor\n  lazaret doctor --json | jq '.checks[] | select(.verdict != \"ok\")'"
)]
pub struct DoctorArgs {
    #[command(flatten)]
    pub json: Json,
}

/// Find tools as an agent would
///
/// With --corpus no daemon is needed: a file of tools is ranked for a file of queries, and each query becomes one line
/// {"id": ..., "hits": ["server:tool", ...]}, best first. The tools are {"tools": [{"server", "tool", "title",
/// "description", "inputSchema"}, ...]}, of which only the first two are needed; the queries are {"queries": [{"id",
/// "query"}, ...]}. Other members are passed over.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lazaret search read a file
  lazaret search --agent claude-code --explain convert time zones
  lazaret search --corpus tools.json --queries queries.json --jsonl")]
pub struct SearchArgs {
    #[arg(value_name = "QUERY", required_unless_present = "corpus", conflicts_with = "corpus")]
    pub query: Vec<String>,
    /// Search as this agent: one that is not active finds nothing. Policies are asked at the call, not here.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "corpus")]
    pub agent: Option<String>,
    /// Say how each score came about.
    #[arg(long, conflicts_with = "corpus")]
    pub explain: bool,
    /// Hits at most.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=100), conflicts_with = "corpus")]
    pub limit: u16,
    #[arg(long, conflicts_with = "corpus", help = "Print one JSON object instead of a table")]
    pub json: bool,
    /// File of tools to rank, instead of the daemon's.
    #[arg(long, value_name = "FILE", requires_all = ["queries", "jsonl"])]
    pub corpus: Option<PathBuf>,
    /// File of queries for --corpus.
    #[arg(long, value_name = "FILE", requires = "corpus")]
    pub queries: Option<PathBuf>,
    /// Print one JSON line per query.
    #[arg(long, requires = "corpus")]
    pub jsonl: bool,
}

/// The log of every decision
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    Tail(AuditTailArgs),
    Show(AuditShowArgs),
}

/// Print the last records, oldest first
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  lazaret audit tail -n 50\n  lazaret audit tail --follow --jsonl | jq 'select(.outcome == \"deny\")'"
)]
pub struct AuditTailArgs {
    /// How many.
    #[arg(short = 'n', long = "lines", value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub lines: u32,
    /// Go on with each new record.
    #[arg(long, short)]
    pub follow: bool,
    /// Print one JSON line per record.
    #[arg(long, conflicts_with = "json")]
    pub jsonl: bool,
    #[arg(long, conflicts_with = "follow", help = "Print one JSON object instead of a table")]
    pub json: bool,
}

/// Say of one call who made it, for whom, at which depth, by which right, and who vouched
///
/// Other records are printed in full.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lazaret audit show 17
  lazaret audit show 9f86d081884c7d659a2feaa0c55ad015 --json | jq .chain")]
pub struct AuditShowArgs {
    /// Id of a call, or the sequence number of any record.
    #[arg(value_name = "CALL_ID|SEQ")]
    pub what: String,
    #[command(flatten)]
    pub json: Json,
}

/// Tell the daemon of a hook event of Claude Code, read from standard input
///
/// With it the record of a call says which sub-agent made it. It never holds the client up and always exits with 0.
#[derive(Debug, Args)]
#[command(after_help = "\
Example, as `lazaret client install claude-code --hooks` puts it into ~/.claude/settings.json:
  {\"hooks\": {\"SubagentStart\": [{\"hooks\": [{\"type\": \"command\", \"command\": \"lazaret hook\"}]}],
             \"PreToolUse\": [{\"matcher\": \"mcp__.*\", \"hooks\": [{\"type\": \"command\", \"command\": \"lazaret hook\"}]}]}}")]
pub struct HookArgs {}

/// Print the completion script of a shell
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lazaret completions bash > /etc/bash_completion.d/lazaret")]
pub struct CompletionsArgs {
    pub shell: clap_complete::Shell,
}

/// Print the manual page, or write one per verb into a directory
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  lazaret man | man -l -\n  lazaret man --dir /usr/share/man/man1")]
pub struct ManArgs {
    /// Write lazaret.1, lazaret-server-add.1 ... there.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}
