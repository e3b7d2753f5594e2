//! What a server writes on its standard error comes out without control characters, and without its secrets, however it

//! is cut.

fuzz_target!(|bytes: &[u8]| lazaret::sandbox::fuzz_stderr(bytes));
