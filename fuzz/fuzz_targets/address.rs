//! An address reads back as it is shown.
#![no_main]

use lazaret::identity::Address;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(address) = text.parse::<Address>() {
        assert_eq!(address.to_string(), text);
    }
});
