//! Rotation, revocation records and agent cards.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use jiff::Timestamp;

use crate::api::peer::Operator;
use crate::api::server::{Answer, Api, Failure, Input, blocking};
use crate::api::types::{ImportCard, ImportRevocations, Imported};
use crate::identity::{Agent, Card, Enrolment, Revocation, Rotation};

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/v1/rotations", post(rotate))
        .route("/v1/revocations", get(list).post(import))
        .route("/v1/cards", post(import_card))
}

async fn rotate(
    State(api): State<Arc<Api>>,
    Extension(by): Extension<Operator>,
    Input(rotation): Input<Rotation>,
) -> Answer<Agent> {
    blocking(&api, move |app| Ok(app.registry.rotate_signed(&rotation, by.name())?)).await.map(Json)
}

async fn list(State(api): State<Arc<Api>>) -> Answer<Vec<Revocation>> {
    blocking(&api, |app| Ok(app.registry.revocations()?)).await.map(Json)
}

async fn import(
    State(api): State<Arc<Api>>,
    Extension(by): Extension<Operator>,
    Input(ImportRevocations { revocations }): Input<ImportRevocations>,
) -> Answer<Imported> {
    blocking(&api, move |app| Ok(Imported { new: app.registry.import_revocations(revocations, by.name())? }))
        .await
        .map(Json)
}

/// Enrolls the holder of a card. A card proves the key, not that anybody here wants it: the agent waits for a word.
async fn import_card(
    State(api): State<Arc<Api>>,
    Extension(by): Extension<Operator>,
    Input(ImportCard { card, enrolment }): Input<ImportCard>,
) -> Answer<Agent> {
    let card = Card::verify(&card, Timestamp::now()).map_err(Failure::invalid)?;
    let enrolment = Enrolment { pending: true, ..enrolment };
    blocking(&api, move |app| Ok(app.registry.enroll_with(&card.address, card.key, enrolment, by.name())?))
        .await
        .map(Json)
}
