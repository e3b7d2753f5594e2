//! `lazaret audit`.

mod call;

use super::args::read::{AuditCommand, AuditShowArgs, AuditTailArgs};
use super::instance::Instance;
use super::out::{self, Rows, plain, state};
use super::{CliError, when};
use crate::api::client::{AdminClient, escape};
use crate::audit::{CallView, Kind, Record, Signed};
use crate::identity::{NotProven, verify_call};

pub async fn run(instance: &Instance, command: AuditCommand) -> Result<(), CliError> {
    let admin = instance.admin();
    match command {
        AuditCommand::Tail(args) if args.follow => follow(&admin, &args).await,
        AuditCommand::Tail(args) => tail(&admin, &args).await,
        AuditCommand::Show(args) => show(&admin, &args).await,
    }
}

async fn tail(admin: &AdminClient, args: &AuditTailArgs) -> Result<(), CliError> {
    let records: Vec<Record> = admin.get(&format!("/v1/audit?tail={}", args.lines)).await?;
    if args.json {
        return out::listing("audit", "records", &records);
    }
    if args.jsonl {
        return records.iter().try_for_each(out::json_line);
    }
    let mut rows = Rows::new(&["SEQ", "TIME", "KIND", "OUTCOME", "ACTOR", "WHAT", "REASON"]);
    for record in &records {
        rows.row([
            plain(record.seq.to_string()),
            plain(when(record.time)),
            plain(record.kind.to_string()),
            state(record.outcome.to_string()),
            plain(&record.actor),
            plain(what(record)),
            plain(record.reason.clone().unwrap_or_default()),
        ]);
    }
    rows.print("The log is empty.")
}

/// Rows cannot wait for the widest one here: one line per record, as it comes.
async fn follow(admin: &AdminClient, args: &AuditTailArgs) -> Result<(), CliError> {
    let path = format!("/v1/audit/follow?tail={}", args.lines);
    admin
        .follow(&path, |line| {
            let record: Record = serde_json::from_slice(line).map_err(CliError::failed)?;
            if args.jsonl { out::json_line(&record) } else { out::line(one_line(&record)) }
        })
        .await?;
    Err(CliError::Unreachable("the daemon ended, and with it the log; start it again with `lazaret daemon`".into()))
}

fn one_line(record: &Record) -> String {
    let parts = [
        record.seq.to_string(),
        when(record.time),
        record.kind.to_string(),
        record.outcome.to_string(),
        record.actor.clone(),
        what(record),
        record.reason.clone().unwrap_or_default(),
    ];
    parts.iter().filter(|part| !part.is_empty()).map(|part| out::visible(part)).collect::<Vec<_>>().join("  ")
}

fn what(record: &Record) -> String {
    match (&record.agent, &record.server, &record.tool) {
        (_, Some(server), Some(tool)) => format!("{server}:{tool}"),
        (_, Some(server), None) => server.clone(),
        (_, None, Some(tool)) => tool.clone(),
        (Some(agent), None, None) => agent.clone(),
        (None, None, None) => record.detail.get("shadow").and_then(|id| id.as_str()).unwrap_or_default().to_owned(),
    }
}

/// Verified here: neither the daemon nor its database has to be believed.
async fn signed(admin: &AdminClient, intent: &Record) -> Result<Signed, CliError> {
    let not = |why: String| Signed { verified: false, line: None, line_digest: None, why: Some(why) };
    let session = intent.detail["session"].as_str();
    let (Some(session), Some(_)) = (session, intent.detail.get("signature")) else {
        return Ok(not(NotProven::Unsigned.to_string()));
    };
    let place = format!("/v1/sessions/{}?before={}", escape(session), intent.seq);
    let Some(connected) = admin.get::<Option<Record>>(&place).await? else {
        return Ok(not("the log has no record of the session's beginning".to_owned()));
    };
    Ok(verify_call(&connected, intent).map_or_else(
        |why| not(why.to_string()),
        |proven| Signed { verified: true, line: Some(proven.seq), line_digest: Some(proven.line_digest), why: None },
    ))
}

async fn show(admin: &AdminClient, args: &AuditShowArgs) -> Result<(), CliError> {
    let by_id = async |id: &str| admin.get::<Vec<Record>>(&format!("/v1/calls/{}", escape(id))).await;
    let records = match args.what.parse::<u64>() {
        Ok(seq) => {
            let record: Record = admin.get(&format!("/v1/audit/{seq}")).await?;
            match &record.call_id {
                Some(id) => by_id(id).await?,
                None => vec![record],
            }
        }
        Err(_) => by_id(&args.what).await?,
    };
    let mut call = CallView::of(&records);
    if let Some((call, intent)) = call.as_mut().zip(records.iter().find(|record| record.kind == Kind::Call)) {
        call.signed = Some(signed(admin, intent).await?);
    }
    match call {
        Some(call) if args.json.json => out::object("call", &call),
        Some(call) => call::print(&call),
        None if args.json.json => out::listing("audit", "records", &records),
        None => records.iter().try_for_each(|record| {
            let pretty = serde_json::to_string_pretty(record).map_err(CliError::failed)?;
            out::line(out::visible_lines(&pretty))
        }),
    }
}
