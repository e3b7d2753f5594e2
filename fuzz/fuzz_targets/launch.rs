//! Any argv is a launch definition or an error.
#![no_main]

use std::collections::BTreeMap;
use std::path::Path;

use lazaret::admission::launch;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let argv: Vec<String> = text.split('\0').map(str::to_owned).collect();
    if let Ok(definition) = launch::from_argv(&argv, &BTreeMap::new(), Path::new("/nonexistent")) {
        let _ = launch::suggest_name(&definition);
    }
});
