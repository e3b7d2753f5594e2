//! Any text is a set of policies, or faults with their places.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(faults) = lazaret::policy::try_text(text) {
        assert!(faults.iter().all(|fault| fault.line >= 1 && fault.column >= 1));
    }
});
