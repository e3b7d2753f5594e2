//! What an authorization server answers and a browser brings back: a token that a header can carry, metadata about the

//! server that was asked, a code of the login that was begun; or an error.

fuzz_target!(|bytes: &[u8]| lazaret::remote::oauth::fuzz(bytes));
