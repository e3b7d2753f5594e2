//! Any text is a configuration or an error with a place in it; a key that nobody knows is an error.

use std::path::Path;

use lazaret::config::{Config, ConfigError};

fuzz_target!(|text: &str| match Config::parse(text, Path::new("config.toml")) {
    Ok(_) => assert!(Config::parse(&format!("nobody_knows_this = 1\n{text}"), Path::new("config.toml")).is_err()),
    Err(ConfigError::Syntax { line, column, .. }) => {
        assert!(line >= 1 && column >= 1 && line <= text.split('\n').count(), "{line}:{column}");
    }
    Err(_) => {}
});
