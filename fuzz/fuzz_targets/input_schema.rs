//! Whatever a server's `inputSchema` is, Cedar takes the schema that is made of it.

use lazaret::policy::input::InputType;
use lazaret::proxy::json::Json;

fuzz_target!(|text: &str| {
    if let Ok(schema) = Json::parse(text, 64) {
        assert!(InputType::of_schema(&schema).schema_text().is_ok());
    }
});
