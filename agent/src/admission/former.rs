//! The review that was decided on last, kept when a newer one takes its place, so that a person
//! sees what changed in between. Nothing is ever admitted by it.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::model::{LaunchDefinition, Review};
use crate::proxy::json::Json;
use crate::store::Record;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FormerReview {
    pub server: String,
    pub launch: LaunchDefinition,
    pub review: Review,
    /// The tools' descriptors, JSON text.
    pub tools: Vec<String>,
}

impl Record for FormerReview {
    const TABLE: &'static str = "former_reviews";
    fn key(&self) -> String {
        self.server.clone()
    }
}

/// Everything that the pin covers, members in a fixed order, for comparing by eye.
pub fn pinned(launch: &LaunchDefinition, review: &Review, tools: &[String]) -> Value {
    let mut tools: Vec<(String, Value)> = tools
        .iter()
        .map(|text| {
            let tool = exact(text);
            (tool["name"].as_str().unwrap_or_default().to_owned(), tool)
        })
        .collect();
    tools.sort_by(|a, b| a.0.cmp(&b.0));
    let mounts: Vec<Value> = launch.mounts.iter().map(|mount| json!(mount)).collect();
    let code_env: serde_json::Map<String, Value> =
        launch.code_env().map(|(name, value)| (name.to_owned(), json!(value))).collect();
    let mut lock = exact(&review.lock.to_string());
    if let Some(lock) = lock.as_object_mut() {
        // The package manager's own file says the same as `packages`, in more words.
        lock.remove("files");
    }
    json!({
        "launch": {
            "source": exact(&json!(launch.source).to_string()),
            "arguments": launch.args,
            "environment": launch.env.keys().collect::<Vec<_>>(),
            "loads code": code_env,
            "mounts": mounts,
            "isolation": launch.isolation,
            "egress": launch.egress,
        },
        "image": review.image_id,
        "command": review.argv,
        "package": exact(&review.package.to_string()),
        "instructions": review.instructions.as_deref().map(|text| text.lines().collect::<Vec<_>>()),
        "prompts": sorted(&review.prompts),
        "resource templates": sorted(&review.resource_templates),
        "tools": tools.into_iter().collect::<serde_json::Map<_, _>>(),
        "lock": lock,
    })
}

/// JSON text with its members sorted; as a string where a number would not survive.
fn exact(text: &str) -> Value {
    let Ok(parsed) = Json::parse(text, 128) else { return Value::String(text.to_owned()) };
    let canonical = parsed.canonical();
    match serde_json::from_str::<Value>(&canonical) {
        Ok(value) if Json::from_value(&value).canonical() == canonical => value,
        _ => Value::String(canonical),
    }
}

/// The order of a listing is no part of the pin.
fn sorted(text: &str) -> Value {
    if text.is_empty() {
        return json!([]);
    }
    match exact(text) {
        Value::Array(mut items) => {
            items.sort_by_cached_key(Value::to_string);
            Value::Array(items)
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_no_difference_and_numbers_are_never_rounded() {
        assert_eq!(sorted(r#"[{"b":1,"a":2},{"a":1}]"#).to_string(), sorted(r#"[{"a":1},{"a":2,"b":1}]"#).to_string());
        assert_ne!(exact(r#"{"a":9007199254740993123}"#), exact(r#"{"a":90071992547409931230}"#));
        assert_ne!(exact(r#"{"a":1.00000000000000000001}"#), exact(r#"{"a":1.00000000000000000002}"#));
    }
}
