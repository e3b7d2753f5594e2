//! What is read as a vouch document is its one form; a source of a key reads back.

use lazaret::identity::{SourceName, VouchDocument};

fuzz_target!(|text: &str| {
    if let Ok(document) = VouchDocument::parse(text) {
        assert_eq!(document.canonical(), text);
    }
    if let Ok(source) = text.parse::<SourceName>() {
        assert_eq!(source.to_string(), text);
    }
});
