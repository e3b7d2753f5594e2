//! An address reads back as it is shown.

use lazaret::identity::Address;

fuzz_target!(|text: &str| {
    if let Ok(address) = text.parse::<Address>() {
        assert_eq!(address.to_string(), text);
    }
});
