//! `context.input`: the arguments of one tool, typed by its approved `inputSchema`.
//!
//! Invariant: a policy that was validated against these types meets only values of these types. An
//! argument of another type denies the call; it is never left out, for a `forbid` that asks whether
//! it is there would then be skipped. All members are optional: nothing makes an agent send them.
//! What Cedar has no type for (fractions, unions, references) is left out and named.

use std::collections::BTreeMap;

use cedar_policy::{RestrictedExpression as Value, Schema, SchemaFragment};
use serde_json::{Map, json};

use super::derive;
use crate::proxy::json::Json;

/// What every policy may speak of.
pub const SCHEMA: &str = include_str!("schema.cedarschema");
/// Members of one tool's input that are typed, at every depth together.
const MOST_MEMBERS: usize = 512;
/// Records within records.
const MOST_DEPTH: usize = 6;
const LONGEST_NAME: usize = 128;

/// The types of one tool's arguments.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InputType {
    members: BTreeMap<String, Kind>,
    /// Members that policies cannot speak of, with the cause.
    pub left_out: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Text,
    Long,
    Bool,
    Set(Box<Kind>),
    Record(InputType),
}

/// An argument that is not what its `inputSchema` says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the argument {name:?} is not {wanted}, which its inputSchema says and a policy asks about")]
pub struct Mistyped {
    pub name: String,
    pub wanted: &'static str,
}

impl InputType {
    /// Of a tool's descriptor, JSON text as its server wrote it.
    pub fn of_descriptor(descriptor: &str) -> Self {
        match Json::parse(descriptor, usize::MAX) {
            Ok(descriptor) => descriptor.get("inputSchema").map(Self::of_schema).unwrap_or_default(),
            Err(e) => Self { members: BTreeMap::new(), left_out: vec![format!("everything: {e}")] },
        }
    }

    pub fn of_schema(schema: &Json) -> Self {
        Self::of(schema, 0, &mut { MOST_MEMBERS })
    }

    fn of(schema: &Json, depth: usize, room: &mut usize) -> Self {
        let mut input = Self::default();
        let members = schema.get("properties").and_then(Json::as_object).unwrap_or_default();
        let mut beyond = 0;
        for (name, schema) in members {
            let name = name.value.as_str();
            if *room == 0 {
                beyond += 1;
                continue;
            }
            *room -= 1;
            if name.len() > LONGEST_NAME {
                let head = &name[..name.floor_char_boundary(32)];
                input.left_out.push(format!("{head:?}…: its name is longer than {LONGEST_NAME} bytes"));
                continue;
            }
            match kind(schema, depth, room) {
                Ok(kind) => drop(input.members.insert(name.to_owned(), kind)),
                Err(why) => input.left_out.push(format!("{name:?}: {why}")),
            }
        }
        if beyond > 0 {
            input.left_out.push(format!("{beyond} more members: {MOST_MEMBERS} are typed at most"));
        }
        input
    }

    /// Whether policies can speak of this argument.
    pub(super) fn has(&self, name: &str) -> bool {
        self.members.contains_key(name)
    }

    /// Cedar's JSON form of the record.
    fn cedar(&self) -> serde_json::Value {
        let members: Map<_, _> = self
            .members
            .iter()
            .map(|(name, kind)| {
                let mut kind = kind.cedar();
                kind["required"] = json!(false);
                (name.clone(), kind)
            })
            .collect();
        json!({ "type": "Record", "attributes": members })
    }

    /// The schema that holds for policies whose head names this one tool.
    pub(super) fn schema(&self) -> Result<Schema, String> {
        let json = self.fragment_json()?;
        let fragment = SchemaFragment::from_json_value(json).map_err(|e| e.to_string())?;
        Schema::from_schema_fragments([fragment]).map_err(|e| e.to_string())
    }

    /// The same, for people and editors.
    pub fn schema_text(&self) -> Result<String, String> {
        let fragment = SchemaFragment::from_json_value(self.fragment_json()?).map_err(|e| e.to_string())?;
        fragment.to_cedarschema().map_err(|e| e.to_string())
    }

    fn fragment_json(&self) -> Result<serde_json::Value, String> {
        let (base, _) = SchemaFragment::from_cedarschema_str(SCHEMA).map_err(|e| e.to_string())?;
        let mut json = base.to_json_value().map_err(|e| e.to_string())?;
        let absent = "the embedded schema has no context";
        let mut context = json.pointer("//commonTypes/Circumstances").cloned().ok_or(absent)?;
        let mut input = self.cedar();
        input["required"] = json!(true);
        context["attributes"]["input"] = input;
        // Of calls of tools alone: nothing else has an inputSchema.
        *json.pointer_mut("//actions/call/appliesTo/context").ok_or(absent)? = context;
        Ok(json)
    }

    /// The arguments as values of these types; what has no type is left out.
    pub(super) fn values(&self, arguments: &Json) -> Result<Value, Mistyped> {
        self.record(arguments, "")
    }

    fn record(&self, json: &Json, path: &str) -> Result<Value, Mistyped> {
        let at = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        let Some(members) = json.as_object() else {
            return Err(Mistyped { name: path.to_owned(), wanted: "an object" });
        };
        // A server that reads `PATH` as `path` would act on another value than the one that is judged.
        if let Some((name, _)) = members
            .iter()
            .find(|(name, _)| !self.members.contains_key(&name.value) && self.folds_to_member(&name.value))
        {
            return Err(Mistyped {
                name: at(&name.value),
                wanted: "spelt in the letters of the member that it resembles",
            });
        }
        let mut values = Vec::new();
        for (name, value) in members {
            let Some(kind) = self.members.get(&name.value) else { continue };
            // "None" of an optional member is as good as no member.
            if *value == Json::Null {
                continue;
            }
            values.push((name.value.clone(), kind.value(value, &at(&name.value))?));
        }
        Value::new_record(values)
            .map_err(|_| Mistyped { name: path.to_owned(), wanted: "an object of distinct members" })
    }

    fn folds_to_member(&self, name: &str) -> bool {
        // A letter has at most four bytes and three letters in its other case.
        name.len() <= 8 * LONGEST_NAME && {
            let folded = fold(name);
            self.members.keys().any(|member| fold(member) == folded)
        }
    }
}

fn fold(text: &str) -> String {
    text.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect()
}

impl Kind {
    fn cedar(&self) -> serde_json::Value {
        match self {
            Kind::Text => json!({ "type": "String" }),
            Kind::Long => json!({ "type": "Long" }),
            Kind::Bool => json!({ "type": "Boolean" }),
            Kind::Set(of) => json!({ "type": "Set", "element": of.cedar() }),
            Kind::Record(input) => input.cedar(),
        }
    }

    fn wanted(&self) -> &'static str {
        match self {
            Kind::Text => "a string",
            Kind::Long => "a whole number of 64 bits",
            Kind::Bool => "true or false",
            Kind::Set(_) => "a list",
            Kind::Record(_) => "an object",
        }
    }

    fn value(&self, json: &Json, path: &str) -> Result<Value, Mistyped> {
        let mistyped = || Mistyped { name: path.to_owned(), wanted: self.wanted() };
        Ok(match (self, json) {
            // An absolute path stands here in its one form: `like "/home/u/*"` then means what it says.
            (Kind::Text, Json::String(text)) => {
                Value::new_string(derive::canonical_path(&text.value).unwrap_or_else(|| text.value.clone()))
            }
            (Kind::Long, Json::Number(text)) => Value::new_long(text.parse().map_err(|_| mistyped())?),
            (Kind::Bool, Json::Bool(value)) => Value::new_bool(*value),
            (Kind::Set(of), Json::Array(items)) => {
                let items = items.iter().enumerate().map(|(n, item)| of.value(item, &format!("{path}[{n}]")));
                Value::new_set(items.collect::<Result<Vec<_>, _>>()?)
            }
            (Kind::Record(input), Json::Object(_)) => input.record(json, path)?,
            _ => return Err(mistyped()),
        })
    }
}

fn kind(schema: &Json, depth: usize, room: &mut usize) -> Result<Kind, String> {
    if depth >= MOST_DEPTH {
        return Err(format!("it lies deeper than {MOST_DEPTH} levels"));
    }
    if schema.as_object().is_none() {
        return Err("it is of any type".to_owned());
    }
    for union in ["anyOf", "oneOf"] {
        if let Some(kinds) = schema.get(union).and_then(Json::as_array) {
            let is_null = |kind: &&Json| kind.get("type").and_then(Json::as_str) == Some("null");
            let others: Vec<&Json> = kinds.iter().filter(|kind| !is_null(kind)).collect();
            return match others.as_slice() {
                [one] => kind(one, depth + 1, room),
                _ => Err(format!("it is one of several types ({union})")),
            };
        }
    }
    let named: Vec<&str> = match schema.get("type") {
        Some(Json::String(name)) => vec![&name.value],
        Some(Json::Array(names)) => names.iter().filter_map(Json::as_str).filter(|name| *name != "null").collect(),
        _ if schema.get("$ref").is_some() => return Err("it is a reference ($ref)".to_owned()),
        // `enum` and `const` of strings only.
        _ => match schema.get("enum").and_then(Json::as_array) {
            Some(values) if !values.is_empty() && values.iter().all(|value| value.as_str().is_some()) => vec!["string"],
            _ => return Err("it has no type".to_owned()),
        },
    };
    match named.as_slice() {
        ["string"] => Ok(Kind::Text),
        ["integer"] => Ok(Kind::Long),
        ["boolean"] => Ok(Kind::Bool),
        ["array"] => match schema.get("items") {
            Some(items) => kind(items, depth + 1, room)
                .map(|of| Kind::Set(Box::new(of)))
                .map_err(|why| format!("of its items, {why}")),
            None => Err("its items have no type".to_owned()),
        },
        ["object"] => Ok(Kind::Record(InputType::of(schema, depth + 1, room))),
        ["number"] => Err("Cedar has no fractions".to_owned()),
        [one] => Err(format!("there is no type {:?}", one.chars().take(32).collect::<String>())),
        _ => Err("it is one of several types".to_owned()),
    }
}

#[cfg(test)]
mod tests;
