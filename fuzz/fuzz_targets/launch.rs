//! Any argv is a launch definition or an error, the same each time; what it holds was typed, and its name is one.

use std::collections::BTreeMap;
use std::path::Path;

use lazaret::admission::{launch, valid_name};

fuzz_target!(|text: &str| {
    let argv: Vec<String> = text.split('\0').map(str::to_owned).collect();
    let env = BTreeMap::from([("PATH".to_owned(), "/x".to_owned()), ("TOKEN".to_owned(), "t".to_owned())]);
    let read = || launch::from_argv(&argv, &env, Path::new("/nonexistent"));
    let Ok(definition) = read() else { return };
    assert_eq!(read().as_ref(), Ok(&definition));
    assert_eq!(definition.configured, argv);
    assert!(definition.env.keys().all(|name| name != "PATH" && name != "LD_PRELOAD" && !name.is_empty()));
    assert!(definition.egress.is_empty(), "no command line opens the network");
    let name = launch::suggest_name(&definition);
    assert!(valid_name(&name), "{name:?}");
    let written = serde_json::to_string(&definition).expect("it can be stored");
    assert_eq!(
        serde_json::from_str::<lazaret::admission::LaunchDefinition>(&written).expect("it reads back"),
        definition
    );
});
