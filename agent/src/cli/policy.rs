//! `lazaret policy`.

use serde::Serialize;

use super::args::read::PolicyCommand;
use super::instance::Instance;
use super::{CliError, out};
use crate::policy::{Description, Engine, PolicyError, PolicyFault};

#[derive(Serialize)]
struct Checked {
    valid: bool,
    #[serde(flatten)]
    description: Option<Description>,
    faults: Vec<PolicyFault>,
}

pub fn run(instance: &Instance, command: &PolicyCommand) -> Result<(), CliError> {
    let PolicyCommand::Check(args) = command;
    let dir = args.dir.as_ref().unwrap_or(&instance.paths.policy_dir);
    if args.dir.is_some() && !dir.is_dir() {
        return Err(CliError::Usage(format!(
            "cannot check {}: it is no directory; name the one that holds the *.cedar files",
            dir.display()
        )));
    }
    match Engine::load(dir) {
        Ok(engine) => {
            let description = engine.describe(&[]);
            if args.json.json {
                return out::object("policy", &Checked { valid: true, description: Some(description), faults: vec![] });
            }
            out::line(match description.files.len() {
                0 => format!(
                    "{} has no policy: the built-in one is in force, it permits active agents to call approved tools",
                    dir.display()
                ),
                n => format!("{} policies in {n} files of {} are valid", description.count, dir.display()),
            })
        }
        Err(PolicyError::Faults(faults)) => {
            if args.json.json {
                out::object("policy", &Checked { valid: false, description: None, faults })?;
            } else {
                faults.iter().try_for_each(|fault| out::line(out::visible_lines(&fault.to_string())))?;
                out::say("No policy would be loaded; what is in force stays in force.");
            }
            Err(CliError::Negative)
        }
        Err(e) => Err(CliError::Configuration(e.to_string())),
    }
}
