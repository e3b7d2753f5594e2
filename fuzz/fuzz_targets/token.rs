//! Any Authorization header is a token in its one spelling, or none.
#![no_main]

use lazaret::identity::Bearer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|value: &[u8]| {
    if let Some(bearer) = Bearer::from_header(value) {
        assert!(value.windows(86).any(|part| part == bearer.text().as_bytes()));
    }
});
