//! `/v1/audit`: reading the log, and following it.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use serde::Deserialize;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

use crate::api::server::{Answer, Api, Failure, blocking, json_line, ndjson};
use crate::audit::{AuditError, Record};

/// Records that one answer holds at most.
const MOST: usize = 10_000;

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/v1/audit", get(tail))
        .route("/v1/audit/follow", get(follow))
        .route("/v1/audit/{seq}", get(show))
        .route("/v1/calls/{id}", get(call))
        .route("/v1/sessions/{id}", get(session))
}

impl From<AuditError> for Failure {
    fn from(error: AuditError) -> Self {
        Failure::failed(error)
    }
}

#[derive(Deserialize)]
struct Tail {
    #[serde(default)]
    tail: usize,
}

async fn tail(State(api): State<Arc<Api>>, Query(Tail { tail }): Query<Tail>) -> Answer<Vec<Record>> {
    blocking(&api, move |app| Ok(app.audit.tail(tail.min(MOST))?)).await.map(Json)
}

async fn show(State(api): State<Arc<Api>>, Path(seq): Path<u64>) -> Answer<Record> {
    let found = blocking(&api, move |app| Ok(app.audit.since(seq, 1)?)).await?;
    found.into_iter().find(|record| record.seq == seq).map(Json).ok_or_else(|| {
        Failure::not_found(format!("cannot show the audit record {seq}: the log has none; see `lazaret audit tail`"))
    })
}

/// Every record of one call, oldest first.
async fn call(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Answer<Vec<Record>> {
    let wanted = id.clone();
    let found = blocking(&api, move |app| Ok(app.audit.of_call(&wanted)?)).await?;
    if found.is_empty() {
        let id: String = id.chars().take(80).collect();
        return Err(Failure::not_found(format!(
            "cannot show the call {id:?}: the log has none of that id; see `lazaret audit tail`"
        )));
    }
    Ok(Json(found))
}

#[derive(Deserialize)]
struct Before {
    before: u64,
}

/// The record of a session's beginning, of those before the number that is given.
async fn session(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    Query(Before { before }): Query<Before>,
) -> Answer<Option<Record>> {
    blocking(&api, move |app| Ok(app.audit.connected(&id, before)?)).await.map(Json)
}

/// The last `tail` records, then each new one in order. A reader that falls behind loses none:
/// what it missed is read from the log.
async fn follow(State(api): State<Arc<Api>>, Query(Tail { tail }): Query<Tail>) -> Result<Response, Failure> {
    let mut live = api.app.audit.subscribe();
    let before = blocking(&api, move |app| Ok(app.audit.tail(tail.clamp(1, MOST))?)).await?;
    let mut last = before.last().map_or(0, |record| record.seq);
    let skip = if tail == 0 { before.len() } else { 0 };
    let (lines, reader) = mpsc::channel(64);
    tokio::spawn(async move {
        if send_all(&lines, before.into_iter().skip(skip)).await.is_err() {
            return;
        }
        loop {
            let next = tokio::select! {
                () = api.cancel.cancelled() => return,
                () = lines.closed() => return,
                next = live.recv() => next,
            };
            match next {
                Ok(record) if record.seq <= last => continue,
                Ok(record) if record.seq == last + 1 => {
                    last = record.seq;
                    if lines.send(json_line(&*record)).await.is_err() {
                        return;
                    }
                }
                Err(RecvError::Closed) => return,
                Ok(_) | Err(RecvError::Lagged(_)) => match catch_up(&api, &lines, last).await {
                    Some(seq) => last = seq,
                    None => return,
                },
            }
        }
    });
    Ok(ndjson(reader))
}

/// Sends what the log has after `last`; returns the last number sent.
async fn catch_up(api: &Arc<Api>, lines: &mpsc::Sender<Bytes>, mut last: u64) -> Option<u64> {
    loop {
        let missed = blocking(api, move |app| Ok(app.audit.since(last + 1, MOST)?)).await;
        let missed = match missed {
            Ok(missed) => missed,
            Err(Failure(e)) => {
                tracing::error!("a follower of the audit log is cut off: {}", e.message);
                return None;
            }
        };
        let Some(newest) = missed.last().map(|record| record.seq) else { return Some(last) };
        send_all(lines, missed.into_iter()).await.ok()?;
        last = newest;
    }
}

async fn send_all(
    lines: &mpsc::Sender<Bytes>,
    records: impl Iterator<Item = Record>,
) -> Result<(), mpsc::error::SendError<Bytes>> {
    for record in records {
        lines.send(json_line(&record)).await?;
    }
    Ok(())
}
