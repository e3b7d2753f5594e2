//! `policy` and `ask`: what decides calls, and who is asked.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Json;

/// Policies that decide calls
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    Check(PolicyCheckArgs),
    Test(PolicyTestArgs),
    Explain(PolicyExplainArgs),
    Schema(PolicySchemaArgs),
}

/// Parse and validate the policies; needs no daemon
///
/// Where a daemon answers, policies on a tool's arguments are held against the tools that it has approved; else they
/// are only parsed. Exits with 1 when a policy would not load.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  lazaret policy check\n  lazaret policy check --dir ./policy.d --offline")]
pub struct PolicyCheckArgs {
    /// Directory to check [default: policy.d beside the configuration]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Ask no daemon for the approved tools.
    #[arg(long)]
    pub offline: bool,
    #[command(flatten)]
    pub json: Json,
}

/// Run the test cases beside the policies; needs no daemon
///
/// A case is a table [[case]] in a file *.test.toml: name, server, tool, arguments (or arguments_json), and expect =
/// "permit", "ask" or "deny"; and where it matters agent, owner, vouch, state, uid, package, and policy, the id of one that
/// must decide. A table [[tool]] (server, name, input_schema) gives the types that policies on arguments need.
/// Exits with 1 when a case fails.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  lazaret policy test\n  lazaret policy test --dir packaging/policy.d --json")]
pub struct PolicyTestArgs {
    /// Directory of the policies and their cases [default: policy.d beside the configuration]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    #[command(flatten)]
    pub json: Json,
}

/// Say which policies decide a call, and what would change it
///
/// CALL is a call's id, or the number of an audit record: what was recorded is told, and that is no argument's value. With
/// --agent, --tool and --arguments a call is described instead, and judged as things are now; it is not made.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lazaret policy explain 17
  lazaret policy explain --agent claude@acme.lazaret.local --tool fs:read_file --arguments call.json
  echo '{}' | lazaret policy explain --agent claude@acme.lazaret.local --tool time:now --arguments -")]
pub struct PolicyExplainArgs {
    /// Id of a call, or number of an audit record; see `lazaret audit tail`.
    #[arg(value_name = "CALL", required_unless_present = "agent", conflicts_with_all = ["agent", "tool", "arguments", "uid"])]
    pub call: Option<String>,
    /// Address of the agent that would call.
    #[arg(long, value_name = "ADDRESS", requires = "tool")]
    pub agent: Option<String>,
    /// Tool that it would call, as SERVER:TOOL.
    #[arg(long, value_name = "SERVER:TOOL", requires = "agent")]
    pub tool: Option<String>,
    /// File that holds the arguments as one JSON object; - is the standard input [default: no argument]
    #[arg(long, value_name = "FILE", requires = "tool")]
    pub arguments: Option<PathBuf>,
    /// User who would connect.
    #[arg(long, value_name = "UID", default_value_t = 0, requires = "tool")]
    pub uid: u32,
    #[command(flatten)]
    pub json: Json,
}

/// Print the schema that policies are validated against
///
/// Without --tool: what every policy may speak of. With it: the schema for policies whose head is
/// `resource == Tool::"server:tool"`, which may speak of that tool's arguments as `context.input`; what has no type is named.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  lazaret policy schema > lazaret.cedarschema\n  lazaret policy schema --tool fs:read_file"
)]
pub struct PolicySchemaArgs {
    /// Approved tool whose arguments are typed.
    #[arg(long, value_name = "SERVER:TOOL")]
    pub tool: Option<String>,
    #[command(flatten)]
    pub json: Json,
}

/// Calls that wait for a human
#[derive(Debug, Subcommand)]
pub enum AskCommand {
    List(AskListArgs),
    Show(AskShowArgs),
    Approve(AskApproveArgs),
    Deny(AskDenyArgs),
    Revoke(AskRevokeArgs),
}

/// Calls that wait, and approvals that still hold
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  lazaret ask list\n  lazaret ask list --json | jq -r '.asks[].id'")]
pub struct AskListArgs {
    #[command(flatten)]
    pub json: Json,
}

/// One waiting call with its arguments
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lazaret ask show 3fa90c12")]
pub struct AskShowArgs {
    pub id: String,
    #[command(flatten)]
    pub json: Json,
}

/// Let a waiting call go
///
/// The approval is for this agent, key and tool and for these very arguments. More calls that equal it go through
/// without a question with --times.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  lazaret ask approve 3fa90c12\n  lazaret ask approve 3fa90c12 --times 5 --for 10m")]
pub struct AskApproveArgs {
    pub id: String,
    /// How long it holds: a number with s, m or h, at most 24h.
    #[arg(long = "for", value_name = "TIME", default_value = "60s", value_parser = span)]
    pub span: u64,
    /// For how many calls, this one among them.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub times: u32,
    #[command(flatten)]
    pub json: Json,
}

/// Refuse a waiting call
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lazaret ask deny 3fa90c12 --why \"not today\"")]
pub struct AskDenyArgs {
    pub id: String,
    /// Why, for the log; the agent is not told.
    #[arg(long, value_name = "TEXT", default_value = "denied by an operator")]
    pub why: String,
    #[command(flatten)]
    pub json: Json,
}

/// Take back an approval that still holds for further calls
///
/// Approvals outlive a restart of the daemon; they end with their time, their count, and with their agent, key or tool.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lazaret ask revoke 3fa90c12")]
pub struct AskRevokeArgs {
    /// Id of the call that the approval was given for.
    pub id: String,
    #[command(flatten)]
    pub json: Json,
}

/// `90s`, `10m`, `2h` in seconds.
fn span(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is no time; write a number with s, m or h, such as 10m");
    let unit = text.chars().last().ok_or_else(bad)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        _ => return Err(bad()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| bad())?;
    let span = number.checked_mul(seconds).ok_or_else(bad)?;
    if (1..=24 * 3600).contains(&span) { Ok(span) } else { Err(format!("{text:?} is not from 1s to 24h")) }
}

#[cfg(test)]
mod tests {
    use super::span;

    #[test]
    fn a_time_is_a_number_and_a_unit() {
        assert_eq!((span("90s"), span("10m"), span("24h")), (Ok(90), Ok(600), Ok(86_400)));
        for bad in ["", "10", "m", "-1m", "25h", "0s", "1d", "99999999999999999999h", "1 m", "1ü"] {
            assert!(span(bad).is_err(), "{bad}");
        }
    }
}
