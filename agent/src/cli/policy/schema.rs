//! `lazaret policy schema`.

use serde::Serialize;

use crate::api::client::escape;
use crate::api::types::ToolView;
use crate::cli::args::policy::PolicySchemaArgs;
use crate::cli::instance::Instance;
use crate::cli::{CliError, out};
use crate::policy::input::{InputType, SCHEMA};

#[derive(Serialize)]
struct Shown<'a> {
    tool: Option<&'a str>,
    cedarschema: String,
    /// Arguments that policies cannot speak of, with the cause.
    left_out: Vec<String>,
}

pub async fn run(instance: &Instance, args: &PolicySchemaArgs) -> Result<(), CliError> {
    let shown = match &args.tool {
        None => Shown { tool: None, cedarschema: SCHEMA.to_owned(), left_out: Vec::new() },
        Some(tool) => of_tool(instance, tool).await?,
    };
    if args.json.json {
        return out::object("policy_schema", &shown);
    }
    for left in &shown.left_out {
        out::say(out::visible(&format!("Not typed: {left}.")));
    }
    out::line(out::visible_lines(shown.cedarschema.trim_end()))
}

async fn of_tool<'a>(instance: &Instance, text: &'a str) -> Result<Shown<'a>, CliError> {
    let (server, name) = crate::cli::tool::split(text)?;
    let path = format!("/v1/tools?server={}&tool={}", escape(server), escape(name));
    let found: Vec<ToolView> = instance.admin().get(&path).await?;
    let tool = found.first().ok_or_else(|| CliError::Failed(format!("there is no tool {text}")))?;
    let input = InputType::of_descriptor(&tool.descriptor);
    let cedarschema = input.schema_text().map_err(CliError::Failed)?;
    Ok(Shown { tool: Some(text), cedarschema, left_out: input.left_out })
}
