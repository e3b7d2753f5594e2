//! `lazaret policy explain`.

use std::io::Read as _;
use std::path::Path;

use serde_json::Value;

use crate::api::client::escape;
use crate::api::types::{ExplainCall, PastCall};
use crate::audit::{Kind, Record};
use crate::cli::args::policy::PolicyExplainArgs;
use crate::cli::instance::Instance;
use crate::cli::{CliError, out, when};
use crate::policy::Explanation;

/// Longest file of arguments in bytes: the daemon takes no longer request.
const MOST: u64 = 1 << 20;

pub async fn run(instance: &Instance, args: &PolicyExplainArgs) -> Result<(), CliError> {
    match (&args.call, &args.agent, &args.tool) {
        (Some(call), ..) => past(instance, call, args.json.json).await,
        (None, Some(agent), Some(tool)) => {
            let (server, tool) = crate::cli::tool::split(tool)?;
            let arguments = args.arguments.as_deref().map_or_else(|| Ok("{}".to_owned()), read)?;
            let call = ExplainCall {
                agent: agent.clone(),
                server: server.into(),
                tool: tool.into(),
                arguments,
                uid: args.uid,
            };
            let explanation: Explanation = instance.admin().post("/v1/policy/explain", &call).await?;
            if args.json.json {
                return out::object("explanation", &explanation);
            }
            described(&explanation)
        }
        _ => Err(CliError::Usage("name a CALL, or describe one with --agent and --tool".into())),
    }
}

fn read(path: &Path) -> Result<String, CliError> {
    let failed = |e: std::io::Error| {
        CliError::Usage(format!("cannot read the arguments {}: {e}; name a file of one JSON object", path.display()))
    };
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().lock().take(MOST).read_to_string(&mut text).map_err(failed)?;
    } else {
        std::fs::File::open(path).and_then(|file| file.take(MOST).read_to_string(&mut text)).map_err(failed)?;
    }
    Ok(text)
}

fn described(explanation: &Explanation) -> Result<(), CliError> {
    let decided = match explanation.decision.as_str() {
        "permit" => "permit: the call would be forwarded",
        "ask" => "ask: the call would wait for a human",
        _ => "deny: the call would be refused",
    };
    out::field("decision", decided)?;
    out::field("gate", "policy; registration and routing let it through, rate limits were not asked")?;
    out::field("because", out::visible(&explanation.reason))?;
    out::field("decided by", out::visible(&list(&explanation.policies)))?;
    for change in &explanation.changes {
        out::field("would change", short(&out::visible(change)))?;
    }
    // What is far from deciding is in the JSON.
    for near in explanation.near.iter().filter(|near| near.held > 0) {
        let text =
            format!("{} {}: {} of its conditions hold, then not: {}", near.effect, near.policy, near.held, near.failed);
        out::field("near", short(&out::visible(&text)))?;
    }
    Ok(())
}

/// A condition may be a list of hundreds; `--json` has all of it.
fn short(text: &str) -> String {
    const MOST: usize = 240;
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{} ... (whole with --json)", &text[..at]),
        None => text.to_owned(),
    }
}

fn list(policies: &[String]) -> String {
    if policies.is_empty() { "no policy".to_owned() } else { policies.join(", ") }
}

/// The log has no argument: what was recorded is told, and what that leaves open.
async fn past(instance: &Instance, call: &str, json: bool) -> Result<(), CliError> {
    let past: PastCall = instance.admin().get(&format!("/v1/policy/calls/{}", escape(call))).await?;
    if json {
        return out::object("explanation_past", &past);
    }
    for record in &past.records {
        let what = match record.kind {
            Kind::Call => "permitted",
            Kind::Result => "ended",
            Kind::Denial => "denied",
            Kind::Ask => "asked",
            _ => continue,
        };
        out::field(what, out::visible(&told(record)))?;
    }
    let first = past.records.first();
    if let Some(facts) = first.and_then(|record| record.detail.get("arguments")) {
        out::field("arguments", out::visible(&facts.to_string()))?;
    }
    out::field(
        "not known",
        "the arguments themselves are in no log, so that their conditions cannot be evaluated again; describe the call with --agent, --tool and --arguments to see what holds now",
    )?;
    let denied = first.is_some_and(|record| record.kind == Kind::Denial);
    out::field("would change", if denied { changes_of_denial(first) } else { changes_of_permit(first) })
}

fn told(record: &Record) -> String {
    let policies: Vec<String> = record
        .detail
        .get("policies")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let gate = record
        .detail
        .get("gate")
        .and_then(Value::as_str)
        .map(|gate| format!(" at the gate {gate}"))
        .unwrap_or_default();
    let by = if record.kind == Kind::Call || !policies.is_empty() {
        format!(" by {}", list(&policies))
    } else {
        String::new()
    };
    let human = record.detail["approval"]["by"].as_str().map(|by| format!(", approved by {by}")).unwrap_or_default();
    let reason = record.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    format!("#{} {} {}{gate}{by}{human}{reason}", record.seq, when(record.time), record.outcome)
}

fn changes_of_denial(record: Option<&Record>) -> String {
    let gate = record.and_then(|record| record.detail.get("gate")).and_then(Value::as_str).unwrap_or_default();
    match gate {
        "registration" => "an agent that is active, with its own key: `lazaret agent show`",
        "routing" => "the approval of server and tool as they are now: `lazaret server show`, `lazaret tool list`",
        "rate" => "time: the limits are refilled",
        "revocation" => "nothing for that call: what it stood on was taken back in the meantime",
        "policy" => "the arguments, or the policies that are named; a human where a policy asks for one",
        _ => "see `lazaret status`",
    }
    .to_owned()
}

fn changes_of_permit(record: Option<&Record>) -> String {
    let name = |part: Option<&String>| part.cloned().unwrap_or_else(|| "?".into());
    let (agent, server, tool) = (
        name(record.and_then(|record| record.agent.as_ref())),
        name(record.and_then(|record| record.server.as_ref())),
        name(record.and_then(|record| record.tool.as_ref())),
    );
    out::visible(&format!(
        "a `forbid`; `lazaret agent suspend {agent}`; `lazaret tool block {server}:{tool}`; a change of what is pinned"
    ))
}
