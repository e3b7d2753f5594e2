//! Any text is a hop, a chain, or an error; nothing that was not signed is a hop.
#![no_main]

use lazaret::identity::delegation::{check, parse, read_lines};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = parse(text);
    let _ = check(&read_lines(text), "did:key:zDaemon", 0);
});
