//! What parses is written back so that it parses to the same again.
#![no_main]

use lazaret::proxy::json::Json;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(json) = Json::parse(text, 64) {
        let written = json.to_text();
        let again = Json::parse(&written, 64).expect("what was written parses");
        assert_eq!(written, again.to_text());
        assert_eq!(json.canonical(), again.canonical());
    }
});
