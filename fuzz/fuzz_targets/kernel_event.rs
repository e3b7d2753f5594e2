//! Any bytes in the ring buffer are an event or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| lazaret::kernel::fuzz_event(bytes));
