//! The one binary: daemon, connector and command line.

use std::process::ExitCode;

use clap::Parser as _;
use lazaret::cli::{self, args::Cli};

fn main() -> ExitCode {
    match cli::run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = error.to_string();
            if !text.is_empty() {
                cli::complain(&text);
            }
            ExitCode::from(error.exit_code())
        }
    }
}
