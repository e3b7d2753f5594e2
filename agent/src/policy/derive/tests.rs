use super::*;
use proptest::prelude::*;
use serde_json::json;

fn derived(value: serde_json::Value) -> Derived {
    derive(&Json::from_value(&value)).unwrap()
}

fn texts(set: &BTreeSet<String>) -> Vec<&str> {
    set.iter().map(String::as_str).collect()
}

#[test]
fn a_path_that_climbs_out_is_seen_where_it_leads() {
    let facts = derived(json!({"path": "/home/u/proj/../../../etc/./shadow//"}));
    assert_eq!(texts(&facts.path_canon), ["/etc/shadow"]);
    assert_eq!(texts(&facts.path_ancestors), ["/", "/etc", "/etc/shadow"]);
    assert_eq!(facts.path_common.as_deref(), Some("/etc/shadow"));
    assert!(!facts.path_unresolved);
}

#[test]
fn paths_are_found_wherever_they_stand() {
    let facts =
        derived(json!({"a": [{"b": "/x/1"}, "\t/x/2 "], "/x/key": 1, "n": 3.0, "text": "see /y/z", "s": ["/"]}));
    assert_eq!(texts(&facts.path_canon), ["/", "/x/1", "/x/2", "/x/key"]);
    assert_eq!(facts.path_common.as_deref(), Some("/"));
}

#[test]
fn what_one_server_decodes_once_another_decodes_twice() {
    let found = derived(json!({"path": "/home/u/%2e%2e/%2575/f"}));
    assert_eq!(texts(&found.path_canon), ["/home/%75/f", "/home/u/%2e%2e/%2575/f", "/home/u/f"]);
    assert_eq!(found.path_common.as_deref(), Some("/home"));
}

#[test]
fn the_common_path_goes_by_components_not_by_letters() {
    let common = |paths: &[&str]| derived(json!(paths)).path_common;
    assert_eq!(common(&["/a/b/c", "/a/b/d"]).as_deref(), Some("/a/b"));
    assert_eq!(common(&["/a/b", "/a/b-c/d", "/a/b/c"]).as_deref(), Some("/a"));
    assert_eq!(common(&["/home/u/proj/x", "/home/u/project/x"]).as_deref(), Some("/home/u"));
    assert_eq!(common(&["relative", "http://x/y"]), None);
}

#[test]
fn what_only_the_server_can_resolve_is_flagged() {
    for text in ["../x", "a/../../b", "..", "~/x", "~root/.ssh", " ../x"] {
        assert!(derived(json!({"p": text})).path_unresolved, "{text}");
    }
    for text in ["a/b", "a..b", "/a/../b", "...", ""] {
        assert!(!derived(json!({"p": text})).path_unresolved, "{text}");
    }
}

#[test]
fn file_urls_are_paths() {
    for text in [
        "file:///etc/shadow",
        "FILE:/etc/x/../shadow",
        "file://localhost/etc/%2e%2e/etc/shadow",
        "file:///etc%2Fshadow",
        " file:///etc/./shadow",
    ] {
        assert!(derived(json!({"u": text})).path_canon.contains("/etc/shadow"), "{text}");
    }
}

#[test]
fn every_reading_of_a_host_is_seen() {
    let hosts = |text: &str| derived(json!({"url": text})).url_host;
    let has = |text: &str, host: &str| assert!(hosts(text).contains(host), "{text}: {:?}", hosts(text));
    has("https://Example.COM:8443/x", "example.com");
    has("https://example.com./", "example.com");
    has("http://good.example@evil.example/", "evil.example");
    has("http://evil.example\\@good.example/", "evil.example");
    has("http://evil.example\\@good.example/", "good.example");
    has("http://a@evil.example@good.example/", "evil.example");
    has("http:evil.example/x", "evil.example");
    has("ht\ntp://evil.example/", "evil.example");
    has("http://0x7f.1/", "127.0.0.1");
    has("http://2130706433/", "127.0.0.1");
    has("http://[::1]:80/", "[::1]");
    has("http://b\u{fc}cher.example/", "xn--bcher-kva.example");
    has("//evil.example/x", "evil.example");
    has("git+ssh://git@evil.example/x", "evil.example");
    has("  https://evil.example", "evil.example");
    assert!(hosts("mailto:a@b.example").is_empty());
    assert!(derived(json!({"text": "hello"})).url_host.is_empty());
    // What is wrapped, and what looks for the `@` first.
    for text in [
        "URL:http://evil.example/",
        "<http://evil.example>",
        "<URL: http://evil.example/>",
        "jar:http://evil.example/a!/",
    ] {
        has(text, "evil.example");
    }
    has("http://good.example#@evil.example/", "evil.example");
    has("http://good.example?@evil.example/", "evil.example");
    // Whatever else an address stands for.
    for text in ["http://[64:ff9b::a9fe:a9fe]/", "http://[2002:a9fe:a9fe::1]/", "http://[::ffff:0:169.254.169.254]/"] {
        has(text, "169.254.169.254");
    }
    for text in ["http://127.0.0.2/", "http://127.255.255.254:80", "http://[::ffff:127.0.0.9]/", "http://[::1]/"] {
        has(text, "127.0.0.1");
    }
    for text in ["http://a.localhost/", "http://LOCALHOST.localdomain./", "http://ip6-localhost:80/"] {
        has(text, "localhost");
    }
}

#[test]
fn a_place_without_a_scheme_is_seen_where_places_stand_and_an_address_everywhere() {
    let hosts = |key: &str, text: &str| texts(&derived(json!({key: text})).url_host).join(" ");
    for key in ["url", "base_url", "webhookUrl", "host", "Hostname"] {
        assert_eq!(hosts(key, "Metadata.example/x"), "metadata.example", "{key}");
        assert_eq!(hosts(key, "a:b@evil.example:80/x"), "evil.example", "{key}");
    }
    for text in ["169.254.169.254/latest", "169.254.169.254:80/latest"] {
        assert_eq!(hosts("text", text), "169.254.169.254", "{text}");
    }
    assert_eq!(hosts("text", "0xa9.254.169.254:80"), "0xa9.254.169.254 169.254.169.254", "every reading");
    assert_eq!(hosts("text", "localhost:8080/x"), "localhost");
    for text in ["src/main.rs", "1.2/3", "1.2.3/4", "hello", "a.b.c.d/e", "1.2.3.400/x"] {
        assert_eq!(hosts("path", text), "", "{text}");
    }
}

#[test]
fn a_path_ends_where_the_kernel_ends_it() {
    assert!(derived(json!({"path": "/etc/shadow\0.txt"})).path_names.contains("shadow"));
    assert!(derived(json!({"path": "/a/../etc/shadow\0"})).path_canon.contains("/etc/shadow"));
}

#[test]
fn arguments_of_any_size_cost_bounded_memory() {
    let deep = "/a".repeat(2_000);
    let many: Vec<String> = (0..2_000).map(|n| format!("/{n}{deep}")).collect();
    assert_eq!(derive(&Json::from_value(&json!(many))), Err(TooMuch));
    // Longer than any file's name: it names nothing, and costs nothing.
    let long = "/a".repeat(2_000_000);
    assert!(derived(json!({"content": long})).path_canon.is_empty());
    // Unless its canonical form is short again.
    let climbing = format!("/proj{}/etc/shadow", "/a/..".repeat(10_000).replace("/proj", "") + "/..");
    assert!(derived(json!({"path": climbing})).path_canon.contains("/etc/shadow"));
}

proptest! {
    #[test]
    fn canonical_paths_are_canonical(text in "(/|\\.|[a-c ]){0,40}") {
        let Some(path) = path::canonical(&text) else {
            prop_assert!(!text.starts_with('/'));
            return Ok(());
        };
        prop_assert_eq!(path::canonical(&path), Some(path.clone()), "idempotent");
        prop_assert!(path == "/" || path[1..].split('/').all(|part| !matches!(part, "" | "." | "..")), "{}", path);
    }

    /// Against the standard library's own reading of components.
    #[test]
    fn canonical_paths_are_those_of_a_tree_without_links(text in "/(\\.\\.?|[ab]|/){0,12}(/(\\.\\.|\\.|[ab])){0,8}") {
        use std::path::{Component, Path, PathBuf};
        let mut expected = PathBuf::from("/");
        for part in Path::new(&text).components() {
            match part {
                Component::Normal(part) => expected.push(part),
                Component::ParentDir => drop(expected.pop()),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
        prop_assert_eq!(path::canonical(&text).unwrap(), expected.to_str().unwrap());
    }

    #[test]
    fn ancestors_are_exactly_the_directories_that_hold_a_path(text in "(/[ab]{1,2}){0,6}") {
        let path = path::canonical(&format!("/{text}")).unwrap();
        let expected: Vec<String> = std::path::Path::new(&path).ancestors().map(|p| p.to_str().unwrap().to_owned()).collect();
        prop_assert_eq!(path::ancestors(&path).map(str::to_owned).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn all_paths_are_in_their_common_one(paths in prop::collection::vec("(/[ab-]{1,2}){1,4}", 1..5)) {
        let facts = derived(json!(paths));
        let common = facts.path_common.unwrap();
        for path in &facts.path_canon {
            prop_assert!(std::path::Path::new(path).starts_with(&common), "{} not in {}", path, common);
        }
        prop_assert!(facts.path_ancestors.contains(&common));
    }

    /// The host that a WHATWG client would connect to is never missing.
    #[test]
    fn no_client_s_host_is_missing(text in "(https?|ftp|ws|x):?/{0,3}[a-c@:\\\\./?#\\[\\]%\t ]{0,24}") {
        if let Some(host) = url::Url::parse(text.trim()).ok().and_then(|url| url.host_str().map(|h| h.trim_end_matches('.').to_lowercase()))
            && !host.is_empty()
        {
            let hosts = derived(json!({"u": text})).url_host;
            prop_assert!(hosts.contains(&host), "{}: {} not in {:?}", text, host, hosts);
        }
    }

    #[test]
    fn no_string_makes_it_panic(text in "\\PC{0,60}|(file|http)[:/\\\\%@.a-f0-9\\[\\]]{0,40}") {
        let facts = derived(json!({"x": text.clone()}));
        prop_assert!(facts.path_canon.is_subset(&facts.path_ancestors));
    }
}
