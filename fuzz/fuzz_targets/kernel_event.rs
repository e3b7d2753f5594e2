//! Any bytes in the ring buffer are an event or an error; what an event says stands in its bytes, and is bounded by them.

fuzz_target!(|bytes: &[u8]| lazaret::kernel::fuzz_event(bytes));
