//! Facts that policies read are in their one form, hold together, and only grow when a call says more.

use lazaret::policy::derive::derive;
use lazaret::proxy::json::Json;

fuzz_target!(|text: &str| {
    let Ok(arguments) = Json::parse(text, 64) else { return };
    let Ok(facts) = derive(&arguments) else { return };
    for path in facts.path_canon.iter().chain(&facts.path_ancestors) {
        assert!(path.starts_with('/') && (path == "/" || !path.ends_with('/')), "{path:?}");
        assert!(path.split('/').skip(1).all(|part| part != "." && part != ".." && (!part.is_empty() || path == "/")));
    }
    assert!(facts.path_canon.is_subset(&facts.path_ancestors));
    assert_eq!(facts.path_common.is_some(), !facts.path_canon.is_empty());
    if let Some(common) = &facts.path_common {
        let above = format!("{}/", common.trim_end_matches('/'));
        assert!(facts.path_canon.iter().all(|path| path == common || path.starts_with(&above)), "{common}");
    }
    assert!(facts.url_host.iter().chain(&facts.url_scheme).all(|text| *text == text.to_lowercase()));
    // The path in its one form is the same path, but for what somebody decodes or cuts off.
    for path in facts.path_canon.iter().filter(|path| !path.contains(['%', '\0'])) {
        let again = derive(&Json::string(path.as_str())).expect("one path is not too much");
        let same = path.trim_end_matches(|c: char| c.is_whitespace() || c.is_control()).len() == path.len();
        assert!(again.path_canon.contains(path) && (!same || again.path_canon.len() == 1), "{path:?}");
    }
    // One argument more takes nothing away.
    let more = Json::object([("all", arguments), ("more", Json::string("/etc/../home/u"))]);
    let Ok(more) = derive(&more) else { return };
    assert!(facts.path_canon.is_subset(&more.path_canon) && more.path_canon.contains("/home/u"));
    assert!(facts.path_ancestors.is_subset(&more.path_ancestors) && facts.path_names.is_subset(&more.path_names));
    assert!(facts.url_host.is_subset(&more.url_host) && facts.url_scheme.is_subset(&more.url_scheme));
    assert!(facts.sql_class.is_subset(&more.sql_class) && facts.path_unresolved <= more.path_unresolved);
    assert!(facts.url_port.is_subset(&more.url_port) && facts.size.longest <= more.size.longest);
});
