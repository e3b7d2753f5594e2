//! One descriptor has one pin however it is spelt, and another one for whatever is changed in it.

use lazaret::admission::pins::{tool_digest, tool_names};
use lazaret::proxy::json::Json;

fuzz_target!(|text: &str| {
    let Ok(tool) = Json::parse(text, 64) else { return };
    let pin = tool_digest(&tool);
    let canonical = Json::parse(&tool.canonical(), 64).expect("the canonical form parses");
    assert_eq!(tool_digest(&canonical), pin);
    if let Json::Object(members) = &tool {
        for (at, (name, _)) in members.iter().enumerate() {
            let mut members = members.clone();
            let (_, value) = members.remove(at);
            assert_ne!(tool_digest(&Json::Object(members.clone())), pin, "without {name:?}");
            // The order in which members stand is no part of it.
            members.push((name.clone(), value));
            assert_eq!(tool_digest(&Json::Object(members.clone())), pin, "{name:?} at the end");
            if let Some((_, value)) = members.last_mut() {
                *value = Json::Array(vec![value.clone()]);
            }
            assert_ne!(tool_digest(&Json::Object(members)), pin, "{name:?} changed");
        }
    }
    if let Some(tools) = tool.as_array()
        && let Ok(names) = tool_names(tools)
    {
        assert_eq!(names.len(), tools.len());
        assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), tools.len());
    }
});
