//! What parses is written back so that it parses to the same again; it is what other readers read, and what they read
//! and we do not has a member twice, is nested too deeply, or has a string that no text can be.

use lazaret::proxy::json::{Json, JsonError};
use serde_json::Value;

fuzz_target!(|text: &str| {
    let other = serde_json::from_str::<Value>(text);
    match Json::parse(text, 64) {
        Ok(json) => {
            let written = json.to_text();
            let again = Json::parse(&written, 64).expect("what was written parses");
            assert_eq!(written, again.to_text());
            let canonical = json.canonical();
            assert_eq!(canonical, again.canonical());
            let back = Json::parse(&canonical, 64).expect("the canonical form parses");
            assert_eq!(canonical, back.canonical(), "and is its own");
            match other {
                Ok(other) => assert_eq!(json.to_value(), other),
                Err(e) => assert!(e.to_string().contains("number out of range"), "{e}"),
            }
        }
        Err(JsonError::Duplicate { .. } | JsonError::TooDeep { .. }) => {}
        Err(e) => assert!(other.is_err(), "{e}"),
    }
});
