//! The fuzz targets under libFuzzer: `LAZARET_FUZZ_TARGET` says which of them. See `cargo xtask fuzz`.
#![no_main]

#[path = "fuzz_targets/mod.rs"]
mod targets;

use std::sync::OnceLock;

static CHOSEN: OnceLock<fn(&[u8])> = OnceLock::new();

fn chosen() -> fn(&[u8]) {
    let name = std::env::var("LAZARET_FUZZ_TARGET").unwrap_or_default();
    match targets::ALL.iter().find(|(target, _)| *target == name) {
        Some((_, run)) => *run,
        None => panic!("LAZARET_FUZZ_TARGET names no target: {name:?}"),
    }
}

/// libFuzzer calls it once, before any input.
#[unsafe(no_mangle)]
extern "C" fn LLVMFuzzerInitialize(_: *const i32, _: *const *const *const u8) -> i32 {
    let shown = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        shown(panic);
        std::process::abort();
    }));
    0
}

/// libFuzzer calls it with each input.
#[unsafe(no_mangle)]
extern "C" fn LLVMFuzzerTestOneInput(data: *const u8, size: usize) -> i32 {
    let input = match size {
        0 => &[],
        // SAFETY: libFuzzer gives as many bytes, and leaves them alone until this returns.
        _ => unsafe { std::slice::from_raw_parts(data, size) },
    };
    CHOSEN.get_or_init(chosen)(input);
    0
}
