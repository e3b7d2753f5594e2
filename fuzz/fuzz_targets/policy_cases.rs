//! A file of policy test cases is read, or refused with its place.

use std::path::Path;

use lazaret::policy::cases::{CaseError, parse};

fuzz_target!(|text: &str| {
    if let Err(CaseError::Syntax { line, column, .. }) = parse(Path::new("f"), text) {
        assert!(line >= 1 && column >= 1);
    }
});
