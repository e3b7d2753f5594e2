//! Whether the headers of a request say what its body says.
//!
//! What stands between client and door may route by the headers alone, so that one that contradicts the body is never
//! accepted, in either era; and 2026-07-28 demands them. A value that a header cannot carry stands in it as
//! `=?base64?...?=`; it has one spelling.

pub use axum::http::{HeaderMap, HeaderValue};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::guard::only;
use crate::proxy::envelope::{self, Malformed, Message};
use crate::proxy::json::Json;
use crate::proxy::versions;

pub const VERSION: &str = "mcp-protocol-version";
pub const METHOD: &str = "mcp-method";
pub const NAME: &str = "mcp-name";
pub const SESSION: &str = "mcp-session-id";

/// How a message is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// 2025-11-25 and before: within a session.
    Session,
    /// 2026-07-28: by itself.
    Alone,
}

/// Never panics, whatever the headers: this is the fuzz target.
pub fn route(headers: &HeaderMap, message: &Message) -> Result<Route, Malformed> {
    let (id, method, params) = match message {
        Message::Request { id, method, params } => (Some(id), Some(method.as_str()), params.as_ref()),
        Message::Notification { method, params } => (None, Some(method.as_str()), params.as_ref()),
        Message::Response { id, .. } => (Some(id), None, None),
    };
    let refuse = |code, why: String| Malformed { id: id.cloned(), ..Malformed::new(code, why) };
    let mismatch = |why: String| refuse(envelope::HEADER_MISMATCH, why);
    let header = |name| only(headers, name).map_err(|()| mismatch(format!("{name} must be there once, as plain text")));
    let (version, method_header, name_header) = (header(VERSION)?, header(METHOD)?, header(NAME)?);

    if let Some(value) = method_header
        && Some(value) != method
    {
        return Err(mismatch(format!("{METHOD} does not say what the body's `method` says")));
    }
    let name = method.and_then(name_member).and_then(|member| params?.get(member)?.as_str());
    if let Some(value) = name_header {
        let value = decode(value).ok_or_else(|| mismatch(format!("{NAME} is not well encoded")))?;
        if Some(value.as_str()) != name {
            return Err(mismatch(format!("{NAME} does not say what the body says")));
        }
    }
    if method == Some("initialize") {
        let asked = params.and_then(|params| params.get("protocolVersion")).and_then(Json::as_str);
        return match version {
            Some(version) if Some(version) != asked => {
                Err(mismatch(format!("{VERSION} does not say what `protocolVersion` says")))
            }
            _ => Ok(Route::Session),
        };
    }
    let meta = params.and_then(|params| params.get("_meta"));
    match meta.and_then(|meta| meta.get(versions::META_VERSION)) {
        Some(named) => {
            if version.is_none() || version != named.as_str() {
                return Err(mismatch(format!("{VERSION} must say what {} in `_meta` says", versions::META_VERSION)));
            }
            if method_header.is_none() {
                return Err(mismatch(format!("{METHOD} is missing")));
            }
            if name.is_some() && name_header.is_none() {
                return Err(mismatch(format!("{NAME} is missing")));
            }
            Ok(Route::Alone)
        }
        None => match version {
            None => Ok(Route::Session),
            Some(version) if versions::HANDSHAKE.contains(&version) => Ok(Route::Session),
            // Requests have to say it again in their body.
            Some(version) if versions::STATELESS.contains(&version) => match message {
                Message::Request { .. } => {
                    let why = format!("`params._meta` must carry {:?}", versions::META_VERSION);
                    Err(refuse(envelope::INVALID_PARAMS, why))
                }
                _ => Ok(Route::Alone),
            },
            Some(_) => {
                let known = [&versions::HANDSHAKE[..], &versions::STATELESS[..]].concat().join(", ");
                Err(refuse(envelope::INVALID_REQUEST, format!("{VERSION} is none that is served: {known}")))
            }
        },
    }
}

/// The member of `params` that says what a request is about.
fn name_member(method: &str) -> Option<&'static str> {
    Some(match method {
        "tools/call" | "prompts/get" => "name",
        "resources/read" | "resources/subscribe" | "resources/unsubscribe" => "uri",
        "tasks/get" | "tasks/update" | "tasks/cancel" | "tasks/result" => "taskId",
        _ => return None,
    })
}

/// What a header's value stands for; `None` if it pretends to be encoded and is not.
pub fn decode(value: &str) -> Option<String> {
    let Some(encoded) = value.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?=")) else {
        return Some(value.to_owned());
    };
    let bytes = STANDARD.decode(encoded).ok()?;
    // One spelling: what decodes to the same is the same.
    (STANDARD.encode(&bytes) == encoded).then(|| String::from_utf8(bytes).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;
    use proptest::prelude::*;

    use super::*;
    use crate::proxy::envelope::Limits;

    const LIMITS: Limits = Limits { max_message_bytes: 1 << 16, max_depth: 32 };
    const NEW: &str = "2026-07-28";

    fn read(body: &str) -> Message {
        envelope::read(body.as_bytes(), &LIMITS).unwrap()
    }

    fn judge(body: &str, pairs: &[(&str, &str)]) -> Result<Route, i32> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        route(&headers, &read(body)).map_err(|malformed| malformed.code)
    }

    fn call(name: &str) -> String {
        let name = serde_json::to_string(name).unwrap();
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":{name},"_meta":{{"io.modelcontextprotocol/protocolVersion":"{NEW}"}}}}}}"#
        )
    }

    #[test]
    fn the_newer_era_needs_all_three_headers_to_match() {
        let right = [(VERSION, NEW), (METHOD, "tools/call"), (NAME, "echo")];
        assert_eq!(judge(&call("echo"), &right), Ok(Route::Alone));
        for missing in 0..3 {
            let mut headers = right.to_vec();
            headers.remove(missing);
            assert_eq!(judge(&call("echo"), &headers), Err(envelope::HEADER_MISMATCH), "{missing}");
        }
        for (at, wrong) in
            [(0, "2025-11-25"), (1, "tools/list"), (1, "Tools/Call"), (2, "other"), (2, "echo "), (2, "")]
        {
            let mut headers = right;
            headers[at].1 = wrong;
            assert_eq!(judge(&call("echo"), &headers), Err(envelope::HEADER_MISMATCH), "{wrong}");
        }
        for twice in right {
            let headers = [&right[..], &[twice]].concat();
            assert_eq!(judge(&call("echo"), &headers), Err(envelope::HEADER_MISMATCH), "{twice:?} twice");
        }
    }

    #[test]
    fn an_encoded_name_has_one_spelling() {
        let with =
            |name: &str, header: &str| judge(&call(name), &[(VERSION, NEW), (METHOD, "tools/call"), (NAME, header)]);
        assert_eq!(with("größe", &format!("=?base64?{}?=", STANDARD.encode("größe"))), Ok(Route::Alone));
        assert_eq!(with("echo", "=?base64?ZWNobw==?="), Ok(Route::Alone));
        for wrong in ["=?base64?ZWNobw?=", "=?base64?ZWNobx==?=", "=?base64?!?=", "=?base64?/w==?=", "größe"] {
            assert_eq!(with("echo", wrong), Err(envelope::HEADER_MISMATCH), "{wrong}");
        }
    }

    #[test]
    fn the_older_era_goes_to_its_session_and_may_not_contradict_itself() {
        let list = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
        assert_eq!(judge(list, &[]), Ok(Route::Session));
        assert_eq!(judge(list, &[(VERSION, "2025-06-18")]), Ok(Route::Session));
        assert_eq!(judge(list, &[(METHOD, "tools/call")]), Err(envelope::HEADER_MISMATCH));
        assert_eq!(judge(list, &[(NAME, "echo")]), Err(envelope::HEADER_MISMATCH));
        assert_eq!(judge(list, &[(VERSION, "1999-01-01")]), Err(envelope::INVALID_REQUEST));
        assert_eq!(judge(list, &[(VERSION, NEW)]), Err(envelope::INVALID_PARAMS));
        let hello = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{}}}"#;
        assert_eq!(judge(hello, &[]), Ok(Route::Session));
        assert_eq!(judge(hello, &[(VERSION, "2025-11-25")]), Ok(Route::Session));
        assert_eq!(judge(hello, &[(VERSION, NEW)]), Err(envelope::HEADER_MISMATCH));
        assert_eq!(judge(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#, &[]), Ok(Route::Session));
        assert_eq!(judge(r#"{"jsonrpc":"2.0","method":"notifications/x"}"#, &[(VERSION, NEW)]), Ok(Route::Alone));
        assert_eq!(judge(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, &[]), Ok(Route::Session));
        assert_eq!(judge(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, &[(METHOD, "x")]), Err(envelope::HEADER_MISMATCH));
    }

    fn encode(text: &str) -> String {
        let plain = text.bytes().all(|byte| (0x21..0x7f).contains(&byte)) && !text.starts_with("=?base64?");
        if plain { text.to_owned() } else { format!("=?base64?{}?=", STANDARD.encode(text)) }
    }

    proptest! {
        #[test]
        fn a_name_passes_with_its_own_header_and_no_other(name in "\\PC{1,20}|[ -~]{1,20}", other in "\\PC{1,20}|[ -~]{1,20}") {
            let headers = |name: &str| [(VERSION, NEW.to_owned()), (METHOD, "tools/call".into()), (NAME, encode(name))];
            let with = |header: &str| {
                let headers = headers(header);
                let pairs: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
                judge(&call(&name), &pairs)
            };
            prop_assert_eq!(with(&name), Ok(Route::Alone));
            prop_assert_eq!(with(&other).is_ok(), name == other);
        }

        #[test]
        fn any_value_decodes_or_not(value in ".{0,40}|=\\?base64\\?[A-Za-z0-9+/=]{0,20}\\?=") {
            if let Some(text) = decode(&value) {
                let encoded = format!("=?base64?{}?=", STANDARD.encode(&text));
                prop_assert!(text == value || encoded == value);
            }
        }

        #[test]
        fn any_headers_are_judged(values in prop::collection::vec((0usize..5, prop::collection::vec(any::<u8>(), 0..20)), 0..6)) {
            let mut headers = HeaderMap::new();
            for (at, value) in values {
                if let Ok(value) = HeaderValue::from_bytes(&value) {
                    headers.append([VERSION, METHOD, NAME, SESSION, "x"][at], value);
                }
            }
            let judged = route(&headers, &read(&call("echo")));
            prop_assert_eq!(judged.is_ok(), headers.get_all(VERSION).iter().eq([NEW]) && headers.get_all(METHOD).iter().eq(["tools/call"]) && headers.get_all(NAME).iter().eq(["echo"]));
        }
    }
}
