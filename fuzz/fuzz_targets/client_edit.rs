//! An edit of a client's config changes the one entry and no byte of another; what was taken out goes back as it was;

//! no secret is shown.

fuzz_target!(|text: &str| lazaret::admission::install::fuzz(text));
