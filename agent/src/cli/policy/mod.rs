//! `lazaret policy`.

mod explain;
mod schema;

use serde::Serialize;

use super::args::policy::{PolicyCheckArgs, PolicyCommand, PolicyTestArgs};
use super::instance::Instance;
use super::{CliError, out};
use crate::admission::Tool;
use crate::api::types::ToolView;
use crate::policy::cases::{self, CaseError};
use crate::policy::{Description, Engine, PolicyError, PolicyFault};

#[derive(Serialize)]
struct Checked {
    valid: bool,
    #[serde(flatten)]
    description: Option<Description>,
    faults: Vec<PolicyFault>,
    /// Whether policies on arguments were held against the approved tools.
    with_tools: bool,
}

pub async fn run(instance: &Instance, command: &PolicyCommand) -> Result<(), CliError> {
    match command {
        PolicyCommand::Check(args) => check(instance, args).await,
        PolicyCommand::Test(args) => test(instance, args),
        PolicyCommand::Explain(args) => explain::run(instance, args).await,
        PolicyCommand::Schema(args) => schema::run(instance, args).await,
    }
}

async fn check(instance: &Instance, args: &PolicyCheckArgs) -> Result<(), CliError> {
    let dir = directory(instance, args.dir.as_ref(), "check")?;
    let tools = if args.offline { None } else { approved(instance).await };
    let with_tools = tools.is_some();
    let tools = tools.unwrap_or_default();
    let checked = Engine::load(&dir).and_then(|engine| engine.check(&tools).map(|()| engine.describe_with(&tools)));
    match checked {
        Ok(description) => {
            if args.json.json {
                let description = Some(description);
                return out::object("policy", &Checked { valid: true, description, faults: vec![], with_tools });
            }
            for tool in &description.asleep {
                let why = if with_tools { "it is not approved" } else { "no daemon was asked for it" };
                out::say(out::visible(&format!("Policies on the arguments of {tool} were parsed and no more: {why}.")));
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
                out::object("policy", &Checked { valid: false, description: None, faults, with_tools })?;
            } else {
                faults.iter().try_for_each(|fault| out::line(out::visible_lines(&fault.to_string())))?;
                out::say("No policy would be loaded; what is in force stays in force.");
            }
            Err(CliError::Negative)
        }
        Err(e) => Err(CliError::Configuration(e.to_string())),
    }
}

fn test(instance: &Instance, args: &PolicyTestArgs) -> Result<(), CliError> {
    let dir = directory(instance, args.dir.as_ref(), "test")?;
    let outcomes = cases::run(&dir, &dir).map_err(|e| match e {
        CaseError::Policy(PolicyError::Faults(_)) => CliError::Failed(e.to_string()),
        e => CliError::Configuration(e.to_string()),
    })?;
    let failed = outcomes.iter().filter(|outcome| !outcome.passed).count();
    if args.json.json {
        out::listing("policy_test", "cases", &outcomes)?;
    } else {
        for outcome in outcomes.iter().filter(|outcome| !outcome.passed) {
            let word = |expect| {
                serde_json::to_value(expect).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
            };
            out::line(out::visible(&format!(
                "FAILED {}: {:?}: expected {}, decided {} by [{}]{}",
                outcome.file.display(),
                outcome.case,
                word(outcome.expected),
                word(outcome.decision),
                outcome.policies.join(", "),
                outcome.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default()
            )))?;
        }
        out::line(format!("{} cases passed, {failed} failed", outcomes.len() - failed))?;
        if outcomes.is_empty() {
            out::say(format!(
                "{} has no *.test.toml; `lazaret policy test --help` says what stands in one.",
                dir.display()
            ));
        }
    }
    if failed > 0 { Err(CliError::Negative) } else { Ok(()) }
}

fn directory(
    instance: &Instance,
    named: Option<&std::path::PathBuf>,
    verb: &str,
) -> Result<std::path::PathBuf, CliError> {
    let dir = named.unwrap_or(&instance.paths.policy_dir);
    if (named.is_some() || verb == "test") && !dir.is_dir() {
        return Err(CliError::Usage(format!(
            "cannot {verb} {}: it is no directory; name the one that holds the *.cedar files with --dir",
            dir.display()
        )));
    }
    Ok(dir.clone())
}

/// The tools that the daemon has approved; `None` where none answers, or not to us.
async fn approved(instance: &Instance) -> Option<Vec<Tool>> {
    let tools: Vec<ToolView> = instance.admin().get("/v1/tools").await.ok()?;
    Some(tools.into_iter().filter(|tool| tool.callable).map(into_tool).collect())
}

fn into_tool(view: ToolView) -> Tool {
    Tool {
        server: view.server,
        name: view.name,
        state: view.state,
        descriptor: view.descriptor,
        digest: view.digest,
        history: view.history,
    }
}
