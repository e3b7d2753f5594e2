//! A JSON tree that loses nothing: what was judged is what is forwarded.
//!
//! Numbers, string escapes, member order and unknown members come out as they went in. Duplicate
//! members are refused, because two readers of `{"name":"safe","name":"evil"}` may see different
//! names. Parsing takes time linear in the text, whatever its nesting.

use std::collections::HashSet;
use std::fmt;

use serde_json::Value;

mod number;
mod parse;

/// Nesting beyond this is refused whatever the caller's limit, so that no text can exhaust the stack.
const HARD_DEPTH: usize = 256;

#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum JsonError {
    #[error("it is not JSON: {expected} expected at byte {at}")]
    Syntax { at: usize, expected: &'static str },
    #[error("it is not JSON: the string at byte {at} has a bad escape ({cause})")]
    Escape { at: usize, cause: String },
    #[error("the member {member:?} stands twice in one object (second time at byte {at}); name each member once")]
    Duplicate { at: usize, member: String },
    #[error("it is nested deeper than {limit} levels at byte {at}; flatten it")]
    TooDeep { at: usize, limit: usize },
}

/// A string with its spelling. Two spellings of one string are equal as `value` and differ as text.
#[derive(Clone, PartialEq, Eq)]
pub struct JsonString {
    pub value: String,
    /// The text between the quotes, where it is not simply `value` (it has escapes).
    spelling: Option<Box<str>>,
}

impl JsonString {
    pub fn new(value: impl Into<String>) -> Self {
        let value = value.into();
        let escaped = escape(&value);
        let spelling = (escaped.len() != value.len() + 2).then(|| escaped[1..escaped.len() - 1].into());
        Self { value, spelling }
    }

    /// The string as it was written, with its quotes.
    pub fn raw(&self) -> String {
        let mut out = String::with_capacity(self.value.len() + 2);
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) {
        out.push('"');
        out.push_str(self.spelling.as_deref().unwrap_or(&self.value));
        out.push('"');
    }
}

impl AsRef<str> for JsonString {
    fn as_ref(&self) -> &str {
        &self.value
    }
}

impl fmt::Debug for JsonString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.raw())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Json {
    Null,
    Bool(bool),
    /// The number as it was written.
    Number(String),
    String(JsonString),
    Array(Vec<Json>),
    /// Members in the order in which they were written, each key once.
    Object(Vec<(JsonString, Json)>),
}

impl Json {
    /// Reads one JSON text and nothing after it. `max_depth` counts nested arrays and objects.
    pub fn parse(text: &str, max_depth: usize) -> Result<Json, JsonError> {
        parse::parse(text, max_depth.min(HARD_DEPTH))
    }

    /// Compact text: white space between tokens goes, everything else stays as written.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }

    pub fn write(&self, out: &mut String) {
        match self {
            Json::Null => out.push_str("null"),
            Json::Bool(true) => out.push_str("true"),
            Json::Bool(false) => out.push_str("false"),
            Json::Number(text) => out.push_str(text),
            Json::String(string) => string.write(out),
            Json::Array(items) => {
                out.push('[');
                for (n, item) in items.iter().enumerate() {
                    if n > 0 {
                        out.push(',');
                    }
                    item.write(out);
                }
                out.push(']');
            }
            Json::Object(members) => {
                out.push('{');
                for (n, (key, value)) in members.iter().enumerate() {
                    if n > 0 {
                        out.push(',');
                    }
                    key.write(out);
                    out.push(':');
                    value.write(out);
                }
                out.push('}');
            }
        }
    }

    /// RFC 8785 member order and string escapes, for digests. Numbers stay as written, so that
    /// integers beyond 2^53 never collide: `1` and `1.0` differ here.
    pub fn canonical(&self) -> String {
        let mut out = String::new();
        self.write_canonical(&mut out, &|number, out| out.push_str(number));
        out
    }

    /// RFC 8785 to the letter, numbers too, for what others have signed. `None` where a number is none of those
    /// that it knows.
    pub fn jcs(&self) -> Option<String> {
        let strange = std::cell::Cell::new(false);
        let mut out = String::new();
        self.write_canonical(&mut out, &|number, out| match number::ecmascript(number) {
            Some(number) => out.push_str(&number),
            None => strange.set(true),
        });
        (!strange.get()).then_some(out)
    }

    fn write_canonical(&self, out: &mut String, number: &impl Fn(&str, &mut String)) {
        match self {
            Json::Number(text) => number(text, out),
            Json::Null | Json::Bool(_) => self.write(out),
            Json::String(string) => out.push_str(&escape(&string.value)),
            Json::Array(items) => {
                out.push('[');
                for (n, item) in items.iter().enumerate() {
                    if n > 0 {
                        out.push(',');
                    }
                    item.write_canonical(out, number);
                }
                out.push(']');
            }
            Json::Object(members) => {
                let mut sorted: Vec<_> = members.iter().collect();
                sorted.sort_by(|(a, _), (b, _)| a.value.encode_utf16().cmp(b.value.encode_utf16()));
                out.push('{');
                for (n, (key, value)) in sorted.into_iter().enumerate() {
                    if n > 0 {
                        out.push(',');
                    }
                    out.push_str(&escape(&key.value));
                    out.push(':');
                    value.write_canonical(out, number);
                }
                out.push('}');
            }
        }
    }

    pub fn string(value: impl Into<String>) -> Json {
        Json::String(JsonString::new(value))
    }

    pub fn number(value: impl Into<serde_json::Number>) -> Json {
        Json::Number(value.into().to_string())
    }

    /// An object of these members; a key that comes again replaces the one before.
    pub fn object<K: AsRef<str>>(members: impl IntoIterator<Item = (K, Json)>) -> Json {
        let mut object = Json::Object(Vec::new());
        for (key, value) in members {
            object.set(key.as_ref(), value);
        }
        object
    }

    pub fn get(&self, key: &str) -> Option<&Json> {
        self.as_object()?.iter().find_map(|(k, v)| (k.value == key).then_some(v))
    }

    pub fn get_mut(&mut self, key: &str) -> Option<&mut Json> {
        match self {
            Json::Object(members) => members.iter_mut().find_map(|(k, v)| (k.value == key).then_some(v)),
            _ => None,
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Json::String(string) => Some(&string.value),
            _ => None,
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Json::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The value of a number that is written as a plain non-negative integer.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Json::Number(text) => text.parse().ok(),
            _ => None,
        }
    }

    pub fn as_array(&self) -> Option<&[Json]> {
        match self {
            Json::Array(items) => Some(items),
            _ => None,
        }
    }

    pub fn as_object(&self) -> Option<&[(JsonString, Json)]> {
        match self {
            Json::Object(members) => Some(members),
            _ => None,
        }
    }

    /// Its members, in their order; none where it is no object.
    pub fn into_members(self) -> Vec<(JsonString, Json)> {
        match self {
            Json::Object(members) => members,
            _ => Vec::new(),
        }
    }

    /// Replaces the member where it stands, or appends it. Does nothing to what is not an object.
    pub fn set(&mut self, key: &str, value: Json) {
        if let Some(old) = self.get_mut(key) {
            *old = value;
        } else if let Json::Object(members) = self {
            members.push((JsonString::new(key), value));
        }
    }

    pub fn remove(&mut self, key: &str) -> Option<Json> {
        let Json::Object(members) = self else { return None };
        let at = members.iter().position(|(k, _)| k.value == key)?;
        Some(members.remove(at).1)
    }

    pub fn from_value(value: &Value) -> Json {
        match value {
            Value::Null => Json::Null,
            Value::Bool(value) => Json::Bool(*value),
            Value::Number(number) => Json::Number(number.to_string()),
            Value::String(text) => Json::string(text.as_str()),
            Value::Array(items) => Json::Array(items.iter().map(Json::from_value).collect()),
            Value::Object(members) => {
                Json::Object(members.iter().map(|(k, v)| (JsonString::new(k.as_str()), Json::from_value(v))).collect())
            }
        }
    }

    /// A copy for code that thinks in `serde_json`. It may lose the spelling and digits of numbers;
    /// a number that no `f64` holds becomes its text, so that it can never pass for another number.
    pub fn to_value(&self) -> Value {
        match self {
            Json::Null => Value::Null,
            Json::Bool(value) => Value::Bool(*value),
            Json::Number(text) => {
                serde_json::from_str(text).map(Value::Number).unwrap_or_else(|_| Value::String(text.clone()))
            }
            Json::String(string) => Value::String(string.value.clone()),
            Json::Array(items) => Value::Array(items.iter().map(Json::to_value).collect()),
            Json::Object(members) => {
                Value::Object(members.iter().map(|(k, v)| (k.value.clone(), v.to_value())).collect())
            }
        }
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text())
    }
}

/// A JSON string literal; serde_json's escapes are those of RFC 8785.
fn escape(value: &str) -> String {
    Value::String(value.to_owned()).to_string()
}

/// The first key that comes a second time, with its place among the members.
fn second_of_a_kind(members: &[(JsonString, Json)]) -> Option<&str> {
    if members.len() <= 12 {
        let keys = members.iter().enumerate();
        return keys
            .filter(|(n, (key, _))| members[..*n].iter().any(|(other, _)| other.value == key.value))
            .map(|(_, (key, _))| key.value.as_str())
            .next();
    }
    let mut seen = HashSet::with_capacity(members.len());
    members.iter().map(|(key, _)| key.value.as_str()).find(|key| !seen.insert(*key))
}

#[cfg(test)]
mod tests;
