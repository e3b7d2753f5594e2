//! Arguments that a tool of 2026-07-28 wants in HTTP headers too: `x-mcp-header` in its `inputSchema`.
//!
//! Invariant: the whole schema is in order, or the tool is not served at all. An annotation stands on a property with
//! a string, an integer or a boolean, which is reached from the root through `properties` alone; anywhere else, under a
//! composition, an array or a reference, client and server could read another value than the one that was judged.

use std::collections::BTreeSet;

use hyper::header::HeaderName;

use super::json::{Json, JsonString};

const ANNOTATION: &str = "x-mcp-header";
/// Headers of one tool: a request with more of them is turned away by many servers.
const MOST: usize = 32;
/// Longest name that is looked at.
const LONGEST: usize = 128;
/// Members that hold schemas by names of the author's own choice: those names are no keywords.
const NAMED: [&str; 6] =
    ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies"];
/// Members that hold values, where an annotation is only data.
const VALUES: [&str; 5] = ["const", "enum", "default", "examples", "required"];

/// One header, and the way to its argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirrored {
    pub header: HeaderName,
    pub way: Vec<String>,
}

/// What a tool wants, in the order of its schema. The error says what is not in order; such a tool is not served.
pub fn mirrored(tool: &Json) -> Result<Vec<Mirrored>, String> {
    let Some(schema) = tool.get("inputSchema") else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    walk(schema, Some(&mut Vec::new()), &mut found)?;
    if found.len() > MOST {
        return Err(format!("it wants {} headers, and {MOST} at most are sent", found.len()));
    }
    let mut names = BTreeSet::new();
    match found.iter().find(|mirrored| !names.insert(mirrored.header.as_str())) {
        Some(twice) => Err(format!("two properties want the header {}", twice.header)),
        None => Ok(found),
    }
}

/// Of a descriptor as text; most have no annotation, and are not read for that.
pub fn fault_in(descriptor: &str) -> Option<String> {
    // An escape may spell it otherwise.
    if !descriptor.contains(ANNOTATION) && !descriptor.contains("\\u") {
        return None;
    }
    match Json::parse(descriptor, usize::MAX) {
        Ok(tool) => mirrored(&tool).err(),
        Err(e) => Some(e.to_string()),
    }
}

/// `way` leads to this schema from the root; `None` where it is not reached through `properties` alone.
fn walk(schema: &Json, mut way: Option<&mut Vec<String>>, found: &mut Vec<Mirrored>) -> Result<(), String> {
    match schema {
        Json::Array(items) => items.iter().try_for_each(|item| walk(item, None, found)),
        Json::Object(members) => {
            for (key, value) in members {
                match (key.value.as_str(), value) {
                    (ANNOTATION, wanted) => found.push(annotation(wanted, schema, way.as_deref())?),
                    (keyword, _) if VALUES.contains(&keyword) => {}
                    ("properties", Json::Object(properties)) => each(properties, way.as_deref_mut(), found)?,
                    (keyword, Json::Object(schemas)) if NAMED.contains(&keyword) => each(schemas, None, found)?,
                    (_, below) => walk(below, None, found)?,
                }
            }
            Ok(())
        }
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => Ok(()),
    }
}

fn each(
    schemas: &[(JsonString, Json)],
    mut way: Option<&mut Vec<String>>,
    found: &mut Vec<Mirrored>,
) -> Result<(), String> {
    for (name, schema) in schemas {
        match way.as_deref_mut() {
            Some(way) => {
                way.push(name.value.clone());
                walk(schema, Some(way), found)?;
                way.pop();
            }
            None => walk(schema, None, found)?,
        }
    }
    Ok(())
}

fn annotation(wanted: &Json, schema: &Json, way: Option<&Vec<String>>) -> Result<Mirrored, String> {
    let Some(way) = way.filter(|way| !way.is_empty()) else {
        return Err(format!("{ANNOTATION} stands where no chain of `properties` leads from the root"));
    };
    let place = way.join(".");
    let place: String = place.chars().take(LONGEST).collect();
    let kind = schema.get("type").and_then(Json::as_str);
    if !matches!(kind, Some("string" | "integer" | "boolean")) {
        return Err(format!("{place:?} is no string, integer or boolean, and has {ANNOTATION}"));
    }
    let name = wanted.as_str().filter(|name| !name.is_empty() && name.len() <= LONGEST);
    let header = name.and_then(|name| HeaderName::try_from(format!("mcp-param-{name}")).ok());
    let header = header.ok_or_else(|| format!("{ANNOTATION} of {place:?} is no name of a header"))?;
    Ok(Mirrored { header, way: way.clone() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tool(schema: &str) -> Json {
        Json::parse(&format!(r#"{{"name":"t","inputSchema":{schema}}}"#), 64).unwrap()
    }

    fn of(schema: &str) -> Result<Vec<(String, String)>, String> {
        mirrored(&tool(schema)).map(|found| found.iter().map(|m| (m.header.to_string(), m.way.join("/"))).collect())
    }

    #[test]
    fn annotations_that_properties_alone_lead_to_are_in_order() {
        let schema = r#"{"properties":{"a":{"type":"string","x-mcp-header":"Region"},"b":{"type":"object","properties":{"c":{"type":"integer","x-mcp-header":"N"}}},"properties":{"type":"boolean","x-mcp-header":"P"}}}"#;
        let pair = |header: &str, way: &str| (header.to_owned(), way.to_owned());
        assert_eq!(
            of(schema).unwrap(),
            [pair("mcp-param-region", "a"), pair("mcp-param-n", "b/c"), pair("mcp-param-p", "properties")]
        );
        assert_eq!(of("{}").unwrap(), []);
        assert_eq!(mirrored(&Json::parse(r#"{"name":"t"}"#, 8).unwrap()), Ok(vec![]));
        // A property of that name, and values, are no annotations.
        assert_eq!(of(r#"{"properties":{"x-mcp-header":{"type":"string"}}}"#).unwrap(), []);
        assert_eq!(of(r#"{"properties":{"a":{"type":"object","default":{"x-mcp-header":"!"}}}}"#).unwrap(), []);
    }

    #[test]
    fn every_rule_of_the_specification_is_held() {
        let wrong = |bad: &str| assert!(of(bad).is_err(), "{bad}");
        for header in [r#""""#, "1", "null", r#""A b""#, r#""A\r\nB""#, r#""A:""#, r#""\u00e4""#] {
            wrong(&format!(r#"{{"properties":{{"a":{{"type":"string","x-mcp-header":{header}}}}}}}"#));
        }
        for kind in [r#""number""#, r#""object""#, r#""array""#, r#"["string","null"]"#, "1"] {
            wrong(&format!(r#"{{"properties":{{"a":{{"type":{kind},"x-mcp-header":"A"}}}}}}"#));
        }
        wrong(r#"{"properties":{"a":{"x-mcp-header":"A"}}}"#);
        wrong(r#"{"properties":{"a":{"type":"string","x-mcp-header":"X"},"b":{"type":"string","x-mcp-header":"x"}}}"#);
        let fine = r#"{"type":"string","x-mcp-header":"A"}"#;
        wrong(fine);
        for around in ["items", "not", "if", "then", "else", "contains", "additionalProperties", "x-of-our-own"] {
            wrong(&format!(r#"{{"{around}":{fine}}}"#));
            wrong(&format!(r#"{{"properties":{{"a":{{"{around}":{{"properties":{{"b":{fine}}}}}}}}}}}"#));
        }
        for around in ["oneOf", "anyOf", "allOf", "prefixItems", "items"] {
            wrong(&format!(r#"{{"{around}":[{{"properties":{{"b":{fine}}}}}]}}"#));
        }
        for around in ["$defs", "definitions", "patternProperties", "dependentSchemas"] {
            wrong(&format!(r#"{{"{around}":{{"b":{fine}}}}}"#));
        }
    }

    #[test]
    fn too_many_headers_are_no_tool() {
        let of_many = |many: usize| {
            let all: Vec<String> =
                (0..many).map(|n| format!(r#""p{n}":{{"type":"string","x-mcp-header":"H{n}"}}"#)).collect();
            of(&format!(r#"{{"properties":{{{}}}}}"#, all.join(",")))
        };
        assert!(of_many(MOST).is_ok() && of_many(MOST + 1).is_err());
    }

    #[test]
    fn an_escape_hides_no_annotation() {
        let hidden = r#"{"name":"t","inputSchema":{"items":{"type":"string","x\u002dmcp-header":"A"}}}"#;
        assert!(fault_in(hidden).is_some());
        assert!(fault_in(r#"{"name":"t","inputSchema":{"type":"object"},"title":"\u0041"}"#).is_none());
    }

    /// Any schema of a few levels, annotated anywhere.
    fn schemas() -> impl Strategy<Value = String> {
        let leaf = (prop::sample::select(vec!["string", "number", "object"]), prop::option::of("[A-Za-z ]{0,3}"))
            .prop_map(|(kind, header)| match header {
                Some(header) => format!(r#"{{"type":"{kind}","x-mcp-header":"{header}"}}"#),
                None => format!(r#"{{"type":"{kind}"}}"#),
            });
        leaf.prop_recursive(4, 16, 3, |below| {
            let key = prop::sample::select(vec!["properties", "items", "allOf", "$defs", "default"]);
            prop::collection::vec((key, "[a-c]", below), 1..3).prop_map(|members| {
                let mut seen = BTreeSet::new();
                let members = members.into_iter().filter(|(key, ..)| seen.insert(*key));
                let member = |(key, name, below): (&str, String, String)| match key {
                    "properties" | "$defs" => format!(r#""{key}":{{"{name}":{below}}}"#),
                    "allOf" => format!(r#""{key}":[{below}]"#),
                    _ => format!(r#""{key}":{below}"#),
                };
                format!("{{{}}}", members.map(member).collect::<Vec<_>>().join(","))
            })
        })
    }

    proptest! {
        #[test]
        fn what_is_taken_is_what_the_schema_has_at_that_place(schema in schemas()) {
            let tool = tool(&schema);
            prop_assert_eq!(fault_in(&tool.to_text()), mirrored(&tool).err());
            let Ok(found) = mirrored(&tool) else { return Ok(()) };
            for one in found {
                let mut at = tool.get("inputSchema").unwrap();
                for step in &one.way {
                    at = at.get("properties").and_then(|properties| properties.get(step)).unwrap();
                }
                let wanted = at.get("x-mcp-header").and_then(Json::as_str).unwrap();
                prop_assert_eq!(one.header.as_str(), format!("mcp-param-{}", wanted.to_ascii_lowercase()));
            }
        }

        #[test]
        fn any_name_is_a_header_or_a_fault(name in "\\PC{0,12}") {
            let name = Json::string(name).to_text();
            let _ = of(&format!(r#"{{"properties":{{"a":{{"type":"string","x-mcp-header":{name}}}}}}}"#));
        }
    }
}
