//! `tools/list`.

use super::methods::Era;
use super::{routing, tools};
use crate::config::Expose;
use crate::identity::SessionIdentity;
use crate::proxy::door::{Door, Sight};
use crate::proxy::envelope::{self, Reply};
use crate::proxy::json::Json;
use crate::proxy::versions;

/// For how long a client may keep the list: approvals change at any time.
const DIRECT_TTL_MS: u64 = 0;
/// The door's own tools change with its release only.
const SEARCH_TTL_MS: u64 = 60_000;

/// Between a server and its tool, where both are one name. No server has it in its name.
pub(super) const SEPARATOR: &str = "__";

pub(super) fn list(door: &Door, identity: &SessionIdentity, params: Option<&Json>, era: Era) -> Reply {
    if params.and_then(|params| params.get("cursor")).is_some() {
        return Reply::error(envelope::INVALID_PARAMS, "this list has one page; leave `cursor` away");
    }
    let (tools, ttl) = match door.config.expose {
        Expose::Search => (tools::descriptors(), SEARCH_TTL_MS),
        Expose::Direct => match door.sight(identity) {
            Ok(sight) => (direct(&sight, door.config.prefix), DIRECT_TTL_MS),
            Err(e) => {
                tracing::error!("the approved tools cannot be read: {e}");
                return Reply::error(
                    envelope::INTERNAL_ERROR,
                    "the approved tools cannot be read; ask the operator to look at `lazaret status`",
                );
            }
        },
    };
    Reply::Result(page(era, "tools", tools, ttl))
}

/// A list of one page.
pub(super) fn page(era: Era, member: &str, items: Vec<Json>, ttl: u64) -> Json {
    let mut result = Json::object([(member, Json::Array(items))]);
    if era == Era::Stateless {
        result.set("ttlMs", Json::number(ttl));
        result.set("cacheScope", Json::string("private"));
        result.set("_meta", Json::object([(versions::META_SERVER_INFO, versions::implementation())]));
    }
    era.complete(result)
}

/// Each tool that the agent may see as its server describes it, only the name is another.
fn direct(sight: &Sight, prefix: bool) -> Vec<Json> {
    let names = routing::shown(prefix, sight.iter().map(|(server, tool, _)| (server, tool)));
    let renamed = |(name, (server, tool)): (String, (&str, &str))| {
        let mut descriptor = sight.get(server, tool)?.clone();
        descriptor.set("name", Json::string(name));
        Some(descriptor)
    };
    names.into_iter().filter_map(renamed).collect()
}

pub(super) fn join(server: &str, tool: &str) -> String {
    format!("{server}{SEPARATOR}{tool}")
}

pub(super) fn split(name: &str) -> Option<(&str, &str)> {
    name.split_once(SEPARATOR).filter(|(server, tool)| !server.is_empty() && !tool.is_empty())
}
