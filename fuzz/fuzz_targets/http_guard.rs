//! Whatever Host and Origin say, only the door's own names and pages of this host get in.

fuzz_target!(|text: &str| lazaret::proxy::http::fuzz_guard(text));
