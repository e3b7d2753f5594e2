//! Any text is a file of signers, or an error that names one of its lines.

use lazaret::identity::vouch::{Signers, SignersError};

fuzz_target!(|text: &str| {
    if let Err(SignersError::Line { line, .. }) = Signers::parse(text, "f") {
        assert!(line >= 1 && line <= text.lines().count());
    }
});
