//! Any line is a message or an error.
#![no_main]

use lazaret::proxy::envelope::{Limits, read};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &[u8]| {
    let limits = Limits { max_message_bytes: 1 << 16, max_depth: 32 };
    let _ = read(line, &limits);
});
