//! A config's text for showing: what stands in `env` and `headers` is often a secret, and a
//! diff ends up in scrollbacks and logs.

const SECRET: [&str; 2] = ["env", "headers"];
const MASK: &str = "\"***\"";

/// `text`, which is JSON, with every value below a member `env` or `headers` replaced. The names
/// and the line breaks stay.
pub(super) fn masked(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    // For each open object or array: whether it is an object, and whether its values are masked.
    let mut open: Vec<(bool, bool)> = Vec::new();
    let mut key: Option<String> = None;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let hides = open.last().is_some_and(|(_, hides)| *hides);
        let len = match c {
            '"' => string_end(rest),
            '{' | '[' | '}' | ']' | ',' | ':' => 1,
            c if c.is_whitespace() => c.len_utf8(),
            _ => rest.find(|c: char| c.is_whitespace() || "{}[],:\"".contains(c)).unwrap_or(rest.len()),
        };
        let (token, after) = rest.split_at(len);
        let is_key = c == '"' && open.last().is_some_and(|(object, _)| *object) && after.trim_start().starts_with(':');
        match c {
            '{' | '[' => {
                let secret = key.take().is_some_and(|key| SECRET.iter().any(|name| key.eq_ignore_ascii_case(name)));
                open.push((c == '{', hides || secret));
            }
            '}' | ']' => drop(open.pop()),
            ',' => key = None,
            '"' if is_key => key = serde_json::from_str(token).ok(),
            _ => {}
        }
        let scalar = !c.is_whitespace() && !"{}[],:".contains(c) && !is_key;
        let named = key.as_deref().is_some_and(|key| SECRET.iter().any(|name| key.eq_ignore_ascii_case(name)));
        out.push_str(if scalar && (hides || named) { MASK } else { token });
        rest = after;
    }
    out
}

/// Bytes of the string that `text` begins with, quotes included.
fn string_end(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Nothing below `env` and `headers` but names, and everything else as it was.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(text: &str) {
    use crate::proxy::json::Json;
    fn same(before: &Json, after: &Json, hides: bool) {
        match (before, after) {
            (Json::Array(before), Json::Array(after)) => {
                assert_eq!(before.len(), after.len());
                before.iter().zip(after).for_each(|(before, after)| same(before, after, hides));
            }
            (Json::Object(before), Json::Object(after)) => {
                assert_eq!(before.len(), after.len());
                for ((name, before), (name_after, after)) in before.iter().zip(after) {
                    assert_eq!(name, name_after);
                    let secret = SECRET.iter().any(|secret| name.value.eq_ignore_ascii_case(secret));
                    same(before, after, hides || secret);
                }
            }
            (_, after) if hides => assert_eq!(after.as_str(), Some("***")),
            (before, after) => assert_eq!(before, after),
        }
    }
    let before = Json::parse(text, 128).expect("it was read before");
    let shown = masked(text);
    same(&before, &Json::parse(&shown, 128).expect("what is shown is JSON"), false);
    assert_eq!(shown.lines().count(), text.lines().count());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_stands_in_env_and_headers_is_hidden() {
        let text = r#"{"a":{"command":"x","env":{"TOKEN":"s\"3","N":1,"deep":[true,{"k":"s"}]},"b":"env"},"headers":{"A":"s"},"env":"s","c":"x"}"#;
        assert_eq!(
            masked(text),
            r#"{"a":{"command":"x","env":{"TOKEN":"***","N":"***","deep":["***",{"k":"***"}]},"b":"env"},"headers":{"A":"***"},"env":"***","c":"x"}"#
        );
        assert_eq!(masked(r#"{"e\u006ev":{"T":"s"}}"#), r#"{"e\u006ev":{"T":"***"}}"#);
    }

    proptest! {
        #[test]
        fn no_value_shows_and_the_lines_stay(name in "\\PC{0,8}", secret in "s3cret[\\PC]{0,8}", other in "\\PC{0,8}") {
            let json = serde_json::json!({"x": {"env": {name.clone(): secret}, "other": other}, "y": other});
            let text = serde_json::to_string_pretty(&json).unwrap();
            let hidden = masked(&text);
            prop_assert!(!hidden.contains("s3cret"), "{}", hidden);
            prop_assert_eq!(hidden.lines().count(), text.lines().count());
            let back: serde_json::Value = serde_json::from_str(&hidden).unwrap();
            prop_assert_eq!(&back["x"]["other"], &json["x"]["other"]);
            prop_assert_eq!(&back["y"], &json["y"]);
        }

        #[test]
        fn any_text_is_passed_through_without_a_panic(text in "[\\PC\"{}:,\\\\]{0,60}") {
            masked(&text);
        }
    }
}
