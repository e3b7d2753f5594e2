//! A public key reads back in each of its forms.

use lazaret::identity::PublicKey;

fuzz_target!(|text: &str| {
    if let Ok(key) = text.parse::<PublicKey>() {
        assert_eq!(PublicKey::from_did(&key.did()).unwrap(), key);
    }
});
