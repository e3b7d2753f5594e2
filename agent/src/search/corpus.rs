//! `lazaret search --corpus`: ranks a file of tools for a file of queries, without a daemon, so
//! that anybody can measure the search that agents get.

use std::io::Write;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::{SearchError, SearchIndex, ToolText};

/// Hits that are written per query.
const HITS: usize = 10;

#[derive(Deserialize)]
struct Corpus {
    tools: Vec<Value>,
}

#[derive(Deserialize)]
struct Queries {
    queries: Vec<Query>,
}

#[derive(Deserialize)]
struct Query {
    id: String,
    query: String,
}

/// Writes `{"id", "hits": ["server:tool", …]}`, one line per query, best hit first.
pub fn rank(corpus: &Path, queries: &Path, out: &mut dyn Write) -> Result<(), SearchError> {
    let tools: Corpus = read(corpus)?;
    let queries: Queries = read(queries)?;
    let texts: Vec<ToolText> = tools
        .tools
        .iter()
        .map(|tool| match (tool["server"].as_str(), tool["tool"].as_str().or(tool["name"].as_str())) {
            (Some(server), Some(name)) => Ok(ToolText::of_descriptor(server, name, tool)),
            _ => Err(SearchError::Corpus {
                path: corpus.into(),
                cause: format!("a tool lacks `server` or `tool`: {tool}"),
            }),
        })
        .collect::<Result<_, _>>()?;
    let index = SearchIndex::new();
    index.rebuild_from(&texts)?;
    for query in &queries.queries {
        let hits = index.search(&query.query, HITS, |_, _| true)?;
        let hits: Vec<String> = hits.iter().map(|hit| format!("{}:{}", hit.server, hit.tool)).collect();
        writeln!(out, "{}", serde_json::json!({"id": query.id, "hits": hits}))?;
    }
    Ok(())
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, SearchError> {
    let bad = |cause: String| SearchError::Corpus { path: path.into(), cause };
    let text = std::fs::read_to_string(path).map_err(|e| bad(e.to_string()))?;
    serde_json::from_str(&text).map_err(|e| bad(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_corpus_is_ranked_one_line_per_query() {
        let dir = tempfile::tempdir().unwrap();
        let (corpus, queries) = (dir.path().join("c.json"), dir.path().join("q.json"));
        std::fs::write(&corpus, r#"{"tools":[{"server":"a","tool":"add_numbers","description":"sum"},{"server":"b","tool":"echo","description":"repeat"}]}"#).unwrap();
        std::fs::write(&queries, r#"{"queries":[{"id":"q1","query":"add two numbers"}]}"#).unwrap();
        let mut out = Vec::new();
        rank(&corpus, &queries, &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "{\"id\":\"q1\",\"hits\":[\"a:add_numbers\"]}\n");
    }

    #[test]
    fn a_corpus_of_another_shape_is_refused_with_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.json");
        std::fs::write(&path, "[]").unwrap();
        let error = rank(&path, &path, &mut Vec::new()).unwrap_err().to_string();
        assert!(error.contains("c.json"), "{error}");
    }
}
