//! What a 401 says is read or skipped, and a scheme that is not there is never found; what it names stands in the header.

use lazaret::remote::oauth::Challenge;

fuzz_target!(|text: &str| {
    let Some(found) = Challenge::bearer([text]) else { return };
    assert!(text.to_ascii_lowercase().contains("bearer"));
    let plain = text.replace('\\', "");
    for value in [&found.resource_metadata, &found.scope, &found.error].into_iter().flatten() {
        assert!(plain.contains(&value.replace('\\', "")), "{value:?}");
    }
});
