//! `/v1/agents`.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};

use crate::api::peer::Operator;
use crate::api::server::{Answer, Api, Failure, Input, blocking};
use crate::api::types::{Enroll, ErrorKind, Revoke, Why};
use crate::identity::{Address, Agent, PublicKey, RegistryError};

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/v1/agents", get(list).post(enroll))
        .route("/v1/agents/{address}", get(show))
        .route("/v1/agents/{address}/suspend", post(suspend))
        .route("/v1/agents/{address}/resume", post(resume))
        .route("/v1/agents/{address}/revoke", post(revoke))
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        let kind = match &error {
            RegistryError::Unknown(_) => ErrorKind::NotFound,
            RegistryError::Store(_) | RegistryError::Audit(_) => ErrorKind::Failed,
            _ => ErrorKind::Conflict,
        };
        Failure::new(kind, error.to_string())
    }
}

fn address(text: &str) -> Result<Address, Failure> {
    text.parse().map_err(Failure::invalid)
}

async fn list(State(api): State<Arc<Api>>) -> Answer<Vec<Agent>> {
    blocking(&api, |app| Ok(app.registry.list()?)).await.map(Json)
}

async fn show(State(api): State<Arc<Api>>, Path(text): Path<String>) -> Answer<Agent> {
    let address = address(&text)?;
    blocking(&api, move |app| Ok(app.registry.require(&address)?)).await.map(Json)
}

async fn enroll(
    State(api): State<Arc<Api>>,
    Extension(by): Extension<Operator>,
    Input(input): Input<Enroll>,
) -> Answer<Agent> {
    let address = address(&input.address)?;
    let key: PublicKey = input.public_key.parse().map_err(Failure::invalid)?;
    blocking(&api, move |app| Ok(app.registry.enroll_for(&address, key, input.owner, input.uid, by.name())?))
        .await
        .map(Json)
}

async fn suspend(
    State(api): State<Arc<Api>>,
    Extension(by): Extension<Operator>,
    Path(text): Path<String>,
    Input(Why { why }): Input<Why>,
) -> Answer<Agent> {
    let address = address(&text)?;
    blocking(&api, move |app| Ok(app.registry.suspend(&address, by.name(), &why)?)).await.map(Json)
}

async fn resume(
    State(api): State<Arc<Api>>,
    Extension(by): Extension<Operator>,
    Path(text): Path<String>,
) -> Answer<Agent> {
    let address = address(&text)?;
    blocking(&api, move |app| Ok(app.registry.resume(&address, by.name(), "resumed by an operator")?)).await.map(Json)
}

async fn revoke(
    State(api): State<Arc<Api>>,
    Extension(by): Extension<Operator>,
    Path(text): Path<String>,
    Input(Revoke { reason }): Input<Revoke>,
) -> Answer<Agent> {
    let address = address(&text)?;
    blocking(&api, move |app| Ok(app.registry.revoke(&address, reason, by.name())?)).await.map(Json)
}
