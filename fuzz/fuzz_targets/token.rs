//! Any Authorization header is a token in its one spelling, or none; a token shows no secret of its own.

use lazaret::identity::Bearer;

fuzz_target!(|value: &[u8]| {
    if let Some(bearer) = Bearer::from_header(value) {
        let text = bearer.text();
        assert!(value.trim_ascii_end().ends_with(text.as_bytes()) && value[..6].eq_ignore_ascii_case(b"bearer"));
        assert_eq!(Bearer::parse(&text).map(|again| again.text()), Some(text.clone()));
        let secret = text.rsplit('_').next().unwrap_or_default();
        assert!(secret.len() == 64 && !format!("{bearer:?}").contains(secret));
        assert!(Bearer::parse(&text.to_uppercase()).is_none());
    }
});
