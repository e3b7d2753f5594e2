//! Arguments that a tool of 2026-07-28 wants in headers too (`x-mcp-header` in its input schema).
//!
//! Invariant: a header says what the body says, or is not there. A tool whose annotations are not
//! in order is not served, and has none of its arguments mirrored.

use std::collections::HashMap;

use hyper::header::{HeaderMap, HeaderValue};

use super::header_text;
use crate::proxy::json::Json;
use crate::proxy::mirrored::{Mirrored, mirrored};

#[derive(Default)]
pub(super) struct Mirrors(HashMap<String, Vec<Mirrored>>);

impl Mirrors {
    /// What the tools of this listing want; what was known before is forgotten.
    pub fn learn(&mut self, tools: &[Json]) {
        let of_tool = |tool: &Json| {
            let name = tool.get("name")?.as_str()?.to_owned();
            let found = mirrored(tool).ok()?;
            (!found.is_empty()).then_some((name, found))
        };
        self.0 = tools.iter().filter_map(of_tool).collect();
    }

    pub fn headers(&self, tool: &str, arguments: Option<&Json>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for Mirrored { header, way } in self.0.get(tool).into_iter().flatten() {
            let value = way.iter().try_fold(arguments, |at, key| Some(at?.get(key))).flatten();
            headers.extend(value.and_then(text).map(|value| (header.clone(), value)));
        }
        headers
    }
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
