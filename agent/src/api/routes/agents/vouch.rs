//! `/v1/agents/{address}/vouch`.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::routing::post;
use axum::{Extension, Json, Router};

use super::address;
use crate::api::peer::Operator;
use crate::api::server::{Answer, Api, Input, blocking};
use crate::api::types::{DraftVouch, GiveVouch, Why};
use crate::identity::{Agent, Draft};

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/v1/agents/{address}/vouch", post(give))
        .route("/v1/agents/{address}/vouch/draft", post(draft))
        .route("/v1/agents/{address}/vouch/revoke", post(withdraw))
}

async fn draft(
    State(api): State<Arc<Api>>,
    Path(text): Path<String>,
    Input(DraftVouch { not_after, capabilities, measurement }): Input<DraftVouch>,
) -> Answer<Draft> {
    let address = address(&text)?;
    blocking(&api, move |app| Ok(app.registry.draft_vouch(&address, measurement, capabilities, not_after)?))
        .await
        .map(Json)
}

async fn give(
    State(api): State<Arc<Api>>,
    Extension(by): Extension<Operator>,
    Path(text): Path<String>,
    Input(GiveVouch { document, signature, measurement }): Input<GiveVouch>,
) -> Answer<Agent> {
    let address = address(&text)?;
    blocking(&api, move |app| Ok(app.registry.vouch(&address, &document, &signature, measurement, by.name())?))
        .await
        .map(Json)
}

async fn withdraw(
    State(api): State<Arc<Api>>,
    Extension(by): Extension<Operator>,
    Path(text): Path<String>,
    Input(Why { why }): Input<Why>,
) -> Answer<Agent> {
    let address = address(&text)?;
    blocking(&api, move |app| Ok(app.registry.withdraw_vouch(&address, by.name(), &why)?)).await.map(Json)
}
