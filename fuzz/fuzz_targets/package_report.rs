//! What npm and pip say of a package that somebody published: the command that is made of it stays in the package.

fuzz_target!(|bytes: &[u8]| lazaret::sandbox::fuzz_report(bytes));
