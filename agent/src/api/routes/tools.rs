//! `/v1/tools`: tools of all servers, and the decisions on each.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use serde::Deserialize;

use crate::admission::AdmissionError;
use crate::api::peer::Operator;
use crate::api::server::{Answer, Api, Failure, Input, blocking};
use crate::api::types::{DecideTool, ErrorKind, ToolView};
use crate::daemon::App;

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new().route("/v1/tools", get(list)).route("/v1/tools/decide", post(decide))
}

impl From<AdmissionError> for Failure {
    fn from(error: AdmissionError) -> Self {
        let kind = match &error {
            AdmissionError::NoServer(_) | AdmissionError::NoTool { .. } => ErrorKind::NotFound,
            AdmissionError::Name(_) => ErrorKind::Invalid,
            AdmissionError::Store(_) | AdmissionError::Audit(_) => ErrorKind::Failed,
            _ => ErrorKind::Conflict,
        };
        Failure::new(kind, error.to_string())
    }
}

#[derive(Deserialize)]
struct Of {
    server: Option<String>,
    tool: Option<String>,
}

/// All tools, those of one server, or one tool; naming what is not there is an error.
async fn list(State(api): State<Arc<Api>>, Query(of): Query<Of>) -> Answer<Vec<ToolView>> {
    blocking(&api, move |app| {
        let names = match &of.server {
            Some(server) => vec![app.admission.get(server)?.ok_or_else(|| AdmissionError::NoServer(server.clone()))?],
            None => app.admission.list()?,
        };
        let mut views = Vec::new();
        for server in names {
            let active = server.is_active();
            views.extend(app.admission.tools(&server.name)?.into_iter().map(|tool| ToolView::new(tool, active)));
        }
        if let Some(name) = of.tool {
            views.retain(|view| view.name == name);
            if views.is_empty() {
                return Err(AdmissionError::NoTool { server: of.server.unwrap_or_default(), tool: name }.into());
            }
        }
        Ok(views)
    })
    .await
    .map(Json)
}

async fn decide(
    State(api): State<Arc<Api>>,
    Extension(by): Extension<Operator>,
    Input(input): Input<DecideTool>,
) -> Answer<ToolView> {
    blocking(&api, move |app| {
        let expected = input.digest.as_deref();
        let tool = app.admission.set_tool(&input.server, &input.tool, input.to, expected, by.name(), &input.why)?;
        Ok(ToolView::new(tool, is_active(app, &input.server)?))
    })
    .await
    .map(Json)
}

fn is_active(app: &App, server: &str) -> Result<bool, Failure> {
    Ok(app.admission.get(server)?.is_some_and(|server| server.is_active()))
}
