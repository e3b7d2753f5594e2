//! The handshakes of both eras, and which of them a request belongs to.

use crate::config::Expose;
use crate::proxy::door::Announced;
use crate::proxy::envelope::{self, error_object};
use crate::proxy::json::Json;
use crate::proxy::versions;

/// For how long a client may keep what the door says of itself.
const DISCOVER_TTL_MS: u64 = 60_000;

/// How a request says which protocol it speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Era {
    /// 2025-11-25 and before: by `initialize`, once for the connection.
    Handshake,
    /// 2026-07-28: each request by itself, in its `_meta`.
    Stateless,
}

impl Era {
    /// Judges one request by itself, so that a client may try one era and fall back to the other.
    pub(super) fn of(method: &str, params: Option<&Json>, initialized: Option<&str>) -> Result<Era, Json> {
        let meta = params.and_then(|params| params.get("_meta"));
        let version = meta.and_then(|meta| meta.get(versions::META_VERSION));
        let capabilities = meta.and_then(|meta| meta.get(versions::META_CAPABILITIES));
        if method == "initialize" {
            return Ok(Era::Handshake);
        }
        match version {
            None if method == "server/discover" => Err(missing(versions::META_VERSION)),
            None if initialized.is_some() || method == "ping" => Ok(Era::Handshake),
            None => Err(error_object(
                envelope::INVALID_REQUEST,
                format!("{method} came before `initialize`; send that first, or name the protocol version in `_meta`"),
                None,
            )),
            Some(Json::String(version)) if !versions::STATELESS.contains(&version.value.as_str()) => {
                let data = Json::object([
                    ("supported", Json::Array(versions::STATELESS.map(Json::string).into())),
                    ("requested", Json::String(version.clone())),
                ]);
                Err(error_object(envelope::UNSUPPORTED_VERSION, "Unsupported protocol version", Some(data)))
            }
            Some(Json::String(_)) if capabilities.is_some_and(|c| c.as_object().is_some()) => Ok(Era::Stateless),
            Some(Json::String(_)) => Err(missing(versions::META_CAPABILITIES)),
            Some(_) => Err(missing(versions::META_VERSION)),
        }
    }

    /// Adds what a result must carry in this era and does not yet.
    pub(super) fn complete(self, mut result: Json) -> Json {
        if self == Era::Stateless && result.get("resultType").is_none() {
            result.set("resultType", Json::string("complete"));
        }
        result
    }
}

fn missing(key: &str) -> Json {
    error_object(envelope::INVALID_PARAMS, format!("`params._meta` must carry {key:?} in its right shape"), None)
}

pub(super) fn discover(expose: Expose, announced: Announced) -> Json {
    let meta = Json::object([(versions::META_SERVER_INFO, versions::implementation())]);
    Era::Stateless.complete(Json::object([
        ("supportedVersions", Json::Array(versions::STATELESS.map(Json::string).into())),
        ("capabilities", capabilities(Era::Stateless, expose, announced)),
        ("instructions", Json::string(instructions(expose))),
        ("ttlMs", Json::number(DISCOVER_TTL_MS)),
        ("cacheScope", Json::string("private")),
        ("_meta", meta),
    ]))
}

/// The version that is spoken from now on, and the answer to `initialize`.
pub(super) fn initialize(params: Option<&Json>, expose: Expose, announced: Announced) -> (&'static str, Json) {
    let asked = params.and_then(|params| params.get("protocolVersion")).and_then(Json::as_str);
    let version =
        versions::HANDSHAKE.into_iter().find(|known| Some(*known) == asked).unwrap_or(versions::LATEST_HANDSHAKE);
    let result = Json::object([
        ("protocolVersion", Json::string(version)),
        ("capabilities", capabilities(Era::Handshake, expose, announced)),
        ("serverInfo", versions::implementation()),
        ("instructions", Json::string(instructions(expose))),
    ]);
    (version, result)
}

/// Beside tools, what at least one server has that the agent may use. Nobody can subscribe to anything, so that no
/// subscription is offered; that a list changed is told to those who shook hands.
fn capabilities(era: Era, expose: Expose, announced: Announced) -> Json {
    let nothing = || Json::object::<&str>([]);
    let list = |tells: bool| match era {
        Era::Handshake => Json::object([("listChanged", Json::Bool(tells))]),
        Era::Stateless => nothing(),
    };
    let mut all = Json::object([("tools", list(expose == Expose::Direct))]);
    if announced.prompts {
        all.set("prompts", list(true));
    }
    if announced.resources {
        all.set("resources", list(true));
    }
    if announced.completions {
        all.set("completions", nothing());
    }
    if announced.logging {
        all.set("logging", nothing());
    }
    all
}

fn instructions(expose: Expose) -> &'static str {
    match expose {
        Expose::Search => {
            "Lazaret is the one door to every MCP tool that is approved on this host. Look for a tool with search_tools \
             (say in a few words what it should do), read its input schema with describe_tool, and call it with call_tool."
        }
        Expose::Direct => {
            "Lazaret is the one door to every MCP tool that is approved on this host. \
             Tools are listed as server__tool; the list changes when approvals change."
        }
    }
}
