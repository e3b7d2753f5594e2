//! Any line is a message or an error. A message is what every other reader takes it for, and its id can be told.

use lazaret::proxy::envelope::{Limits, Malformed, Message, read};
use lazaret::proxy::json::Json;
use serde_json::Value;

fuzz_target!(|line: &[u8]| {
    let limits = Limits { max_message_bytes: 1 << 16, max_depth: 32 };
    let Ok(message) = read(line, &limits) else { return };
    let other: Value = serde_json::from_slice(line).unwrap_or_else(|e| {
        // The one thing that we read and it does not: numbers beyond any float.
        assert!(e.to_string().contains("number out of range"), "{e}");
        Value::Null
    });
    let (id, method, params) = match &message {
        Message::Request { id, method, params } => (Some(id), Some(method), params.as_ref()),
        Message::Notification { method, params } => (None, Some(method), params.as_ref()),
        Message::Response { id, .. } => (Some(id), None, None),
    };
    // The id that is given back where a message cannot be read whole is its own, or none.
    let hint = Malformed::new(0, "").of(line).id;
    assert!(hint.is_none() || hint.as_ref().map(|id| id.key()) == id.map(|id| id.key()), "{hint:?}");
    if let Some(other) = other.as_object() {
        assert_eq!(other.get("jsonrpc"), Some(&Value::from("2.0")));
        assert_eq!(other.get("method").and_then(Value::as_str), method.map(String::as_str));
        assert_eq!(other.get("id").is_some(), id.is_some());
        assert_eq!(other.get("params").is_some(), params.is_some());
        let name = params.and_then(|params| params.get("name")).and_then(Json::as_str);
        if method.is_some_and(|method| method == "tools/call") {
            assert_eq!(other["params"]["name"].as_str(), name);
            assert!(name.is_some());
        }
    }
});
