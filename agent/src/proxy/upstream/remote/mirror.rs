//! Arguments that a tool of 2026-07-28 wants in headers too (`x-mcp-header` in its input schema).
//!
//! Invariant: a header says what the body says, or is not there. A tool whose annotations are not
//! in order has none of its arguments mirrored.

use std::collections::{BTreeSet, HashMap};

use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use super::header_text;
use crate::proxy::json::Json;

/// Nesting of properties that is looked at, and headers of one tool.
const DEEPEST: usize = 16;
const MOST: usize = 32;

/// The header, and the way to its argument.
type Mirrored = (HeaderName, Vec<String>);

#[derive(Default)]
pub(super) struct Mirrors(HashMap<String, Vec<Mirrored>>);

impl Mirrors {
    /// What the tools of this listing want; what was known before is forgotten.
    pub fn learn(&mut self, tools: &[Json]) {
        let of_tool = |tool: &Json| {
            let name = tool.get("name")?.as_str()?.to_owned();
            let mut found = Vec::new();
            walk(tool.get("inputSchema")?, &mut Vec::new(), &mut found)?;
            let names: BTreeSet<_> = found.iter().map(|(name, _)| name.as_str()).collect();
            (names.len() == found.len() && !found.is_empty()).then_some((name, found))
        };
        self.0 = tools.iter().filter_map(of_tool).collect();
    }

    pub fn headers(&self, tool: &str, arguments: Option<&Json>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, way) in self.0.get(tool).into_iter().flatten() {
            let value = way.iter().try_fold(arguments, |at, key| Some(at?.get(key))).flatten();
            headers.extend(value.and_then(text).map(|value| (name.clone(), value)));
        }
        headers
    }
}

/// `None` where an annotation is not in order.
fn walk(schema: &Json, way: &mut Vec<String>, found: &mut Vec<Mirrored>) -> Option<()> {
    for (key, property) in schema.get("properties").and_then(Json::as_object).unwrap_or_default() {
        way.push(key.value.clone());
        if let Some(wanted) = property.get("x-mcp-header") {
            let kind = property.get("type").and_then(Json::as_str)?;
            if !matches!(kind, "string" | "integer" | "number" | "boolean") || found.len() >= MOST {
                return None;
            }
            let name = HeaderName::try_from(format!("mcp-param-{}", wanted.as_str().filter(|name| !name.is_empty())?));
            found.push((name.ok()?, way.clone()));
        }
        if way.len() < DEEPEST {
            walk(property, way, found)?;
        }
        way.pop();
    }
    Some(())
}

fn text(value: &Json) -> Option<HeaderValue> {
    match value {
        Json::String(string) => header_text(&string.value),
        Json::Number(number) => HeaderValue::from_str(number).ok(),
        Json::Bool(value) => Some(HeaderValue::from_static(if *value { "true" } else { "false" })),
        Json::Null | Json::Array(_) | Json::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(schema: &str, arguments: &str) -> Vec<(String, String)> {
        let tool = Json::parse(&format!(r#"{{"name":"t","inputSchema":{schema}}}"#), 64).unwrap();
        let mut mirrors = Mirrors::default();
        mirrors.learn(&[tool]);
        let headers = mirrors.headers("t", Json::parse(arguments, 64).ok().as_ref());
        assert!(mirrors.headers("other", None).is_empty());
        headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect()
    }

    #[test]
    fn what_is_annotated_is_mirrored_and_what_is_not_there_is_not() {
        let schema = r#"{"properties":{"a":{"type":"string","x-mcp-header":"Region"},"b":{"properties":{"c":{"type":"integer","x-mcp-header":"N"}}},"d":{"type":"boolean","x-mcp-header":"D"},"e":{"type":"string"}}}"#;
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            headers(schema, r#"{"a":"eu","b":{"c":12345678901234567890},"d":true,"e":"x"}"#),
            [pair("mcp-param-region", "eu"), pair("mcp-param-n", "12345678901234567890"), pair("mcp-param-d", "true")]
        );
        assert_eq!(headers(schema, r#"{"a":"ö","b":{},"d":null}"#), [pair("mcp-param-region", "=?base64?w7Y=?=")]);
        assert_eq!(headers(schema, r#"{"a":{"x":1}}"#), []);
        assert_eq!(headers(schema, "[]"), []);
    }

    #[test]
    fn an_annotation_that_is_not_in_order_mirrors_nothing() {
        for bad in [
            r#""a":{"type":"string","x-mcp-header":"A b"}"#,
            r#""a":{"type":"string","x-mcp-header":""}"#,
            r#""a":{"type":"string","x-mcp-header":1}"#,
            r#""a":{"type":"object","x-mcp-header":"A"}"#,
            r#""a":{"x-mcp-header":"A"}"#,
            r#""a":{"type":"string","x-mcp-header":"X"},"b":{"type":"string","x-mcp-header":"x"}"#,
        ] {
            assert_eq!(headers(&format!(r#"{{"properties":{{{bad}}}}}"#), r#"{"a":"1","b":"2"}"#), [], "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_name_and_no_value_breaks_a_header(name in ".{0,12}", value in ".{0,12}") {
            let quoted = |text: &str| Json::string(text).to_text();
            let schema = format!(r#"{{"properties":{{"a":{{"type":"string","x-mcp-header":{}}}}}}}"#, quoted(&name));
            for (header, text) in headers(&schema, &format!(r#"{{"a":{}}}"#, quoted(&value))) {
                prop_assert!(header.starts_with("mcp-param-") && text.bytes().all(|c| (0x20..0x7f).contains(&c)));
            }
        }
    }
}
