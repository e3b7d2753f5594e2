//! What libFuzzer says while it runs, read into one line per target.

use std::fmt;
use std::path::Path;

/// Lines that are kept of what a target says when it breaks.
const LAST_WORDS: usize = 60;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Panic,
    Timeout,
    Memory,
    /// It ended, and said neither that it was done nor why.
    Ended,
}

#[derive(Debug)]
pub struct Report {
    target: String,
    pub outcome: Outcome,
    runs: u64,
    per_second: u64,
    edges: u64,
    all_edges: u64,
    corpus: String,
    artifact: Option<String>,
    words: Vec<String>,
    done: bool,
}

impl Report {
    pub const HEAD: &str = "target                  runs    runs/s   edges    of all  inputs  result";

    pub fn new(target: &str) -> Self {
        Self {
            target: target.to_owned(),
            outcome: Outcome::Ended,
            runs: 0,
            per_second: 0,
            edges: 0,
            all_edges: 0,
            corpus: "0".into(),
            artifact: None,
            words: Vec::new(),
            done: false,
        }
    }

    /// One line of its standard error.
    pub fn add(&mut self, line: &str) {
        let number = |text: &str| text.trim().parse::<u64>().ok();
        let behind = |name: &str| {
            let mut words = line.split_ascii_whitespace();
            words.find(|word| *word == name).and_then(|_| words.next())
        };
        if line.starts_with('#') {
            self.edges = behind("cov:").and_then(number).unwrap_or(self.edges);
            if let Some(corpus) = behind("corp:") {
                corpus.split('/').next().unwrap_or(corpus).clone_into(&mut self.corpus);
            }
            self.done |= line.contains("DONE");
        } else if let Some(rest) = line.strip_prefix("stat::number_of_executed_units:") {
            self.runs = number(rest).unwrap_or_default();
        } else if let Some(rest) = line.strip_prefix("stat::average_exec_per_sec:") {
            self.per_second = number(rest).unwrap_or_default();
        } else if line.starts_with("INFO: Loaded") && line.contains("inline 8-bit counters") {
            let counters = line.split_once('(').and_then(|(_, rest)| rest.split(' ').next()).and_then(number);
            self.all_edges = counters.unwrap_or_default();
        } else if let Some((_, path)) = line.split_once("Test unit written to ") {
            self.artifact = Some(path.to_owned());
        } else if line.contains("libFuzzer: timeout") {
            self.outcome = Outcome::Timeout;
        } else if line.contains("libFuzzer: out-of-memory") {
            self.outcome = Outcome::Memory;
        } else if line.contains("libFuzzer: deadly signal") || line.contains("panicked at") {
            self.outcome = Outcome::Panic;
        }
        if !line.starts_with(['#', ' ']) && !line.starts_with("INFO:") && !line.starts_with("stat::") {
            self.words.push(line.to_owned());
            self.words.truncate(LAST_WORDS);
        }
    }

    /// It has ended.
    pub fn end(&mut self, success: bool) {
        if success && self.done && self.artifact.is_none() {
            self.outcome = Outcome::Done;
        }
    }

    /// What broke it, and how to see that again.
    pub fn finding(&self, root: &Path) -> String {
        let what = self.outcome;
        let said = self.words.iter().filter(|line| !line.is_empty()).take(12);
        let said: String = said.map(|line| format!("  {line}\n")).collect();
        let Some(artifact) = &self.artifact else {
            return format!("{}: {what}, without an input that shows it:\n{said}", self.target);
        };
        let path = Path::new(artifact);
        let path = path.strip_prefix(root).unwrap_or(path).display();
        format!("{}: {what}\n{said}run it again: cargo xtask fuzz {} --input {path}", self.target, self.target)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Done => "nothing found",
            Self::Panic => "PANIC",
            Self::Timeout => "TIMEOUT",
            Self::Memory => "OUT OF MEMORY",
            Self::Ended => "ENDED EARLY",
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, outcome, runs, per_second, edges, all_edges, corpus, .. } = self;
        write!(f, "{target:<18}{runs:>10}{per_second:>10}{edges:>8}{all_edges:>10}{corpus:>8}  {outcome}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(lines: &[&str], success: bool) -> Report {
        let mut report = Report::new("json");
        lines.iter().for_each(|line| report.add(line));
        report.end(success);
        report
    }

    const HEAD: &str = "INFO: Loaded 1 modules   (81234 inline 8-bit counters): 81234 [0x1, 0x2), ";
    const END: &str = "#4096\tDONE   cov: 61 ft: 80 corp: 12/3Kb lim: 68 exec/s: 2048 rss: 50Mb";

    #[test]
    fn a_quiet_run_is_one_line_of_figures() {
        let stats = ["stat::number_of_executed_units: 4096", "stat::average_exec_per_sec:     2048"];
        let report = report(&[HEAD, "#2\tINITED cov: 5 ft: 5 corp: 1/1b", END, stats[0], stats[1]], true);
        assert_eq!(
            report.to_string(),
            "json                    4096      2048      61     81234      12  nothing found"
        );
        assert_eq!(report.to_string().find("nothing"), Report::HEAD.find("result"));
    }

    #[test]
    fn what_breaks_a_target_is_told_with_the_way_to_see_it_again() {
        let lines = [
            HEAD,
            "thread '<unnamed>' panicked at fuzz_targets/json.rs:12:9:",
            "==7== ERROR: libFuzzer: deadly signal",
            "artifact_prefix='/x/fuzz/artifacts/json/'; Test unit written to /x/fuzz/artifacts/json/crash-1",
        ];
        let report = report(&lines, false);
        assert_eq!(report.outcome, Outcome::Panic);
        let finding = report.finding(Path::new("/x"));
        assert!(finding.contains("panicked at fuzz_targets/json.rs:12:9"), "{finding}");
        assert!(finding.ends_with("cargo xtask fuzz json --input fuzz/artifacts/json/crash-1"), "{finding}");
    }

    #[test]
    fn a_run_that_ends_without_a_word_is_not_done() {
        assert_eq!(report(&[HEAD], true).outcome, Outcome::Ended);
        assert_eq!(report(&[HEAD, END], false).outcome, Outcome::Ended);
        assert_eq!(report(&["==7== ERROR: libFuzzer: timeout after 11 seconds"], false).outcome, Outcome::Timeout);
        assert_eq!(report(&["==7== ERROR: libFuzzer: out-of-memory"], false).outcome, Outcome::Memory);
    }
}
