//! The pages of promises name tests: each of them has to be there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The names in `backticks` that are written as tests are.
fn named(page: &str) -> BTreeSet<&str> {
    let words = page.split('`').skip(1).step_by(2);
    let is_name = |word: &&str| word.len() > 24 && word.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    words.filter(is_name).collect()
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_promise_names_tests_that_there_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = std::fs::read_to_string(root.join("docs/PROMISES.md")).expect("the page is there");
    let mut files = Vec::new();
    for room in ["agent/src", "tests"] {
        sources(&root.join(room), &mut files);
    }
    let code: String = files.iter().filter_map(|path| std::fs::read_to_string(path).ok()).collect();
    let names = named(&page);
    assert!(names.len() > 40, "the page is hardly read: {names:?}");
    // The checks of a guest stand in a list, a line each, from which a macro makes tests.
    let listed: BTreeSet<&str> = code.lines().filter_map(|line| line.trim().strip_suffix(',')).collect();
    let there = |name: &&&str| listed.contains(**name) || code.contains(&format!("fn {name}("));
    let missing: Vec<_> = names.iter().filter(|name| !there(name)).collect();
    assert!(missing.is_empty(), "no tests: {missing:?}");
}
