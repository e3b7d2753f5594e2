//! Any file in a home directory is a client config or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| lazaret::admission::clients::fuzz(text));
