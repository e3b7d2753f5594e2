//! The requests of the operators' API, one file per noun.

mod agents;
mod asks;
mod audit;
mod clients;
mod inventory;
mod logins;
mod policy;
mod search;
mod servers;
mod shadows;
mod status;
mod tokens;
mod tools;

use std::sync::Arc;

use axum::Router;

use super::server::Api;

pub(super) fn all() -> Router<Arc<Api>> {
    Router::new()
        .merge(agents::routes())
        .merge(asks::routes())
        .merge(audit::routes())
        .merge(clients::routes())
        .merge(inventory::routes())
        .merge(logins::routes())
        .merge(policy::routes())
        .merge(search::routes())
        .merge(servers::routes())
        .merge(shadows::routes())
        .merge(status::routes())
        .merge(tokens::routes())
        .merge(tools::routes())
}
