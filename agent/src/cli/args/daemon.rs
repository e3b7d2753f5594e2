//! `lazaret daemon`.

use clap::Args;

use crate::config::{Mode, Scope};

/// Run the agent in the foreground
///
/// Loads the kernel programs, proves each hook by firing it, opens the two sockets and serves until it is told to
/// stop. Flags win over the configuration file.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo lazaret daemon                                    report, stop nothing
  sudo lazaret daemon --mode enforce --scope uid:1001    enforce for one user only
  sudo lazaret daemon --detach                           remove what an earlier daemon left in the kernel")]
pub struct DaemonArgs {
    /// What happens to a shadow server: report it, hold it for a human, or stop it.
    #[arg(long, value_enum, value_name = "MODE")]
    pub mode: Option<Mode>,
    /// Who is judged: host, cgroup:PATH or uid:N. Outside of it nothing is ever denied or killed.
    #[arg(long, value_name = "SCOPE")]
    pub scope: Option<Scope>,
    /// Take the kernel programs away when the daemon ends, instead of leaving enforcement on.
    #[arg(long)]
    pub detach_on_exit: bool,
    /// Do not run: remove the links and maps that an earlier daemon left pinned, and end.
    #[arg(long, conflicts_with_all = ["mode", "scope", "detach_on_exit"])]
    pub detach: bool,
}
