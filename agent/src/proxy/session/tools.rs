//! The door's own tools: find a tool, read about it, call it.

use serde_json::json;

use super::listing;
use super::methods::Era;
use crate::config::Expose;
use crate::identity::SessionIdentity;
use crate::proxy::door::Door;
use crate::proxy::envelope;
use crate::proxy::json::Json;

pub(super) const SEARCH: &str = "search_tools";
pub(super) const DESCRIBE: &str = "describe_tool";
pub(super) const CALL: &str = "call_tool";

const DEFAULT_HITS: usize = 10;
const MAX_HITS: usize = 50;
/// What is read of a query, in bytes: more words find nothing more.
const MAX_QUERY: usize = 4 << 10;

pub(super) fn descriptors() -> Vec<Json> {
    let target = json!({
        "server": { "type": "string", "description": "The server's name, as search_tools gives it" },
        "tool": { "type": "string", "description": "The tool's name, as search_tools gives it" },
    });
    let mut call = target.clone();
    call["arguments"] = json!({
        "type": "object",
        "description": "The tool's own arguments, by the inputSchema that describe_tool gives",
        "additionalProperties": true,
    });
    let tools = json!([
        {
            "name": SEARCH,
            "title": "Search tools",
            "description": "Finds tools by what they do, among all MCP tools that are approved on this host. Use it first: no other \
                tools are listed. Write a few words about the task (\"read a file\", \"current time in a city\"). Gives the best \
                matches with their server, name and what they do; nothing found means that no approved tool matches.",
            "inputSchema": {
                "type": "object",
                "properties": {
                    "query": { "type": "string", "description": "What the tool should do, in a few words" },
                    "limit": { "type": "integer", "minimum": 1, "maximum": MAX_HITS, "description": "How many matches to give at most (10)" },
                },
                "required": ["query"],
                "additionalProperties": false,
            },
            "outputSchema": {
                "type": "object",
                "properties": {
                    "tools": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "properties": {
                                "server": { "type": "string" },
                                "tool": { "type": "string" },
                                "description": { "type": "string" },
                                "score": { "type": "number" },
                            },
                            "required": ["server", "tool", "description", "score"],
                        },
                    },
                },
                "required": ["tools"],
            },
            "annotations": { "readOnlyHint": true, "openWorldHint": false },
        },
        {
            "name": DESCRIBE,
            "title": "Describe a tool",
            "description": "Gives the full description of one tool that search_tools found, as its server wrote it: description, \
                inputSchema, outputSchema and annotations. Read it before the first call of a tool.",
            "inputSchema": {
                "type": "object",
                "properties": target,
                "required": ["server", "tool"],
                "additionalProperties": false,
            },
            "annotations": { "readOnlyHint": true, "openWorldHint": false },
        },
        {
            "name": CALL,
            "title": "Call a tool",
            "description": "Calls one tool that search_tools found and gives back its result unchanged. The call is checked against \
                this host's policy and written down; a call that is not permitted comes back as an error that says why.",
            "inputSchema": {
                "type": "object",
                "properties": call,
                "required": ["server", "tool"],
                "additionalProperties": false,
            },
            "annotations": { "openWorldHint": true },
        },
    ]);
    tools.as_array().map(|tools| tools.iter().map(Json::from_value).collect()).unwrap_or_default()
}

/// Which tool an agent means: `server` and `tool`, or one `name` that holds both.
pub(super) fn target(arguments: &Json) -> Result<(String, String), &'static str> {
    if envelope::look_alike(arguments, &["server", "tool", "name", "arguments"]) {
        return Err("a member is spelt almost like `server`, `tool` or `arguments`; spell it so, or leave it away");
    }
    let text = |key| arguments.get(key).and_then(Json::as_str);
    match (text("server"), text("tool"), text("name")) {
        (Some(server), Some(tool), _) => Ok((server.to_owned(), tool.to_owned())),
        (None, None, Some(name)) => match listing::split(name) {
            Some((server, tool)) => Ok((server.to_owned(), tool.to_owned())),
            None => Err("`name` must be server__tool"),
        },
        _ => Err("`server` and `tool` must be strings, as search_tools gives them"),
    }
}

pub(super) fn search(door: &Door, identity: &SessionIdentity, arguments: &Json, era: Era) -> Json {
    let Some(query) = arguments.get("query").and_then(Json::as_str).filter(|query| !query.trim().is_empty()) else {
        return refusal("`query` must be a text that says what the tool should do.", era);
    };
    let query = &query[..query.floor_char_boundary(MAX_QUERY)];
    let limit = match arguments.get("limit") {
        None => DEFAULT_HITS,
        Some(limit) => match limit.as_u64() {
            Some(limit @ 1..=50) => limit as usize,
            _ => return refusal("`limit` must be a whole number from 1 to 50.", era),
        },
    };
    let found = match door.sight(identity) {
        // The index may be a moment behind the approvals; what is asked here never is.
        Ok(sight) => door.index.search(query, limit, |server, tool| sight.has(server, tool)).map_err(|e| e.to_string()),
        Err(e) => Err(e.to_string()),
    };
    match found {
        Ok(hits) => {
            let hits: Vec<_> = hits
                .into_iter()
                .map(|hit| {
                    // More digits mean nothing and cost tokens.
                    let score = (f64::from(hit.score) * 100.0).round() / 100.0;
                    json!({ "server": hit.server, "tool": hit.tool, "description": hit.summary, "score": score })
                })
                .collect();
            structured(Json::from_value(&json!({ "tools": hits })), era)
        }
        Err(e) => {
            tracing::error!("a search failed: {e}");
            refusal("The search failed. Ask the operator to look at `lazaret status`.", era)
        }
    }
}

pub(super) fn describe(door: &Door, identity: &SessionIdentity, arguments: &Json, era: Era) -> Json {
    let (server, tool) = match target(arguments) {
        Ok(target) => target,
        Err(why) => return refusal(&format!("{why}."), era),
    };
    let sight = match door.sight(identity) {
        Ok(sight) => sight,
        Err(e) => {
            tracing::error!("the approved tools cannot be read: {e}");
            return refusal("The approved tools cannot be read. Ask the operator to look at `lazaret status`.", era);
        }
    };
    match sight.get(&server, &tool) {
        Some(descriptor) => structured(descriptor.clone(), era),
        None => not_found(door, &server, &tool, era),
    }
}

/// The same whether there is no such thing or the agent may not know of it.
pub(super) fn not_found(door: &Door, server: &str, tool: &str, era: Era) -> Json {
    let short = |text: &str| text[..text.floor_char_boundary(128)].to_owned();
    let (server, tool) = (short(server), short(tool));
    let next = match door.config.expose {
        Expose::Search => "use search_tools to see which tools there are",
        Expose::Direct => "list the tools again to see which there are",
    };
    refusal(&format!("Tool {tool:?} of server {server:?} was not found; {next}."), era)
}

/// The value as text, for models, and as itself, for programs.
fn structured(value: Json, era: Era) -> Json {
    let text = Json::object([("type", Json::string("text")), ("text", Json::string(value.to_text()))]);
    era.complete(Json::object([("content", Json::Array(vec![text])), ("structuredContent", value)]))
}

/// A tool result that says why there is none, and what to do.
pub(super) fn refusal(text: &str, era: Era) -> Json {
    let text = Json::object([("type", Json::string("text")), ("text", Json::string(text))]);
    era.complete(Json::object([("content", Json::Array(vec![text])), ("isError", Json::Bool(true))]))
}
