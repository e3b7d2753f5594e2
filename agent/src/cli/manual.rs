//! `lazaret completions` and `lazaret man`: both made from the one definition in `args`.

use clap::CommandFactory as _;

use super::args::Cli;
use super::args::read::{CompletionsArgs, ManArgs};
use super::{CliError, out};

pub fn completions(args: &CompletionsArgs) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "lazaret", &mut script);
    out::raw(&script)
}

pub fn man(args: &ManArgs) -> Result<(), CliError> {
    let Some(dir) = &args.dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command()).render(&mut page).map_err(CliError::failed)?;
        return out::raw(&page);
    };
    std::fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(Cli::command(), dir)).map_err(|e| {
        CliError::Failed(format!("cannot write the manual pages to {}: {e}; check the directory", dir.display()))
    })?;
    out::say(format!("The manual pages are in {}.", dir.display()));
    Ok(())
}
