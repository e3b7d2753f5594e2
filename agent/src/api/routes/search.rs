//! `/v1/search`: what an agent's `search_tools` would find.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;

use crate::api::server::{Answer, Api, Failure, blocking};
use crate::api::types::{ErrorKind, HitView, ReasonView};
use crate::identity::{Address, AgentState};
use crate::search::{Hit, Reason};

const MOST: usize = 100;

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new().route("/v1/search", get(search))
}

#[derive(Deserialize)]
struct Wanted {
    q: String,
    limit: usize,
    agent: Option<String>,
    #[serde(default)]
    explain: bool,
}

/// The index holds callable tools only; an agent that may not call finds nothing.
async fn search(State(api): State<Arc<Api>>, Query(wanted): Query<Wanted>) -> Answer<Vec<HitView>> {
    let agent: Option<Address> = wanted.agent.map(|text| text.parse()).transpose().map_err(Failure::invalid)?;
    blocking(&api, move |app| {
        let agent = agent.map(|address| app.registry.require(&address)).transpose()?;
        if let Some(agent) = &agent {
            let address = &agent.address;
            if agent.state != AgentState::Active {
                let text = format!("cannot search as {address}: it is {}, so that it finds nothing", agent.state);
                return Err(Failure::new(ErrorKind::Conflict, text));
            }
        }
        let limit = wanted.limit.clamp(1, MOST);
        let hits = app
            .index
            .search(&wanted.q, limit, |server, tool| agent.as_ref().is_none_or(|agent| agent.may_call(server, tool)))
            .map_err(Failure::failed)?;
        let explained =
            if wanted.explain { app.index.explain(&wanted.q, limit).map_err(Failure::failed)? } else { Vec::new() };
        Ok(hits.into_iter().map(|hit| view(hit, &explained)).collect())
    })
    .await
    .map(Json)
}

fn view(hit: Hit, explained: &[(String, String, Vec<Reason>)]) -> HitView {
    let reasons = explained.iter().find(|(server, tool, _)| *server == hit.server && *tool == hit.tool);
    let reason =
        |reason: &Reason| ReasonView { word: reason.word.clone(), field: reason.field.clone(), score: reason.score };
    HitView {
        reasons: reasons.map(|(_, _, reasons)| reasons.iter().map(reason).collect()),
        server: hit.server,
        tool: hit.tool,
        score: hit.score,
        summary: hit.summary,
    }
}
