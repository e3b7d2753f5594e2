//! `/v1/status`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use jiff::Timestamp;

use crate::admission::{ConfigChange, Server};
use crate::api::server::{Answer, Api, Failure, blocking};
use crate::api::types::{Counts, StatusView};
use crate::daemon::App;
use crate::proxy::hub::Holder;
use crate::sandbox::{DockerInfo, SandboxError};

/// Changes of client configs that are shown.
const MOST_CHANGES: usize = 20;

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new().route("/v1/status", get(status))
}

async fn status(State(api): State<Arc<Api>>) -> Answer<StatusView> {
    let docker = api.app.sandbox.info().await;
    blocking(&api, move |app| view(app, docker)).await.map(Json)
}

fn view(app: &App, docker: Result<DockerInfo, SandboxError>) -> Result<StatusView, Failure> {
    let servers = app.admission.list()?;
    let mut tools = Vec::new();
    for server in &servers {
        tools.extend(app.admission.tools(&server.name)?.into_iter().map(|tool| tool.state));
    }
    let scan = app.clients.current();
    let (docker, docker_error) = match docker {
        Ok(info) => (json(&info)?, None),
        Err(e) => (serde_json::Value::Null, Some(e.to_string())),
    };
    let now = Timestamp::now();
    Ok(StatusView {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        instance: app.paths.instance(),
        pid: std::process::id(),
        started: app.started,
        uptime_secs: now.as_second() - app.started.as_second(),
        mode: app.config.kernel.mode,
        scope: app.config.kernel.scope.to_string(),
        kernel: json(&app.kernel.report())?,
        docker,
        docker_error,
        servers: Counts::of(servers.iter().map(|server: &Server| server.state)),
        tools: Counts::of(tools),
        callable_tools: app.admission.approved_tools()?.len(),
        running: app.hub.running_for().into_iter().map(running).collect(),
        agents: count(app.registry.list()?.iter().map(|agent| agent.state.to_string())),
        shadows: count(app.shadows.list()?.iter().map(|shadow| word(&shadow.state))),
        around_the_door: scan.files.iter().flat_map(|file| &file.servers).filter(|s| !s.door && !s.disabled).count(),
        client_configs: scan.files.len(),
        client_errors: scan.files.iter().filter_map(|file| file.error.clone()).chain(scan.warnings.clone()).collect(),
        config_changes: changes(app)?,
        rates: app.gates.rates(),
        policy: json(&app.gates.policies())?,
        asks: app.gates.asks().list().0.len(),
        provider: app.config.identity.provider.clone(),
        config: app.paths.config.clone(),
        state_dir: app.paths.state_dir.clone(),
        mcp_socket: app.paths.mcp_socket(),
        admin_socket: app.paths.admin_socket(),
        http_url: app.http_url.clone(),
        tokens: app.tokens.list(&app.registry).len(),
        daemon_did: app.daemon_key.public().did(),
        daemon_fingerprint: app.daemon_key.public().fingerprint_raw(),
    })
}

/// The newest first, each with a sentence for people.
fn changes(app: &App) -> Result<Vec<serde_json::Value>, Failure> {
    let shown = |change: &Arc<ConfigChange>| {
        let mut value = json(&**change)?;
        value["summary"] = change.to_string().into();
        Ok(value)
    };
    app.clients.recent_changes().iter().rev().take(MOST_CHANGES).map(shown).collect()
}

fn json(value: &impl serde::Serialize) -> Result<serde_json::Value, Failure> {
    serde_json::to_value(value).map_err(Failure::failed)
}

/// A unit variant as its JSON name.
fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        _ => String::new(),
    }
}

fn count(words: impl Iterator<Item = String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for word in words {
        *counts.entry(word).or_default() += 1;
    }
    counts
}

/// The name says whose it is, where that is not everybody.
fn running((name, holder, container): (String, Holder, String)) -> (String, String) {
    match holder {
        Holder::Everybody => (name, container),
        holder => (format!("{name} for {holder}"), container),
    }
}
