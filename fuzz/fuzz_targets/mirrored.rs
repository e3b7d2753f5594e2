//! Whatever a server's `inputSchema` annotates, a header is wanted for a place that the schema has, or the tool is left out.

use lazaret::proxy::json::Json;
use lazaret::proxy::mirrored::{fault_in, mirrored};

fuzz_target!(|text: &str| {
    let Ok(schema) = Json::parse(text, 64) else { return };
    let tool = Json::object([("name", Json::string("t")), ("inputSchema", schema)]);
    let found = mirrored(&tool);
    assert_eq!(fault_in(&tool.to_text()), found.as_ref().err().cloned());
    for one in found.unwrap_or_default() {
        let place = one
            .way
            .iter()
            .try_fold(tool.get("inputSchema").expect("it was set"), |at, step| at.get("properties")?.get(step));
        assert!(place.is_some_and(|place| place.get("x-mcp-header").is_some()));
    }
});
