//! Any file in a home directory is a client config or an error.

fuzz_target!(|text: &str| lazaret::admission::clients::fuzz(text));
