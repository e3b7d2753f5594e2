//! Why a tool was found: what each word of the query added to its score, and where it stood.

use serde::Serialize;
use tantivy::collector::TopDocs;
use tantivy::query::Query as _;
use tantivy::schema::Value as _;
use tantivy::{TantivyDocument, TantivyError};

use super::{SearchError, SearchIndex, clause};

/// One word in one field of a tool.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reason {
    /// The word's stem, as the index has it.
    pub word: String,
    /// `name`, `title`, `description` or `parameters`.
    pub field: String,
    /// What it added to the score.
    pub score: f32,
}

impl SearchIndex {
    /// The reasons for each of the best `limit` hits, by server and tool; the largest first.
    pub fn explain(&self, query: &str, limit: usize) -> Result<Vec<(String, String, Vec<Reason>)>, SearchError> {
        let Some(built) = self.current() else { return Ok(Vec::new()) };
        let Some(parsed) = self.query(&built, query) else { return Ok(Vec::new()) };
        let terms = Self::terms(&built, query);
        let searcher = built.reader.searcher();
        let mut explained = Vec::new();
        for (_, address) in searcher.search(&parsed, &TopDocs::with_limit(limit.clamp(1, 1000)).order_by_score())? {
            let mut reasons = Vec::new();
            for word in &terms {
                for (field, weight) in self.fields.weighted() {
                    let score = match clause(field, word, weight).explain(&searcher, address) {
                        Ok(explanation) => explanation.value(),
                        // The word does not stand in this field.
                        Err(TantivyError::InvalidArgument(_)) => continue,
                        Err(e) => return Err(e.into()),
                    };
                    reasons.push(Reason {
                        word: word.clone(),
                        field: self.schema.get_field_name(field).to_owned(),
                        score,
                    });
                }
            }
            reasons.sort_by(|a, b| b.score.total_cmp(&a.score));
            let document: TantivyDocument = searcher.doc(address)?;
            let text = |field| document.get_first(field).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
            explained.push((text(self.fields.server), text(self.fields.tool), reasons));
        }
        Ok(explained)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::ToolText;

    #[test]
    fn the_reasons_of_a_hit_add_up_to_its_score() {
        let index = SearchIndex::new();
        let tool = |name: &str, description: &str| ToolText {
            server: "s".into(),
            tool: name.into(),
            description: description.into(),
            ..ToolText::default()
        };
        index
            .rebuild_from(&[tool("read_file", "Read a file"), tool("convert_time", "Convert between time zones")])
            .unwrap();
        let hits = index.search("read the file", 5, |_, _| true).unwrap();
        let explained = index.explain("read the file", 5).unwrap();
        assert_eq!(explained.len(), hits.len());
        for (hit, (server, tool, reasons)) in hits.iter().zip(&explained) {
            assert_eq!((&hit.server, &hit.tool), (server, tool));
            let sum: f32 = reasons.iter().map(|reason| reason.score).sum();
            assert!((sum - hit.score).abs() < 1e-3, "{sum} {}", hit.score);
            assert!(reasons.iter().any(|reason| reason.word == "read" && reason.field == "name"));
        }
    }
}
