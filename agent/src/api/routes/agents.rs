//! `/v1/agents`: who may come through the door, and who vouches for them.

mod keys;
mod vouch;

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};

use crate::api::peer::Operator;
use crate::api::server::{Answer, Api, Failure, Input, blocking};
use crate::api::types::{AgentView, Done, Enroll, ErrorKind, Revoke, Why};
use crate::identity::{Address, Agent, Amendment, PublicKey, RegistryError, RevocationReason, VouchError};
use crate::policy::RateUse;

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/v1/agents", get(list).post(enroll))
        .route("/v1/agents/{address}", get(show))
        .route("/v1/agents/{address}/activate", post(activate))
        .route("/v1/agents/{address}/amend", post(amend))
        .route("/v1/agents/{address}/deregister", post(deregister))
        .route("/v1/agents/{address}/suspend", post(suspend))
        .route("/v1/agents/{address}/resume", post(resume))
        .route("/v1/agents/{address}/revoke", post(revoke))
        .route("/v1/delegations/{jti}/revoke", post(revoke_delegation))
        .route("/v1/rates", get(rates))
        .merge(keys::routes())
        .merge(vouch::routes())
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        let kind = match &error {
            RegistryError::Unknown(_) => ErrorKind::NotFound,
            RegistryError::Vouch(VouchError::Signers(_)) => ErrorKind::Failed,
            RegistryError::Vouch(_) | RegistryError::Rotation(_) => ErrorKind::Conflict,
            RegistryError::NoDelegationId(_) | RegistryError::NoFingerprint { .. } => ErrorKind::Invalid,
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

async fn show(State(api): State<Arc<Api>>, Path(text): Path<String>) -> Answer<AgentView> {
    let address = address(&text)?;
    blocking(&api, move |app| {
        let measured = app.registry.last_measured(&address)?;
        Ok(AgentView::new(app.registry.require(&address)?, measured))
    })
    .await
    .map(Json)
}

async fn enroll(
    State(api): State<Arc<Api>>,
    Extension(by): Extension<Operator>,
    Input(input): Input<Enroll>,
) -> Answer<Agent> {
    let address = address(&input.address)?;
    let key: PublicKey = input.public_key.parse().map_err(Failure::invalid)?;
    blocking(&api, move |app| Ok(app.registry.enroll_with(&address, key, input.enrolment, by.name())?)).await.map(Json)
}

async fn activate(
    State(api): State<Arc<Api>>,
    Extension(by): Extension<Operator>,
    Path(text): Path<String>,
    Input(Done {}): Input<Done>,
) -> Answer<Agent> {
    let address = address(&text)?;
    blocking(&api, move |app| Ok(app.registry.activate(&address, by.name())?)).await.map(Json)
}

async fn amend(
    State(api): State<Arc<Api>>,
    Extension(by): Extension<Operator>,
    Path(text): Path<String>,
    Input(amendment): Input<Amendment>,
) -> Answer<Agent> {
    let address = address(&text)?;
    blocking(&api, move |app| Ok(app.registry.amend(&address, amendment, by.name())?)).await.map(Json)
}

/// Retires an agent without blame; its key never comes back.
async fn deregister(
    State(api): State<Arc<Api>>,
    Extension(by): Extension<Operator>,
    Path(text): Path<String>,
    Input(Done {}): Input<Done>,
) -> Answer<Agent> {
    let address = address(&text)?;
    let reason = RevocationReason::AgentDeregistered;
    blocking(&api, move |app| Ok(app.registry.revoke(&address, reason, by.name())?)).await.map(Json)
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

async fn revoke_delegation(
    State(api): State<Arc<Api>>,
    Extension(by): Extension<Operator>,
    Path(jti): Path<String>,
) -> Answer<Done> {
    blocking(&api, move |app| Ok(app.registry.revoke_delegation(&jti, by.name()).map(|_| Done {})?)).await.map(Json)
}

async fn rates(State(api): State<Arc<Api>>) -> Answer<Vec<RateUse>> {
    blocking(&api, |app| Ok(app.gates.rates())).await.map(Json)
}
