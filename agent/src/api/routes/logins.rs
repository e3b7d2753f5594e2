//! `/v1/servers/{name}/login`: a person logs the daemon in at a remote server.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::routing::post;
use axum::{Extension, Json, Router};
use url::{Host, Url};

use crate::admission::{AdmissionError, Remote, Server};
use crate::api::peer::Operator;
use crate::api::server::{Answer, Api, Failure, Input, blocking};
use crate::api::types::{BeginLogin, Done, FinishLogin, LoginBegun};
use crate::audit::{Entry, Kind, Outcome};
use crate::remote::oauth::OAuthError;

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/v1/servers/{name}/login", post(begin).delete(forget))
        .route("/v1/servers/{name}/login/answer", post(finish))
}

async fn server(api: &Arc<Api>, name: &str) -> Result<Server, Failure> {
    let name = name.to_owned();
    blocking(api, move |app| Ok(app.admission.get(&name)?.ok_or_else(|| AdmissionError::NoServer(name.clone()))?)).await
}

fn remote(server: &Server) -> Result<&Remote, Failure> {
    server.launch.remote().ok_or_else(|| {
        Failure::invalid(format!("cannot log in at {}: it is run here, and is no remote server", server.name))
    })
}

/// The answer of a login goes to a process of the person who asked for it, and to no other host.
fn is_loopback(redirect: &str) -> bool {
    let Ok(url) = Url::parse(redirect) else { return false };
    let own = match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        _ => false,
    };
    own && url.scheme() == "http"
}

async fn begin(
    State(api): State<Arc<Api>>,
    Extension(by): Extension<Operator>,
    Path(name): Path<String>,
    Input(BeginLogin { redirect }): Input<BeginLogin>,
) -> Answer<LoginBegun> {
    if !is_loopback(&redirect) {
        return Err(Failure::invalid(
            "cannot begin a login: its answer must come to this host, http://127.0.0.1:PORT/...",
        ));
    }
    let server = server(&api, &name).await?;
    let http = api.app.remotes.http(remote(&server)?);
    let url = api.app.remotes.credentials.begin(&http, &server, &redirect, by.name()).await.map_err(refused(&name))?;
    Ok(Json(LoginBegun { url }))
}

async fn finish(
    State(api): State<Arc<Api>>,
    Extension(by): Extension<Operator>,
    Path(name): Path<String>,
    Input(FinishLogin { answer }): Input<FinishLogin>,
) -> Answer<Done> {
    let server = server(&api, &name).await?;
    let http = api.app.remotes.http(remote(&server)?);
    let done = api.app.remotes.credentials.finish(&http, &server, &answer).await;
    record(&api, &name, by.name(), done.as_ref().err().map(ToString::to_string)).await?;
    done.map_err(refused(&name))?;
    // What failed for want of a login need not wait.
    api.app.hub.try_again(&name);
    Ok(Json(Done {}))
}

async fn forget(
    State(api): State<Arc<Api>>,
    Extension(by): Extension<Operator>,
    Path(name): Path<String>,
) -> Answer<Done> {
    let server = server(&api, &name).await?;
    remote(&server)?;
    blocking(&api, {
        let name = name.clone();
        move |app| app.remotes.credentials.forget(&name).map_err(Failure::failed)
    })
    .await?;
    api.app.hub.stop(&name).await;
    record(&api, &name, by.name(), Some("logged out".into())).await?;
    Ok(Json(Done {}))
}

fn refused(name: &str) -> impl Fn(OAuthError) -> Failure {
    move |error| Failure::failed(format!("cannot log in at {name}: {error}"))
}

/// That it happened, and never with what.
async fn record(api: &Arc<Api>, name: &str, by: &str, why: Option<String>) -> Result<(), Failure> {
    let outcome = if why.is_none() { Outcome::Ok } else { Outcome::Error };
    let reason = why.unwrap_or_else(|| "logged in".into());
    let outcome = if reason == "logged out" { Outcome::Ok } else { outcome };
    let entry = Entry::new(Kind::Admin, outcome, by).server(name).reason(reason);
    blocking(api, move |app| {
        app.audit.record(entry).map_err(Failure::failed)?;
        Ok(())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::is_loopback;

    #[test]
    fn an_answer_comes_to_this_host_only() {
        assert!(is_loopback("http://127.0.0.1:4711/callback") && is_loopback("http://[::1]:4711/callback"));
        for bad in
            ["https://127.0.0.1/", "http://evil.example/", "http://localhost/", "http://127.0.0.1@evil.example/", ""]
        {
            assert!(!is_loopback(bad), "{bad}");
        }
    }
}
