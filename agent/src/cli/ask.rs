//! `lazaret ask`.

use super::args::policy::{AskCommand, AskListArgs, AskShowArgs};
use super::instance::Instance;
use super::out::{self, Rows, plain, state};
use super::{CliError, review, when};
use crate::api::client::{AdminClient, escape};
use crate::api::types::{ApproveAsk, AskList, Done, Why};
use crate::policy::{AskView, GrantView};

pub async fn run(instance: &Instance, command: AskCommand) -> Result<(), CliError> {
    let admin = instance.admin();
    match command {
        AskCommand::List(args) => list(&admin, &args).await,
        AskCommand::Show(args) => show(&admin, &args).await,
        AskCommand::Approve(args) => {
            let request = ApproveAsk { times: args.times, secs: args.span };
            let ask: AskView = admin.post(&format!("/v1/asks/{}/approve", escape(&args.id)), &request).await?;
            if args.json.json {
                return out::object("ask", &ask);
            }
            out::say(format!("{} goes on: {} by {}.", ask.id, target(&ask), ask.binding.agent));
            if args.times > 1 {
                out::say(format!("So do up to {} calls that equal it, for {} s.", args.times - 1, args.span));
            }
            Ok(())
        }
        AskCommand::Revoke(args) => {
            let grant: GrantView = admin.post(&format!("/v1/asks/{}/revoke", escape(&args.id)), &Done {}).await?;
            if args.json.json {
                return out::object("approval", &grant);
            }
            out::say(format!("{} more calls of {} are not approved any more.", grant.times_left, grant.binding.agent));
            Ok(())
        }
        AskCommand::Deny(args) => {
            let ask: AskView =
                admin.post(&format!("/v1/asks/{}/deny", escape(&args.id)), &Why { why: args.why }).await?;
            if args.json.json {
                return out::object("ask", &ask);
            }
            out::say(format!("{} is denied: {} by {}.", ask.id, target(&ask), ask.binding.agent));
            Ok(())
        }
    }
}

fn target(ask: &AskView) -> String {
    out::visible(&format!("{}:{}", ask.binding.server, ask.binding.tool))
}

async fn list(admin: &AdminClient, args: &AskListArgs) -> Result<(), CliError> {
    let list: AskList = admin.get("/v1/asks").await?;
    if args.json.json {
        return out::object("ask", &list);
    }
    let mut rows = Rows::new(&["ID", "STATE", "AGENT", "TOOL", "ARGUMENTS", "UNTIL", "WHY"]);
    for ask in &list.asks {
        rows.row([
            plain(&ask.id),
            state(&ask.state),
            plain(&ask.binding.agent),
            plain(format!("{}:{}", ask.binding.server, ask.binding.tool)),
            plain(ask.argument_names.join(", ")),
            plain(when(ask.until)),
            plain(&ask.reason),
        ]);
    }
    rows.print("No call waits for a human.")?;
    for grant in &list.grants {
        out::say(format!(
            "{} more of {}:{} by {} until {}: approved by {} as {}",
            grant.times_left,
            out::visible(&grant.binding.server),
            out::visible(&grant.binding.tool),
            grant.binding.agent,
            when(grant.until),
            out::visible(&grant.by),
            grant.ask
        ));
    }
    Ok(())
}

async fn show(admin: &AdminClient, args: &AskShowArgs) -> Result<(), CliError> {
    let ask: AskView = admin.get(&format!("/v1/asks/{}", escape(&args.id))).await?;
    if args.json.json {
        return out::object("ask", &ask);
    }
    out::field("ask", format!("{}, {} until {}", ask.id, ask.state, when(ask.until)))?;
    out::field("agent", format!("{} ({}), uid {}", ask.binding.agent, ask.binding.did, ask.uid))?;
    out::field("tool", format!("{}:{}", ask.binding.server, ask.binding.tool))?;
    out::field("pinned as", &ask.binding.tool_digest)?;
    out::field("why asked", &ask.reason)?;
    out::field("permitted by", format!("{}, once a human approves", ask.policies.join(", ")))?;
    out::line("")?;
    out::line(out::visible_lines(&review::pretty(ask.arguments.as_deref().unwrap_or("{}"))))
}
