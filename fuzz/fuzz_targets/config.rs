//! Any text is a configuration or an error with a place.
#![no_main]

use std::path::Path;

use lazaret::config::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = Config::parse(text, Path::new("config.toml"));
});
