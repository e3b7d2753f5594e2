//! `/v1/servers`: entries, reviews and decisions.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use serde::Deserialize;

use crate::admission::former::pinned;
use crate::admission::review::Again;
use crate::admission::{AdmissionError, Isolation, Server, Source, review};
use crate::api::peer::Operator;
use crate::api::server::{Answer, Api, Failure, Input, Reporter, blocking, long_work};
use crate::api::types::{
    AddServer, ApproveServer, Counts, Done, ErrorKind, Logs, Pinned, ReviewDiff, ReviewServer, ServerView, Why,
};
use crate::daemon::App;
use crate::proxy::UpstreamLimits;

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/v1/servers", get(list).post(add))
        .route("/v1/servers/{name}", get(show).delete(remove))
        .route("/v1/servers/{name}/review", post(start_review))
        .route("/v1/servers/{name}/approve", post(approve))
        .route("/v1/servers/{name}/deny", post(deny))
        .route("/v1/servers/{name}/diff", get(diff))
        .route("/v1/servers/{name}/logs", get(logs))
}

fn view(app: &App, server: Server) -> Result<ServerView, Failure> {
    let tools = Counts::of(app.admission.tools(&server.name)?.into_iter().map(|tool| tool.state));
    let container = app.hub.running().into_iter().find(|(name, _)| *name == server.name).map(|(_, id)| id);
    let login = app.remotes.credentials.view(&server).map_err(Failure::failed)?;
    Ok(ServerView { login, ..ServerView::new(server, tools, container) })
}

fn require(app: &App, name: &str) -> Result<Server, Failure> {
    Ok(app.admission.get(name)?.ok_or_else(|| AdmissionError::NoServer(name.to_owned()))?)
}

async fn list(State(api): State<Arc<Api>>) -> Answer<Vec<ServerView>> {
    blocking(&api, |app| app.admission.list()?.into_iter().map(|server| view(app, server)).collect()).await.map(Json)
}

async fn show(State(api): State<Arc<Api>>, Path(name): Path<String>) -> Answer<ServerView> {
    blocking(&api, move |app| view(app, require(app, &name)?)).await.map(Json)
}

async fn add(
    State(api): State<Arc<Api>>,
    Extension(by): Extension<Operator>,
    Input(input): Input<AddServer>,
) -> Answer<ServerView> {
    blocking(&api, move |app| view(app, app.admission.add(&input.name, input.launch, "operator", by.name())?))
        .await
        .map(Json)
}

/// Its container goes first, so that its image can; a call that comes in between starts it anew,
/// and that one goes after the entry. An image that the operator named is not ours to remove.
async fn remove(
    State(api): State<Arc<Api>>,
    Extension(by): Extension<Operator>,
    Path(name): Path<String>,
) -> Answer<Done> {
    let busy = api.begin(&name)?;
    api.app.hub.stop(&name).await;
    let server = blocking(&api, {
        let name = name.clone();
        move |app| {
            let server = require(app, &name)?;
            app.admission.remove(&name, by.name())?;
            Ok(server)
        }
    })
    .await?;
    api.app.hub.stop(&name).await;
    api.app.hub.forget(&name);
    if let Err(e) = api.app.remotes.credentials.forget(&name) {
        tracing::error!(server = name, "its login stays in the state: {e}");
    }
    let ours = !matches!(server.launch.source, Source::Image { .. } | Source::Remote(_));
    if let Some(review) = server.review.filter(|_| ours)
        && let Err(e) = api.app.sandbox.remove_image(&review.image_id).await
    {
        tracing::info!(server = name, "its image stays: {e}");
    }
    drop(busy);
    Ok(Json(Done {}))
}

async fn start_review(
    State(api): State<Arc<Api>>,
    Extension(by): Extension<Operator>,
    Path(name): Path<String>,
    Input(ReviewServer { again }): Input<ReviewServer>,
) -> Result<Response, Failure> {
    let busy = api.begin(&name)?;
    Ok(long_work(move |reporter| async move {
        let server = run_review(&api, &name, again, by.name(), &reporter).await?;
        drop(busy);
        blocking(&api, move |app| view(app, server)).await
    }))
}

async fn run_review(
    api: &Arc<Api>,
    name: &str,
    again: Again,
    by: &str,
    reporter: &Reporter,
) -> Result<Server, Failure> {
    let app = &api.app;
    let progress = |text: &str| reporter.step(text);
    let limits = UpstreamLimits::of(&app.config);
    let last_words = |container: &str, stderr: &_, why| app.hub.keep_words_of_review(name, container, stderr, why);
    review::review(&app.sandbox, &app.remotes, &app.admission, limits, name, again, by, &progress, &last_words)
        .await
        .map_err(Failure::failed)
}

/// Approves what was shown, and starts it, so that the first call need not wait for it; where each
/// agent or session has its own, nobody knows yet whose to start.
async fn approve(
    State(api): State<Arc<Api>>,
    Extension(by): Extension<Operator>,
    Path(name): Path<String>,
    Input(ApproveServer { pin, start, why }): Input<ApproveServer>,
) -> Result<Response, Failure> {
    let busy = api.begin(&name)?;
    Ok(long_work(move |reporter| async move {
        let server = blocking(&api, {
            let name = name.clone();
            move |app| {
                Ok(app.admission.approve_because(
                    &name,
                    by.name(),
                    pin.as_deref(),
                    why.as_deref().unwrap_or("approved"),
                )?)
            }
        })
        .await?;
        if start && server.launch.isolation == Isolation::Shared {
            reporter.step(&match server.launch.remote() {
                Some(remote) => format!("approved; connecting to {}", remote.url()),
                None => format!("approved; starting {name} in its cage"),
            });
            api.app.hub.upstream(&server).await.map_err(|e| {
                Failure::new(ErrorKind::Failed, format!("{name} is approved, but it did not start: {e}"))
            })?;
        }
        drop(busy);
        // It may have gone back into quarantine at its start.
        blocking(&api, move |app| view(app, require(app, &name)?)).await
    }))
}

async fn deny(
    State(api): State<Arc<Api>>,
    Extension(by): Extension<Operator>,
    Path(name): Path<String>,
    Input(Why { why }): Input<Why>,
) -> Answer<ServerView> {
    let denied = blocking(&api, {
        let name = name.clone();
        move |app| Ok(app.admission.deny(&name, by.name(), &why)?)
    })
    .await?;
    api.app.hub.stop(&name).await;
    blocking(&api, move |app| view(app, denied)).await.map(Json)
}

/// What the newest review found, and what was approved before it.
async fn diff(State(api): State<Arc<Api>>, Path(name): Path<String>) -> Answer<ReviewDiff> {
    blocking(&api, move |app| {
        let former = app.admission.former(&name)?;
        let server = require(app, &name)?;
        let review = server.review.ok_or_else(|| AdmissionError::NotReviewed(name.clone()))?;
        let tools: Vec<String> = app.admission.tools(&name)?.into_iter().map(|tool| tool.descriptor).collect();
        let newest = Pinned { pinned: pinned(&server.launch, &review, &tools), pin: review.pin, at: review.at };
        let approved = former.map(|former| Pinned {
            pinned: pinned(&former.launch, &former.review, &former.tools),
            pin: former.review.pin,
            at: former.review.at,
        });
        Ok(ReviewDiff { approved, newest })
    })
    .await
    .map(Json)
}

#[derive(Deserialize)]
struct Tail {
    tail: usize,
}

/// Of the containers that run, and of those that ended last.
async fn logs(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    Query(Tail { tail }): Query<Tail>,
) -> Answer<Logs> {
    blocking(&api, move |app| {
        require(app, &name)?;
        Ok(Logs::of(app.hub.logs(&name, tail)))
    })
    .await
    .map(Json)
}
