//! What a 401 says is read or skipped, and a scheme that is not there is never found.
#![no_main]

use lazaret::remote::oauth::Challenge;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let found = Challenge::bearer([text]);
    assert!(found.is_none() || text.to_ascii_lowercase().contains("bearer"));
});
