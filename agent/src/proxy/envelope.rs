//! The first gate: strict JSON-RPC 2.0 as MCP uses it.
//!
//! Whatever a typed reader might take for something else is refused here: batches, null or
//! fractional ids, two of method/result/error, duplicate members, known methods in another shape.
//! A method that is not exactly a known name is an unknown method, never a known one.

mod hint;

use super::json::{Json, JsonError};

pub const PARSE_ERROR: i32 = -32700;
pub const INVALID_REQUEST: i32 = -32600;
pub const METHOD_NOT_FOUND: i32 = -32601;
pub const INVALID_PARAMS: i32 = -32602;
pub const INTERNAL_ERROR: i32 = -32603;
/// MCP 2026-07-28 over HTTP: the headers do not say what the body says.
pub const HEADER_MISMATCH: i32 = -32020;
/// MCP 2026-07-28: the server needs something of the client that the request did not offer.
pub const MISSING_CAPABILITY: i32 = -32021;
/// MCP 2026-07-28: the request's protocol version is not served.
pub const UNSUPPORTED_VERSION: i32 = -32022;
/// Of the range for implementations: the agent was shut out while the request was worked on.
pub const NO_LONGER_PERMITTED: i32 = -32001;
/// 2025-11-25 and before: there is no such resource; in 2026-07-28 that is an invalid parameter.
pub const NO_RESOURCE: i32 = -32002;
/// Of the range for implementations: a gate of the door denied the request.
pub const DENIED: i32 = -32003;
/// Likewise: it was let through, and the server cannot be used.
pub const UNAVAILABLE: i32 = -32004;

/// Longest method name that is looked at.
const MAX_METHOD: usize = 256;
/// Longest id, as written.
const MAX_ID: usize = 1024;

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub max_message_bytes: usize,
    pub max_depth: usize,
}

/// The id of a request, spelt as it was written: a string or an integer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(Json);

impl RequestId {
    pub fn number(n: u64) -> Self {
        Self(Json::Number(n.to_string()))
    }

    pub fn as_json(&self) -> &Json {
        &self.0
    }

    pub fn as_u64(&self) -> Option<u64> {
        self.0.as_u64()
    }

    /// Equal for equal ids whatever their spelling; a string never equals a number.
    pub fn key(&self) -> String {
        self.0.canonical()
    }

    pub fn read(json: &Json) -> Option<Self> {
        let fits = match json {
            Json::String(string) => string.value.len() <= MAX_ID,
            Json::Number(text) => text.len() <= MAX_ID && !text.contains(['.', 'e', 'E']),
            _ => false,
        };
        fits.then(|| Self(json.clone()))
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    Request { id: RequestId, method: String, params: Option<Json> },
    Notification { method: String, params: Option<Json> },
    Response { id: RequestId, reply: Reply },
}

/// What a request came back with; both sides verbatim.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    Result(Json),
    Error(Json),
}

impl Reply {
    pub fn error(code: i32, message: impl Into<String>) -> Self {
        Self::Error(error_object(code, message, None))
    }
}

/// A line that is no message, and what to answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Malformed {
    pub code: i32,
    pub message: String,
    /// `None` where the id cannot be known.
    pub id: Option<RequestId>,
    /// The message has no id at all, so that nobody waits for an answer.
    pub silent: bool,
}

impl Malformed {
    pub fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), id: None, silent: false }
    }

    /// With the id of the message, as far as its text tells: a client that gets its id back knows
    /// which call has failed, one that gets null waits for ever.
    pub fn of(mut self, text: &[u8]) -> Self {
        self.id = hint::id(text);
        self
    }

    pub fn too_long(limit: usize) -> Self {
        Self::new(
            INVALID_REQUEST,
            format!("the message is longer than {limit} bytes and was not read; send less at once"),
        )
    }
}

/// Reads one line. Never panics, whatever the bytes: this is the fuzz target.
pub fn read(line: &[u8], limits: &Limits) -> Result<Message, Malformed> {
    if line.len() > limits.max_message_bytes {
        return Err(Malformed::too_long(limits.max_message_bytes).of(line));
    }
    let text =
        std::str::from_utf8(line).map_err(|e| Malformed::new(PARSE_ERROR, format!("the message is not UTF-8: {e}")))?;
    let json = Json::parse(text, limits.max_depth).map_err(|e| {
        let code = match e {
            JsonError::Syntax { .. } | JsonError::Escape { .. } => PARSE_ERROR,
            JsonError::Duplicate { .. } | JsonError::TooDeep { .. } => INVALID_REQUEST,
        };
        Malformed::new(code, format!("the message was refused: {e}")).of(line)
    })?;
    classify(json)
}

fn classify(json: Json) -> Result<Message, Malformed> {
    let Json::Object(members) = json else {
        let what = if matches!(json, Json::Array(_)) { "batches are not served; send" } else { "a message is" };
        return Err(Malformed::new(INVALID_REQUEST, format!("{what} one JSON object per line")));
    };
    let (mut version, mut id, mut method, mut params, mut result, mut error) = (None, None, None, None, None, None);
    for (key, value) in members {
        match key.value.as_str() {
            "jsonrpc" => version = Some(value),
            "id" => id = Some(value),
            "method" => method = Some(value),
            "params" => params = Some(value),
            "result" => result = Some(value),
            "error" => error = Some(value),
            // JSON-RPC knows no other member; none of them is ever forwarded.
            _ => {}
        }
    }
    let known_id = id.as_ref().and_then(RequestId::read);
    let silent = id.is_none();
    let refuse = |code, message: String| Malformed { code, message, id: known_id.clone(), silent };
    let invalid = |message: &str| Err(refuse(INVALID_REQUEST, message.to_owned()));

    if version.as_ref().and_then(Json::as_str) != Some("2.0") {
        return Err(Malformed { silent: false, ..refuse(INVALID_REQUEST, "`jsonrpc` must be \"2.0\"".into()) });
    }
    if id.is_some() && known_id.is_none() {
        return invalid("`id` must be a string or an integer");
    }
    match (method, result, error) {
        (Some(method), None, None) => {
            let Some(method) = method.as_str().filter(|name| !name.is_empty() && name.len() <= MAX_METHOD) else {
                return invalid("`method` must be a name");
            };
            if params.as_ref().is_some_and(|params| params.as_object().is_none()) {
                return Err(refuse(INVALID_PARAMS, "`params` must be an object".into()));
            }
            check_shape(method, params.as_ref()).map_err(|why| refuse(INVALID_PARAMS, format!("{method}: {why}")))?;
            let method = method.to_owned();
            Ok(match known_id {
                Some(id) => Message::Request { id, method, params },
                None => Message::Notification { method, params },
            })
        }
        (None, Some(result), None) => match known_id {
            Some(id) if result.as_object().is_some() => Ok(Message::Response { id, reply: Reply::Result(result) }),
            Some(_) => invalid("`result` must be an object"),
            None => invalid("a result needs the `id` of its request"),
        },
        (None, None, Some(error)) => match known_id {
            Some(id) if is_error(&error) => Ok(Message::Response { id, reply: Reply::Error(error) }),
            Some(_) => invalid("`error` must be an object with an integer `code` and a string `message`"),
            None => invalid("an error needs the `id` of its request"),
        },
        _ => Err(Malformed {
            silent: false,
            ..refuse(INVALID_REQUEST, "exactly one of `method`, `result`, `error` must be there".into())
        }),
    }
}

fn is_error(error: &Json) -> bool {
    let code = matches!(error.get("code"), Some(Json::Number(text)) if text.parse::<i64>().is_ok());
    code && error.get("message").is_some_and(|message| message.as_str().is_some())
}

/// The shape of the methods that the door or a policy acts on.
fn check_shape(method: &str, params: Option<&Json>) -> Result<(), &'static str> {
    let member = |name| params.and_then(|params| params.get(name));
    let is_object = |json: &Json| json.as_object().is_some();
    let is_string = |json: &Json| json.as_str().is_some();
    let is_id = |json: &Json| RequestId::read(json).is_some();
    if let Some(meta) = member("_meta") {
        if !is_object(meta) {
            return Err("`_meta` must be an object");
        }
        if !meta.get("progressToken").is_none_or(is_id) {
            return Err("`_meta.progressToken` must be a string or an integer");
        }
    }
    let look_alike = || params.is_some_and(|params| self::look_alike(params, &["name", "arguments", "_meta", "task"]));
    let others = ["name", "arguments", "uri", "ref", "argument", "context", "_meta"];
    let other_look_alike = || params.is_some_and(|params| self::look_alike(params, &others));
    match method {
        "tools/call" if look_alike() => {
            Err("a member is spelt almost like `name`, `arguments`, `_meta` or `task`; spell it so, or leave it away")
        }
        "tools/call" if !member("name").is_some_and(is_string) => Err("`name` must be a string"),
        "tools/call" if !member("arguments").is_none_or(is_object) => Err("`arguments` must be an object"),
        "prompts/get" | "resources/read" | "completion/complete" if other_look_alike() => Err(
            "a member is spelt almost like `name`, `arguments`, `uri`, `ref`, `argument`, `context` or `_meta`; spell it so, or leave it away",
        ),
        "prompts/get" if !member("name").is_some_and(is_string) => Err("`name` must be a string"),
        "prompts/get" if !member("arguments").is_none_or(is_object) => Err("`arguments` must be an object"),
        "resources/read" if !member("uri").is_some_and(is_string) => Err("`uri` must be a string"),
        "completion/complete" if !member("ref").is_some_and(is_object) => Err("`ref` must be an object"),
        "completion/complete" if !member("argument").is_some_and(is_object) => Err("`argument` must be an object"),
        "tools/list" | "prompts/list" | "resources/list" | "resources/templates/list"
            if !member("cursor").is_none_or(is_string) =>
        {
            Err("`cursor` must be a string")
        }
        "initialize" if !member("protocolVersion").is_some_and(is_string) => Err("`protocolVersion` must be a string"),
        "initialize" if !member("capabilities").is_none_or(is_object) => Err("`capabilities` must be an object"),
        "notifications/cancelled" if !member("requestId").is_some_and(is_id) => {
            Err("`requestId` must be a string or an integer")
        }
        "notifications/progress" if !member("progressToken").is_some_and(is_id) => {
            Err("`progressToken` must be a string or an integer")
        }
        _ => Ok(()),
    }
}

/// Whether a member is one of `names` but for the case of its letters: some decoders (Go's) take it
/// for that, and would read another call than the one that was judged.
pub fn look_alike(object: &Json, names: &[&str]) -> bool {
    // Upper case first: it also joins letters such as the long s with their plain form.
    let fold = |text: &str| text.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect::<String>();
    let members = object.as_object().unwrap_or_default();
    // A letter has at most four bytes, so that a long member cannot be one of these short names.
    members.iter().map(|(key, _)| key.value.as_str()).filter(|key| key.len() <= 64).any(|key| {
        !names.contains(&key) && {
            let folded = fold(key);
            names.contains(&folded.as_str())
        }
    })
}

pub fn error_object(code: i32, message: impl Into<String>, data: Option<Json>) -> Json {
    let mut error = Json::object([("code", Json::number(code)), ("message", Json::string(message))]);
    if let Some(data) = data {
        error.set("data", data);
    }
    error
}

/// One line with its line end.
pub fn request_line(id: &RequestId, method: &str, params: &Json) -> String {
    line([("id", id.as_json()), ("method", &Json::string(method)), ("params", params)])
}

pub fn notification_line(method: &str, params: Option<&Json>) -> String {
    let method = Json::string(method);
    match params {
        Some(params) => line([("method", &method), ("params", params)]),
        None => line([("method", &method)]),
    }
}

/// The answer to a request; `None` is the null id of a message that could not be read.
pub fn reply_line(id: Option<&RequestId>, reply: &Reply) -> String {
    let id = id.map_or(&Json::Null, RequestId::as_json);
    match reply {
        Reply::Result(result) => line([("id", id), ("result", result)]),
        Reply::Error(error) => line([("id", id), ("error", error)]),
    }
}

/// The id of a line that [`reply_line`] wrote, read without reading the rest; `None` for any other line.
pub fn reply_id(line: &[u8]) -> Option<RequestId> {
    let rest = line.strip_prefix(br#"{"jsonrpc":"2.0","id":"#)?;
    let mut escaped = false;
    let end = match rest.first()? {
        b'"' => {
            1 + rest[1..].iter().position(|byte| {
                let ends = *byte == b'"' && !escaped;
                escaped = *byte == b'\\' && !escaped;
                ends
            })? + 1
        }
        _ => rest.iter().position(|byte| *byte == b',')?,
    };
    RequestId::read(&Json::parse(std::str::from_utf8(&rest[..end]).ok()?, 1).ok()?)
}

fn line<const N: usize>(members: [(&str, &Json); N]) -> String {
    let mut out = String::from(r#"{"jsonrpc":"2.0""#);
    for (key, value) in members {
        out.push_str(",\"");
        out.push_str(key);
        out.push_str("\":");
        value.write(&mut out);
    }
    out.push_str("}\n");
    out
}

#[cfg(test)]
mod tests;
