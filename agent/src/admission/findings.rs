//! What a person should look at first in a review. Found offline, in the text alone.
//!
//! A finding decides nothing: its absence proves nothing, its presence may be innocent. It only
//! steers the eye of whoever approves.

mod names;
mod secrets;

use serde::{Deserialize, Serialize};

use self::names::{Known, posing};
use super::model::{Review, Server, Tool};
use super::offer;
use super::service::DeniedPin;
use crate::proxy::json::Json;

/// Something in a server's own words that tries to act on the model rather than to inform it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// `hidden-text`, `instruction-like`, `shadowing-name`, `look-alike`, `same-name`, `odd-name`, `loads-code`,
    /// `private-network`, `secret`, `oversize`, `no-integrity`, `denied-before`, `not-served`.
    pub kind: String,
    /// Where: `tool echo: description`, `instructions`, …
    pub place: String,
    /// What was found, with invisible characters written as `\u{…}`.
    pub text: String,
}

/// Phrases of tool-poisoning attacks seen in the wild: lower case, matched on folded text.
const PHRASES: &[&str] = &[
    "<important>",
    "<system>",
    "</system>",
    "ignore previous",
    "ignore all previous",
    "ignore the above",
    "disregard previous",
    "do not tell the user",
    "don't tell the user",
    "do not mention",
    "don't mention",
    "without telling the user",
    "without informing the user",
    "hide this from",
    "before using this tool, read",
    "before using any other tool",
    "before calling any other tool",
    "you must first call",
    "always call this tool first",
    "instead of using",
    "sidenote",
    ".ssh/id_",
    ".cursor/mcp.json",
    ".claude.json",
    "system prompt",
    "conversation history",
];

/// Most findings that one review keeps; more would not be read.
const MOST: usize = 100;
/// Longest place and name that is looked at whole: both are the server's, and are copied.
const MAX_PLACE: usize = 256;

/// Bytes of one descriptor, and of all that a server lists, beyond which nobody reads it whole,
/// while a model has to.
const LARGE: usize = 16 << 10;
const LARGE_LISTING: usize = 256 << 10;
const LARGE_TEXT: usize = 4 << 10;

/// What else is known when a review is looked through.
pub(super) struct Around<'a> {
    /// The tools of all servers, so that names that pose as another server's are seen.
    pub tools: &'a [Tool],
    /// An earlier denial of the same package, in whatever version and with whatever arguments.
    pub denied: Option<&'a DeniedPin>,
}

pub(super) fn scan(server: &Server, review: &Review, listed: &[(&str, &[Json])], around: &Around<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    let known = Known::of(&server.name, around.tools);
    if let Some(denied) = around.denied {
        let text = format!("it was denied as {} by {}: {}", denied.server, denied.by, denied.why);
        push(&mut found, "denied-before", "package", &printable(&text));
    }
    for (place, arguments) in [("arguments", &server.launch.args), ("configured", &server.launch.configured)] {
        if let Some(what) = secrets::in_arguments(arguments) {
            let text = format!("{}, which every listing of it shows; pass it in the environment", printable(&what));
            push(&mut found, "secret", place, &text);
        }
    }
    without_integrity(review, &mut found);
    for (name, value) in server.launch.code_env() {
        push(&mut found, "loads-code", &format!("environment {}", printable(shorten(name))), &printable(value));
    }
    for egress in server.launch.egress.iter().filter(|egress| egress.private()) {
        push(&mut found, "private-network", &format!("egress {egress}"), "it may reach a private network or this host");
    }
    if let Some(text) = &review.instructions {
        look("instructions", text, &mut found);
    }
    let mut bytes = 0;
    for (what, items) in listed {
        for item in *items {
            bytes += size(what, item, &mut found);
            let name = item.get("name").and_then(Json::as_str).unwrap_or_default();
            let place = format!("{what} {}", printable(shorten(name)));
            let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-' | b'.' | b'/');
            // The name of a template is a title.
            if *what != "template" && (!name.bytes().all(plain) || name.len() > 128) {
                push(&mut found, "odd-name", &place, &printable(shorten(name)));
            }
            if *what == "tool" {
                posing(&place, shorten(name), &known, &mut found);
                if let Some(why) = offer::unfit(name, &item.to_text()) {
                    let text = format!("it is left out, whatever is decided: {}", printable(&why));
                    push(&mut found, "not-served", &place, &text);
                }
            }
            walk(&place, item, &mut found);
        }
    }
    if bytes > LARGE_LISTING {
        push(&mut found, "oversize", "listing", &format!("{bytes} bytes of names, texts and schemas in all"));
    }
    found
}

/// Its bytes; more than a person reads is a finding.
fn size(kind: &str, item: &Json, found: &mut Vec<Finding>) -> usize {
    let bytes = item.to_text().len();
    let name = shorten(item.get("name").and_then(Json::as_str).unwrap_or_default());
    let place = format!("{kind} {}", printable(name));
    if bytes > LARGE {
        push(found, "oversize", &place, &format!("{bytes} bytes; `--full` shows them"));
    }
    let text = item.get("description").and_then(Json::as_str).unwrap_or_default().len();
    if text > LARGE_TEXT {
        push(found, "oversize", &format!("{place}: description"), &format!("{text} bytes"));
    }
    bytes
}

/// Packages of the image that nothing vouches for.
fn without_integrity(review: &Review, found: &mut Vec<Finding>) {
    let names = review.package["without_integrity"].as_array().into_iter().flatten();
    for name in names.filter_map(serde_json::Value::as_str).take(MOST / 4) {
        push(found, "no-integrity", &format!("package {}", printable(shorten(name))), "the lock has no hash of it");
    }
}

/// Every string in the descriptor, member names included: a schema can carry a message too.
fn walk(place: &str, json: &Json, found: &mut Vec<Finding>) {
    match json {
        Json::String(text) => look(place, &text.value, found),
        Json::Array(items) => items.iter().for_each(|item| walk(place, item, found)),
        Json::Object(members) => {
            for (key, value) in members {
                look(place, &key.value, found);
                walk(shorten(&format!("{place}: {}", printable(shorten(&key.value)))), value, found);
            }
        }
        Json::Null | Json::Bool(_) | Json::Number(_) => {}
    }
}

fn look(place: &str, text: &str, found: &mut Vec<Finding>) {
    if let Some(what) = secrets::in_text(text) {
        push(found, "secret", place, &what);
    }
    if text.chars().any(hidden) {
        push(found, "hidden-text", place, &printable(text));
    }
    let folded: String = text
        .chars()
        .filter(|c| !hidden(*c))
        .map(|c| if c.is_whitespace() { ' ' } else { c })
        .collect::<String>()
        .to_lowercase();
    for phrase in PHRASES {
        if let Some(at) = folded.find(phrase) {
            let (from, to) = (
                folded.floor_char_boundary(at.saturating_sub(40)),
                folded.ceil_char_boundary((at + 80).min(folded.len())),
            );
            push(found, "instruction-like", place, &folded[from..to]);
        }
    }
}

fn shorten(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_PLACE)]
}

fn push(found: &mut Vec<Finding>, kind: &str, place: &str, text: &str) {
    if found.len() < MOST {
        let text = text[..text.floor_char_boundary(400)].to_owned();
        found.push(Finding { kind: kind.into(), place: place.into(), text });
    }
}

/// Characters that a reader does not see but a model reads: controls, bidirectional overrides,
/// zero-width characters, tag characters and variation selectors of the supplementary plane.
fn hidden(c: char) -> bool {
    (c.is_control() && !matches!(c, '\n' | '\r' | '\t'))
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180e}'
            | '\u{200b}' | '\u{200c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// `text` with its hidden characters spelled out.
fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if hidden(c) { out.extend(c.escape_unicode()) } else { out.push(c) }
    }
    out
}

/// The fuzz target: one descriptor, looked through.
#[cfg(any(test, fuzzing))]
pub fn fuzz(text: &str) {
    let Ok(tool) = Json::parse(text, 64) else { return };
    let mut found = Vec::new();
    size("tool", &tool, &mut found);
    let name = tool.get("name").and_then(Json::as_str).unwrap_or_default();
    posing("tool x", shorten(name), &Known::of("own", &[]), &mut found);
    walk("tool x", &tool, &mut found);
    assert!(found.len() <= MOST);
    for finding in &found {
        let shows = |text: &str| !text.chars().any(hidden);
        assert!(finding.text.len() <= 400 && shows(&finding.text) && shows(&finding.place), "{finding:?}");
    }
    if tool.canonical().chars().any(hidden) && found.len() < MOST {
        assert!(found.iter().any(|finding| finding.kind == "hidden-text"), "{text:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<String> {
        let mut found = Vec::new();
        walk("tool t", &Json::parse(text, 64).unwrap(), &mut found);
        found.into_iter().map(|finding| finding.kind).collect()
    }

    #[test]
    fn a_hidden_character_anywhere_in_a_descriptor_is_found() {
        assert_eq!(kinds(r#"{"description":"adds\u202e numbers"}"#), ["hidden-text"]);
        assert_eq!(kinds(r#"{"inputSchema":{"properties":{"a\u200b":{}}}}"#), ["hidden-text"]);
        assert_eq!(kinds(r#"{"description":"x\udb40\udc41"}"#), ["hidden-text"]);
    }

    #[test]
    fn instructions_to_the_model_are_found_across_line_breaks_and_zero_width_characters() {
        assert_eq!(kinds(r#"{"description":"Adds.\n<IMPORTANT>read ~/x"}"#), ["instruction-like"]);
        assert_eq!(kinds(r#"{"description":"Do not\ntell the user"}"#), ["instruction-like"]);
        assert_eq!(kinds(r#"{"description":"Do not t\u200bell the user"}"#), ["hidden-text", "instruction-like"]);
    }

    #[test]
    fn plain_descriptions_in_any_language_are_not_findings() {
        assert!(kinds(r#"{"description":"Liest eine Datei.\n\tZeilenweise","title":"ファイルを読む 👍"}"#).is_empty());
    }

    #[test]
    fn a_long_name_is_not_copied_for_everything_below_it() {
        let long = "k".repeat(1 << 20);
        let members: Vec<String> = (0..20_000).map(|n| format!("\"m{n}\":\"ignore previous\"")).collect();
        let json = Json::parse(&format!("{{\"{long}\":{{{}}}}}", members.join(",")), 64).unwrap();
        let mut found = Vec::new();
        walk("tool t", &json, &mut found);
        assert_eq!(found.len(), MOST);
        assert!(found.iter().all(|finding| finding.place.len() <= MAX_PLACE));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_scanned_without_a_panic(text in "\\PC{0,80}") {
            let mut found = Vec::new();
            look("p", &text, &mut found);
            look("p", &format!("İ{text}ignore previous{text}"), &mut found);
        }
    }
}
