//! Any event of a client's hook is a note, nothing, or an error.
#![no_main]

use lazaret::identity::hooks::{HookNotes, read};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|event: &[u8]| {
    if let Ok(Some(note)) = read(event) {
        let _ = HookNotes::default().note(1, note, &[], std::time::Instant::now());
    }
});
