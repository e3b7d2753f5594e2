//! What a human signs: one agent, its key, what it is made of, what it may do, until when.
//!
//! Invariant: there is exactly one text for a document (RFC 8785), and only that text is read.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::VouchError;
use crate::identity::{Actions, Address, Measurement};
use crate::proxy::json::Json;

/// Longer than any document of 256 patterns.
const LONGEST: usize = 128 << 10;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VouchDocument {
    pub agent: Address,
    pub did: String,
    /// Digest of the [`Measurement`]; `null` vouches for the key alone.
    pub measurement: Option<String>,
    pub capabilities: Actions,
    pub not_after: Timestamp,
}

impl VouchDocument {
    pub fn new(
        agent: Address,
        did: String,
        measurement: Option<&Measurement>,
        capabilities: Actions,
        not_after: Timestamp,
    ) -> Self {
        // Whole seconds: what a person reads is all that there is.
        let not_after = Timestamp::from_second(not_after.as_second()).unwrap_or(not_after);
        Self { agent, did, measurement: measurement.map(|measured| measured.digest.clone()), capabilities, not_after }
    }

    /// The bytes that are signed.
    pub fn canonical(&self) -> String {
        // Strings, an array of strings and null: nothing that has two forms in JCS.
        Json::from_value(&serde_json::to_value(self).unwrap_or_default()).canonical()
    }

    pub fn parse(text: &str) -> Result<Self, VouchError> {
        if text.len() > LONGEST {
            return Err(VouchError::Document(format!("it is longer than {LONGEST} bytes")));
        }
        let document: Self = serde_json::from_str(text).map_err(|e| VouchError::Document(e.to_string()))?;
        if document.canonical() != text {
            return Err(VouchError::Document("it is not written as RFC 8785 has it, byte for byte".into()));
        }
        Ok(document)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::AgentKey;
    use proptest::prelude::*;

    fn document(not_after: i64) -> VouchDocument {
        VouchDocument::new(
            "claude@acme.lazaret.local".parse().unwrap(),
            AgentKey::generate().unwrap().public().did(),
            None,
            Actions::of(&["time/*".into(), "fs/read".into()]).unwrap(),
            Timestamp::from_second(not_after).unwrap(),
        )
    }

    #[test]
    fn the_signed_text_is_the_documented_one() {
        let mut document = document(1_800_000_000);
        document.measurement = Some("sha256:00".into());
        let expected = format!(
            r#"{{"agent":"claude@acme.lazaret.local","capabilities":["fs/read","time/*"],"did":"{}","measurement":"sha256:00","not_after":"2027-01-15T08:00:00Z"}}"#,
            document.did
        );
        assert_eq!(document.canonical(), expected);
    }

    #[test]
    fn any_other_form_of_the_same_document_is_refused() {
        let text = document(1_800_000_000).canonical();
        assert!(VouchDocument::parse(&text).is_ok());
        let others = [
            format!("{text}\n"),
            format!(" {text}"),
            text.replace(':', ": "),
            text.replace("08:00:00Z", "08:00:00.000Z"),
            text.replace("\"measurement\":null,", ""),
            text.replace("{\"agent\"", "{\"more\":1,\"agent\""),
            text.replace("{\"agent\"", "{\"agent\":\"x@y.z\",\"agent\""),
            text.replace("\"fs/read\",\"time/*\"", "\"time/*\",\"fs/read\""),
            "x".repeat(LONGEST + 1),
        ];
        for other in others {
            assert!(VouchDocument::parse(&other).is_err(), "{other:.200}");
        }
    }

    proptest! {
        #[test]
        fn documents_read_back(at in 0i64..100_000_000_000) {
            let document = document(at);
            prop_assert_eq!(VouchDocument::parse(&document.canonical()).unwrap(), document);
        }

        #[test]
        fn any_text_is_a_document_or_an_error(text in "\\PC{0,200}") {
            if let Ok(document) = VouchDocument::parse(&text) {
                prop_assert_eq!(document.canonical(), text);
            }
        }
    }
}
