//! `/v1/shadows`.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};

use crate::api::peer::Operator;
use crate::api::server::{Answer, Api, Failure, Input, blocking};
use crate::api::types::{Adopt, Counts, ErrorKind, ServerView};
use crate::kernel::shadow::{ShadowError, ShadowSpawn};

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/v1/shadows", get(list))
        .route("/v1/shadows/{id}", get(show))
        .route("/v1/shadows/{id}/adopt", post(adopt))
        .route("/v1/shadows/{id}/release", post(release))
        .route("/v1/shadows/{id}/kill", post(kill))
        .route("/v1/shadows/{id}/deny", post(deny))
}

impl From<ShadowError> for Failure {
    fn from(error: ShadowError) -> Self {
        let kind = match &error {
            ShadowError::NotFound(_) => ErrorKind::NotFound,
            ShadowError::Ambiguous(_) => ErrorKind::Invalid,
            ShadowError::NothingHeld { .. } | ShadowError::NothingAlive { .. } => ErrorKind::Conflict,
            _ => ErrorKind::Failed,
        };
        Failure::new(kind, error.to_string())
    }
}

async fn list(State(api): State<Arc<Api>>) -> Answer<Vec<ShadowSpawn>> {
    blocking(&api, |app| Ok(app.shadows.list()?)).await.map(Json)
}

async fn show(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Answer<ShadowSpawn> {
    blocking(&api, move |app| Ok(app.shadows.get(&id)?)).await.map(Json)
}

async fn adopt(
    State(api): State<Arc<Api>>,
    Extension(by): Extension<Operator>,
    Path(id): Path<String>,
    Input(Adopt { name }): Input<Adopt>,
) -> Answer<ServerView> {
    blocking(&api, move |app| {
        let server = app.shadows.adopt(&id, name.as_deref(), by.name())?;
        Ok(ServerView::new(server, Counts::default(), None))
    })
    .await
    .map(Json)
}

async fn release(
    State(api): State<Arc<Api>>,
    Extension(by): Extension<Operator>,
    Path(id): Path<String>,
) -> Answer<ShadowSpawn> {
    blocking(&api, move |app| Ok(app.shadows.release(&id, by.name())?)).await.map(Json)
}

async fn kill(
    State(api): State<Arc<Api>>,
    Extension(by): Extension<Operator>,
    Path(id): Path<String>,
) -> Answer<ShadowSpawn> {
    blocking(&api, move |app| Ok(app.shadows.kill(&id, by.name())?)).await.map(Json)
}

async fn deny(
    State(api): State<Arc<Api>>,
    Extension(by): Extension<Operator>,
    Path(id): Path<String>,
) -> Answer<ShadowSpawn> {
    blocking(&api, move |app| {
        let shadow = app.shadows.deny(&id, by.name())?;
        // From now on its argv is evidence by itself.
        app.shadows.learn(&app.clients.current())?;
        Ok(shadow)
    })
    .await
    .map(Json)
}
