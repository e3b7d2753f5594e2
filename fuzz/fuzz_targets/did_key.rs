//! A public key reads back in each of its forms.
#![no_main]

use lazaret::identity::PublicKey;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(key) = text.parse::<PublicKey>() {
        assert_eq!(PublicKey::from_did(&key.did()).unwrap(), key);
    }
});
