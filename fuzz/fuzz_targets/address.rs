//! An address is shown in lower case, and reads back as it is shown.

use lazaret::identity::Address;

fuzz_target!(|text: &str| {
    if let Ok(address) = text.parse::<Address>() {
        let shown = address.to_string();
        assert_eq!(shown, text.to_ascii_lowercase());
        assert_eq!(shown.parse::<Address>(), Ok(address));
    }
});
