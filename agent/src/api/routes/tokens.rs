//! `/v1/tokens`: what is in force for HTTP clients, and its end. Tokens are made at `mcp.sock` only.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};

use crate::api::peer::Operator;
use crate::api::server::{Answer, Api, Failure, blocking};
use crate::identity::TokenView;

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new().route("/v1/tokens", get(list)).route("/v1/tokens/{id}/revoke", post(revoke))
}

async fn list(State(api): State<Arc<Api>>) -> Answer<Vec<TokenView>> {
    blocking(&api, |app| Ok(app.tokens.list(&app.registry))).await.map(Json)
}

async fn revoke(
    State(api): State<Arc<Api>>,
    Extension(by): Extension<Operator>,
    Path(id): Path<String>,
) -> Answer<TokenView> {
    let revoked = blocking(&api, move |app| {
        let revoked = app.tokens.revoke(&app.registry, &id, by.name()).map_err(Failure::failed)?;
        revoked.ok_or_else(|| {
            Failure::not_found(format!(
                "cannot revoke the token {id}: none of that id is in force; see `lazaret agent token list`"
            ))
        })
    });
    revoked.await.map(Json)
}
