//! `/v1/policy`: what the policies say of a call, without making it.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::routing::{get, post};
use axum::{Json, Router};

use crate::api::server::{Answer, Api, Failure, Input, blocking};
use crate::api::types::{ErrorKind, ExplainCall, PastCall};
use crate::audit::Record;
use crate::policy::Explanation;
use crate::proxy::json;

/// Records that are looked at in one go.
const STEP: usize = 1000;
/// Records that one question looks back over.
const MOST: u64 = 200_000;

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new().route("/v1/policy/explain", post(explain)).route("/v1/policy/calls/{call}", get(past))
}

async fn explain(State(api): State<Arc<Api>>, Input(call): Input<ExplainCall>) -> Answer<Explanation> {
    let arguments = json::Json::parse(&call.arguments, api.app.config.proxy.max_depth)
        .map_err(|e| Failure::invalid(format!("cannot read the arguments: {e}; give one JSON object")))?;
    if arguments.as_object().is_none() {
        return Err(Failure::invalid("cannot read the arguments: they are no JSON object; give {\"name\": value}"));
    }
    let address = call.agent.parse().map_err(Failure::invalid)?;
    blocking(&api, move |app| {
        let agent = app.registry.require(&address)?;
        app.gates
            .explain(agent, &call.server, &call.tool, &arguments, call.uid)
            .map_err(|e| Failure::new(ErrorKind::NotFound, e))
    })
    .await
    .map(Json)
}

/// What is on record of a call, by its id or by the number of one of its records.
async fn past(State(api): State<Arc<Api>>, Path(call): Path<String>) -> Answer<PastCall> {
    blocking(&api, move |app| {
        let failed = |e| Failure::failed(e);
        let mut wanted = call.clone();
        if let Ok(seq) = call.parse::<u64>() {
            let found = app.audit.since(seq, 1).map_err(failed)?.into_iter().find(|record| record.seq == seq);
            match found {
                // A denial before the call had an id stands alone.
                Some(record) if record.call_id.is_none() => return Ok(PastCall { records: vec![record] }),
                Some(Record { call_id: Some(id), .. }) => wanted = id,
                _ => return Err(unknown(&call)),
            }
        }
        let last = app.audit.tail(1).map_err(failed)?.last().map_or(0, |record| record.seq);
        let mut records = Vec::new();
        let mut end = last;
        while end > 0 && last - end < MOST {
            let start = end.saturating_sub(STEP as u64);
            let step = app.audit.since(start + 1, (end - start) as usize).map_err(failed)?;
            records.extend(step.into_iter().filter(|record| record.call_id.as_deref() == Some(&wanted)));
            // The intent is the first record of a call: nothing of it lies before.
            if records.iter().any(|record: &Record| record.kind == crate::audit::Kind::Call) {
                break;
            }
            end = start;
        }
        records.sort_by_key(|record| record.seq);
        if records.is_empty() { Err(unknown(&call)) } else { Ok(PastCall { records }) }
    })
    .await
    .map(Json)
}

fn unknown(call: &str) -> Failure {
    Failure::not_found(format!(
        "cannot explain {call:?}: the last {MOST} records of the log have no such call; `lazaret audit tail` shows ids and numbers"
    ))
}
