//! Facts that policies read are derived from any arguments without a panic.
#![no_main]

use lazaret::proxy::json::Json;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(arguments) = Json::parse(text, 64) {
        let _ = lazaret::policy::derive::derive(&arguments);
    }
});
