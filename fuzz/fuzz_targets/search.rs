//! An agent's query finds what it may see, at most as much as it asked for, each tool once, best first.

use std::sync::OnceLock;

use lazaret::search::{SearchIndex, ToolText};

static INDEX: OnceLock<SearchIndex> = OnceLock::new();

fn index() -> &'static SearchIndex {
    INDEX.get_or_init(|| {
        let words = ["readTextFile", "get_current_time", "run-query", "ÄrgerHTTPServer", "search"];
        let tool = |n: usize| ToolText {
            server: format!("server-{}", n % 3),
            tool: format!("{}_{n}", words[n % words.len()]),
            title: "Files and clocks".into(),
            description: format!("Does {} with a file, a table or a time zone", words[(n + 1) % words.len()]),
            parameters: "path to the file; time zone".into(),
        };
        let index = SearchIndex::new();
        index.rebuild_from(&(0..20).map(tool).collect::<Vec<_>>()).expect("it can be indexed");
        index
    })
}

// The first byte says how many hits are wanted, and what is hidden.
fuzz_target!(|input: &[u8]| {
    let Some((first, query)) = input.split_first() else { return };
    let limit = usize::from(first & 31);
    let hidden = format!("server-{}", first >> 6);
    let query = String::from_utf8_lossy(query);
    let hits = index().search(&query, limit, |server, _| server != hidden).expect("any query has an answer");
    assert!(hits.len() <= limit);
    assert!(hits.iter().all(|hit| hit.server != hidden && hit.score.is_finite()));
    assert!(hits.windows(2).all(|pair| pair[0].score >= pair[1].score));
    let names: std::collections::BTreeSet<_> = hits.iter().map(|hit| (&hit.server, &hit.tool)).collect();
    assert_eq!(names.len(), hits.len());
});
