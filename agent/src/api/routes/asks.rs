//! `/v1/asks`: calls that wait for a human.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};

use crate::api::peer::Operator;
use crate::api::server::{Answer, Api, Failure, Input, blocking};
use crate::api::types::{ApproveAsk, AskList, ErrorKind, Why};
use crate::policy::{AskError, AskView, GrantView};

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/v1/asks", get(list))
        .route("/v1/asks/{id}", get(show))
        .route("/v1/asks/{id}/approve", post(approve))
        .route("/v1/asks/{id}/deny", post(deny))
        .route("/v1/asks/{id}/revoke", post(revoke))
}

impl From<AskError> for Failure {
    fn from(error: AskError) -> Self {
        let kind = match &error {
            AskError::Unknown(_) | AskError::NoApproval(_) => ErrorKind::NotFound,
            AskError::Answered { .. } | AskError::Restarted(_) => ErrorKind::Conflict,
            AskError::Bounds { .. } => ErrorKind::Invalid,
            AskError::Audit(_) | AskError::Store(_) => ErrorKind::Failed,
        };
        Failure::new(kind, error.to_string())
    }
}

async fn list(State(api): State<Arc<Api>>) -> Answer<AskList> {
    blocking(&api, |app| {
        let (asks, grants) = app.gates.asks().list();
        Ok(AskList { asks, grants })
    })
    .await
    .map(Json)
}

async fn show(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Answer<AskView> {
    blocking(&api, move |app| Ok(app.gates.asks().show(&id)?)).await.map(Json)
}

async fn approve(
    State(api): State<Arc<Api>>,
    Extension(by): Extension<Operator>,
    Path(id): Path<String>,
    Input(input): Input<ApproveAsk>,
) -> Answer<AskView> {
    let span = Duration::from_secs(input.secs);
    blocking(&api, move |app| Ok(app.gates.asks().approve(&id, by.name(), input.times, span)?)).await.map(Json)
}

async fn deny(
    State(api): State<Arc<Api>>,
    Extension(by): Extension<Operator>,
    Path(id): Path<String>,
    Input(Why { why }): Input<Why>,
) -> Answer<AskView> {
    blocking(&api, move |app| Ok(app.gates.asks().deny(&id, by.name(), &why)?)).await.map(Json)
}

/// Takes an approval back that was given for more calls than were made.
async fn revoke(
    State(api): State<Arc<Api>>,
    Extension(by): Extension<Operator>,
    Path(id): Path<String>,
) -> Answer<GrantView> {
    blocking(&api, move |app| Ok(app.gates.asks().revoke(&id, by.name())?)).await.map(Json)
}
