//! The command line. [`args`] is what was typed; each verb's file turns it into what it means,
//! asks the daemon over `admin.sock`, and prints. stdout is data, stderr is talk.

mod agent;
pub mod args;
mod ask;
mod audit;
mod client;
mod connect;
mod daemon;
mod doctor;
mod error;
mod hook;
mod instance;
mod inventory;
mod manual;
pub(crate) mod out;
mod policy;
mod review;
mod search;
mod server;
mod shadow;
mod status;
mod talk;
mod token;
mod tool;

pub use error::CliError;

use args::agent::AgentCommand;
use args::{Cli, Command};
use instance::Instance;

/// Does what was typed.
pub fn run(cli: Cli) -> Result<(), CliError> {
    let speaks_to_the_door = matches!(
        cli.command,
        Command::Connect(_) | Command::Token(_) | Command::Hook(_) | Command::Agent(AgentCommand::Delegate(_))
    );
    if speaks_to_the_door {
        crate::proxy::connector::settle();
    }
    let instance = Instance::new(cli.globals);
    match cli.command {
        Command::Daemon(args) => daemon::run(&instance, args),
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::man(&args),
        command => short_lived(run_verb(&instance, command)),
    }
}

async fn run_verb(instance: &Instance, command: Command) -> Result<(), CliError> {
    match command {
        Command::Status(args) => status::run(instance, &args).await,
        Command::Doctor(args) => doctor::run(instance, &args).await,
        Command::Connect(args) => connect::run(instance, args).await,
        Command::Token(args) => token::run(instance, args).await,
        Command::Client(command) => client::run(instance, command).await,
        Command::Inventory(args) => inventory::run(instance, &args).await,
        Command::Shadow(command) => shadow::run(instance, command).await,
        Command::Server(command) => server::run(instance, command).await,
        Command::Tool(command) => tool::run(instance, command).await,
        Command::Search(args) => search::run(instance, args).await,
        Command::Agent(command) => agent::run(instance, command).await,
        Command::Policy(command) => policy::run(instance, &command).await,
        Command::Ask(command) => ask::run(instance, command).await,
        Command::Audit(command) => audit::run(instance, command).await,
        Command::Hook(_) => hook::run(instance).await,
        Command::Daemon(_) | Command::Completions(_) | Command::Man(_) => Ok(()),
    }
}

/// One thread is enough for a verb, and starts fastest.
fn short_lived(verb: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| CliError::Failed(format!("cannot start: {e}; see the limits on processes and open files")))?;
    let done = runtime.block_on(verb);
    // A read of stdin that nobody waits for any more must not keep the process.
    runtime.shutdown_background();
    done
}

/// Says on stderr why something was not done.
pub fn complain(text: &str) {
    out::say(format!("lazaret: {}", out::visible_lines(text)));
}

/// A time as people read it: UTC, to the second.
fn when(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests;
