//! `/v1/clients`: the configs of MCP clients, and what was done to them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::admission::clients;
use crate::admission::install::ClientChange;
use crate::api::peer::Operator;
use crate::api::server::{Answer, Api, Failure, Input, blocking};
use crate::api::types::{AddConfigured, Counts, Done, ErrorKind, ServerView};
use crate::audit::{Entry, Kind, Outcome};
use crate::daemon::App;
use crate::store::StoreError;

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/v1/clients", get(scan))
        .route("/v1/clients/adopt", post(adopt))
        .route("/v1/clients/change", get(changed).post(installed).delete(removed))
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Failure::failed(error)
    }
}

/// The scan, read anew: whoever asks may have just changed something.
async fn scan(State(api): State<Arc<Api>>) -> Answer<Value> {
    blocking(&api, |app| serde_json::to_value(&*app.clients.rescan()).map_err(Failure::failed)).await.map(Json)
}

/// Makes a quarantined server of an entry.
async fn adopt(
    State(api): State<Arc<Api>>,
    Extension(by): Extension<Operator>,
    Input(input): Input<AddConfigured>,
) -> Answer<ServerView> {
    blocking(&api, move |app| {
        let scan = app.clients.rescan();
        let invalid = |e: clients::EntryError| Failure::new(ErrorKind::Invalid, e.to_string());
        let (file, entry) = clients::find(&scan, &input.entry).map_err(invalid)?;
        let home = file.home.as_deref().unwrap_or(Path::new("/"));
        let mut launch = entry.definition(home, &input.leave).map_err(invalid)?;
        if launch.remote().is_some() && !(input.mounts.is_empty() && input.egress.is_empty()) {
            let why = format!("cannot loosen the cage of {}: a remote server has none here", input.name);
            return Err(Failure::new(ErrorKind::Invalid, why));
        }
        launch.mounts.extend(input.mounts);
        launch.egress = input.egress;
        launch.isolation = input.isolation;
        launch.secrets.retain(|name| !input.env.contains_key(name));
        launch.secrets.extend(input.secrets);
        launch.env.extend(input.env);
        let origin = format!("{} in {}", entry.name, file.path.display());
        let server = app.admission.add(&input.name, launch, &origin, by.name())?;
        Ok(ServerView {
            login: app.remotes.credentials.view(&server).map_err(Failure::failed)?,
            ..ServerView::new(server, Counts::default(), None)
        })
    })
    .await
    .map(Json)
}

#[derive(Deserialize)]
struct Of {
    path: PathBuf,
}

impl Of {
    fn key(&self) -> String {
        self.path.display().to_string()
    }
}

/// What an installation took out of a config, so that it can be put back.
async fn changed(State(api): State<Arc<Api>>, Query(of): Query<Of>) -> Answer<Option<ClientChange>> {
    blocking(&api, move |app| Ok(app.store.get(&of.key())?)).await.map(Json)
}

async fn installed(
    State(api): State<Arc<Api>>,
    Extension(by): Extension<Operator>,
    Input(change): Input<ClientChange>,
) -> Answer<Done> {
    blocking(&api, move |app| {
        app.store.put(&change)?;
        let moved: Vec<&str> = change.removed.iter().map(|cut| cut.name.as_str()).collect();
        let detail = json!({"client": change.client, "path": change.path, "moved": moved});
        record(
            app,
            Entry::new(Kind::Admin, Outcome::Ok, by.name())
                .agent(&change.agent)
                .reason("client installed")
                .detail(detail),
        )
    })
    .await
    .map(Json)
}

async fn removed(
    State(api): State<Arc<Api>>,
    Extension(by): Extension<Operator>,
    Query(of): Query<Of>,
) -> Answer<Done> {
    blocking(&api, move |app| {
        app.store.delete::<ClientChange>(&of.key())?;
        let detail = json!({"path": of.path});
        record(app, Entry::new(Kind::Admin, Outcome::Ok, by.name()).reason("client removed").detail(detail))
    })
    .await
    .map(Json)
}

fn record(app: &App, entry: Entry) -> Result<Done, Failure> {
    app.audit.record(entry)?;
    app.clients.rescan();
    Ok(Done {})
}
