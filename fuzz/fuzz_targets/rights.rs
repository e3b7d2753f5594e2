//! Actions and capabilities read back as they are shown; what covers another allows at least as much.

use lazaret::identity::delegation::{Capabilities, Capability};
use lazaret::identity::{Action, Actions};

// The last line is a call, each before it a right.
fuzz_target!(|text: &str| {
    let mut lines: Vec<&str> = text.split('\n').take(64).collect();
    let Some((server, tool)) = lines.pop().and_then(|call| call.split_once('\t')) else { return };
    let actions: Vec<Action> = lines.iter().filter_map(|line| line.parse().ok()).collect();
    let allowed = actions.iter().any(|action| action.allows(server, tool));
    let written: Vec<String> = actions.iter().map(ToString::to_string).collect();
    assert!(written.iter().all(|action| lines.contains(&action.as_str())));
    let set = Actions::of(&written).expect("each of them is an action");
    assert_eq!(set.allows(server, tool), allowed);
    let again: Actions = serde_json::from_str(&serde_json::to_string(&set).expect("JSON")).expect("it reads back");
    assert_eq!(again, set);

    let capabilities: Vec<Capability> = lines.iter().filter_map(|line| line.parse().ok()).collect();
    for one in &capabilities {
        assert!(lines.contains(&one.to_string().as_str()) && one.covers(one));
        for other in &capabilities {
            assert!(!one.covers(other) || !other.allows(server, tool) || one.allows(server, tool), "{one} {other}");
        }
    }
    let (Ok(outer), Ok(inner)) =
        (Capabilities::new(capabilities.clone()), Capabilities::new(capabilities.into_iter().skip(1).collect()))
    else {
        return;
    };
    assert!(outer.beyond(&inner).is_none());
    if inner.beyond(&outer).is_none() {
        assert_eq!(inner.allows(server, tool), outer.allows(server, tool));
    }
});
