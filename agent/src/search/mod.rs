//! Finding a tool by what it does: BM25 (tantivy) over the approved tools.
//!
//! The truth is in the store; this index is built from it, lives in memory, and is replaced as a
//! whole, so that a search sees either the tools before a change or those after it. Only approved
//! tools are ever put in: what is not here cannot be found.

pub mod corpus;
mod explain;
mod text;

use std::sync::RwLock;

use serde::Serialize;
use tantivy::collector::TopDocs;
use tantivy::query::{BooleanQuery, BoostQuery, Occur, Query, TermQuery};
use tantivy::schema::{Field, IndexRecordOption, STORED, Schema, TextFieldIndexing, TextOptions, Value};
use tantivy::tokenizer::{
    Language, LowerCaser, RemoveLongFilter, SimpleTokenizer, Stemmer, StopWordFilter, TextAnalyzer,
};
use tantivy::{Index, IndexReader, TantivyDocument, Term};

pub use explain::Reason;
pub use text::ToolText;

use crate::admission::Tool;

const ANALYZER: &str = "tool_words";
/// Bytes that the index writer may hold while it builds.
const WRITER_BYTES: usize = 15_000_000;
/// Terms of a query that are looked at; more than this is not a question.
const MAX_QUERY_TERMS: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    #[error("the search index failed: {0}; restart the daemon, it rebuilds the index from the state")]
    Index(#[from] tantivy::TantivyError),
    #[error("cannot read {path}: {cause}; its shape is described in `lazaret search --help`")]
    Corpus { path: std::path::PathBuf, cause: String },
    #[error("cannot write the ranking: {0}")]
    Output(#[from] std::io::Error),
}

/// A tool that matches a query, best first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Hit {
    pub server: String,
    pub tool: String,
    /// BM25 over all fields; comparable within one answer only.
    pub score: f32,
    pub summary: String,
}

/// How much a word counts by where it stands.
#[derive(Clone, Copy)]
struct Fields {
    server: Field,
    tool: Field,
    name: Field,
    title: Field,
    description: Field,
    parameters: Field,
    summary: Field,
}

impl Fields {
    fn weighted(&self) -> [(Field, f32); 4] {
        [(self.name, 2.5), (self.title, 1.5), (self.description, 1.0), (self.parameters, 0.5)]
    }
}

struct Built {
    index: Index,
    reader: IndexReader,
    tools: usize,
}

pub struct SearchIndex {
    schema: Schema,
    fields: Fields,
    built: RwLock<Option<std::sync::Arc<Built>>>,
}

impl Default for SearchIndex {
    fn default() -> Self {
        Self::new()
    }
}

fn analyzer() -> TextAnalyzer {
    let stop_words = StopWordFilter::new(Language::English);
    let base = TextAnalyzer::builder(SimpleTokenizer::default()).filter(RemoveLongFilter::limit(60)).filter(LowerCaser);
    match stop_words {
        Some(filter) => base.filter(filter).filter(Stemmer::new(Language::English)).build(),
        None => base.filter(Stemmer::new(Language::English)).build(),
    }
}

impl SearchIndex {
    pub fn new() -> Self {
        let mut schema = Schema::builder();
        let words = TextOptions::default().set_indexing_options(
            TextFieldIndexing::default().set_tokenizer(ANALYZER).set_index_option(IndexRecordOption::WithFreqs),
        );
        let fields = Fields {
            server: schema.add_text_field("server", STORED),
            tool: schema.add_text_field("tool", STORED),
            summary: schema.add_text_field("summary", STORED),
            name: schema.add_text_field("name", words.clone()),
            title: schema.add_text_field("title", words.clone()),
            description: schema.add_text_field("description", words.clone()),
            parameters: schema.add_text_field("parameters", words),
        };
        Self { schema: schema.build(), fields, built: RwLock::new(None) }
    }

    /// Replaces what can be found by these tools.
    pub fn rebuild(&self, tools: &[Tool]) -> Result<(), SearchError> {
        let texts: Vec<ToolText> = tools.iter().map(ToolText::of).collect();
        self.rebuild_from(&texts)
    }

    pub fn rebuild_from(&self, tools: &[ToolText]) -> Result<(), SearchError> {
        let index = Index::create_in_ram(self.schema.clone());
        index.tokenizers().register(ANALYZER, analyzer());
        let mut writer = index.writer_with_num_threads(1, WRITER_BYTES)?;
        for tool in tools {
            let mut document = TantivyDocument::default();
            document.add_text(self.fields.server, &tool.server);
            document.add_text(self.fields.tool, &tool.tool);
            document.add_text(self.fields.summary, tool.summary());
            document.add_text(self.fields.name, tool.name_words());
            document.add_text(self.fields.title, &tool.title);
            document.add_text(self.fields.description, &tool.description);
            document.add_text(self.fields.parameters, &tool.parameters);
            writer.add_document(document)?;
        }
        writer.commit()?;
        let reader = index.reader()?;
        let built = std::sync::Arc::new(Built { index, reader, tools: tools.len() });
        *self.built.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(built);
        Ok(())
    }

    /// Tools that can be found now.
    pub fn len(&self) -> usize {
        self.current().map_or(0, |built| built.tools)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The best `limit` tools for which `visible(server, tool)` holds.
    pub fn search(
        &self,
        query: &str,
        limit: usize,
        visible: impl Fn(&str, &str) -> bool,
    ) -> Result<Vec<Hit>, SearchError> {
        let Some(built) = self.current() else { return Ok(Vec::new()) };
        let Some(query) = self.query(&built, query) else { return Ok(Vec::new()) };
        let searcher = built.reader.searcher();
        let mut wanted = limit.clamp(1, 1000);
        loop {
            let top = searcher.search(&query, &TopDocs::with_limit(wanted).order_by_score())?;
            let exhausted = top.len() < wanted;
            let mut hits = Vec::new();
            for (score, address) in top {
                let document: TantivyDocument = searcher.doc(address)?;
                let text = |field| document.get_first(field).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
                let hit = Hit {
                    server: text(self.fields.server),
                    tool: text(self.fields.tool),
                    summary: text(self.fields.summary),
                    score,
                };
                if visible(&hit.server, &hit.tool) {
                    hits.push(hit);
                }
            }
            if hits.len() >= limit || exhausted {
                hits.truncate(limit);
                return Ok(hits);
            }
            // Hidden tools stood in the way: look further down.
            wanted = wanted.saturating_mul(4);
        }
    }

    fn current(&self) -> Option<std::sync::Arc<Built>> {
        self.built.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// The words of a query as the index knows them, each once.
    fn terms(built: &Built, text: &str) -> Vec<String> {
        let Some(mut analyzer) = built.index.tokenizers().get(ANALYZER) else { return Vec::new() };
        let words = text::split_identifiers(text);
        let mut stream = analyzer.token_stream(&words);
        let mut terms: Vec<String> = Vec::new();
        while stream.advance() && terms.len() < MAX_QUERY_TERMS {
            let term = stream.token().text.clone();
            if !terms.contains(&term) {
                terms.push(term);
            }
        }
        terms
    }

    fn query(&self, built: &Built, text: &str) -> Option<BooleanQuery> {
        let terms = Self::terms(built, text);
        if terms.is_empty() {
            return None;
        }
        let mut clauses: Vec<(Occur, Box<dyn Query>)> = Vec::new();
        for term in &terms {
            for (field, weight) in self.fields.weighted() {
                clauses.push((Occur::Should, Box::new(clause(field, term, weight))));
            }
        }
        Some(BooleanQuery::new(clauses))
    }
}

fn clause(field: Field, term: &str, weight: f32) -> BoostQuery {
    let term = TermQuery::new(Term::from_field_text(field, term), IndexRecordOption::WithFreqs);
    BoostQuery::new(Box::new(term), weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(server: &str, tool: &str, description: &str) -> ToolText {
        ToolText { server: server.into(), tool: tool.into(), description: description.into(), ..ToolText::default() }
    }

    #[test]
    fn a_tool_is_found_by_what_it_does_and_by_parts_of_its_name() {
        let index = SearchIndex::new();
        index
            .rebuild_from(&[
                tool("fs", "readTextFile", "Return the contents of a file"),
                tool("time", "get_current_time", "Tell the clock time in a time zone"),
            ])
            .unwrap();
        let best = |query| index.search(query, 5, |_, _| true).unwrap()[0].tool.clone();
        assert_eq!(best("what do the files contain"), "readTextFile");
        assert_eq!(best("text"), "readTextFile");
        assert_eq!(best("current clock"), "get_current_time");
        assert!(index.search("the of", 5, |_, _| true).unwrap().is_empty());
    }

    #[test]
    fn a_hidden_tool_is_not_found_and_does_not_take_a_place() {
        let index = SearchIndex::new();
        let tools: Vec<_> = (0..40).map(|n| tool("s", &format!("read_{n}"), "read a file")).collect();
        index.rebuild_from(&tools).unwrap();
        let hits = index.search("read file", 3, |_, tool| tool.ends_with('7')).unwrap();
        assert_eq!(hits.len(), 3);
        assert!(hits.iter().all(|hit| hit.tool.ends_with('7')));
    }

    #[test]
    fn after_a_rebuild_a_removed_tool_is_gone() {
        let index = SearchIndex::new();
        index.rebuild_from(&[tool("s", "delete_all", "delete everything")]).unwrap();
        index.rebuild_from(&[]).unwrap();
        assert!(index.is_empty());
        assert!(index.search("delete", 5, |_, _| true).unwrap().is_empty());
    }

    proptest::proptest! {
        #[test]
        fn any_query_is_answered(query in ".{0,300}") {
            let index = SearchIndex::new();
            index.rebuild_from(&[tool("s", "t", "words")]).unwrap();
            index.search(&query, 10, |_, _| true).unwrap();
        }
    }
}
