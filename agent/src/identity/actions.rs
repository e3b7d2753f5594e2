//! What an agent may ever do: patterns of `SERVER/TOOL`.
//!
//! Invariant: the set narrows, it never grants. What it does not name is not found, not listed and
//! not called, whatever admission and policy say.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// More patterns than a person can review are no review.
const MOST: usize = 256;
const LONGEST: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ActionError {
    #[error(
        "cannot read the action {0:?}: write SERVER/TOOL, where each may hold `*` for any text, such as time/* or */read_*"
    )]
    Pattern(String),
    #[error("cannot take {0} actions: {MOST} at most; use patterns such as SERVER/*")]
    TooMany(usize),
}

/// One pattern; the server's name ends at the first slash, for no server has one in its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Action {
    server: String,
    tool: String,
}

impl Action {
    pub fn allows(&self, server: &str, tool: &str) -> bool {
        matches(&self.server, server) && matches(&self.tool, tool)
    }

    /// Whether it may name something of the server whose name begins so.
    pub fn reaches(&self, server: &str, beginning: &str) -> bool {
        let (fixed, has_star) =
            self.tool.split_once('*').map_or((self.tool.as_str(), false), |(fixed, _)| (fixed, true));
        matches(&self.server, server) && (fixed.starts_with(beginning) || (has_star && beginning.starts_with(fixed)))
    }
}

impl FromStr for Action {
    type Err = ActionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ActionError::Pattern(text.chars().take(80).collect());
        if text.len() > LONGEST || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(bad());
        }
        match text.split_once('/') {
            Some((server, tool)) if !server.is_empty() && !tool.is_empty() => {
                Ok(Self { server: server.into(), tool: tool.into() })
            }
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.server, self.tool)
    }
}

/// A set of patterns in one order, each once. Empty: nothing at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Actions(Vec<Action>);

impl Actions {
    /// Whatever is approved: what an agent has unless its enrolment says otherwise.
    pub fn all() -> Self {
        Self(vec![Action { server: "*".into(), tool: "*".into() }])
    }

    pub fn of(patterns: &[String]) -> Result<Self, ActionError> {
        if patterns.len() > MOST {
            return Err(ActionError::TooMany(patterns.len()));
        }
        let mut actions = patterns.iter().map(|text| text.parse()).collect::<Result<Vec<Action>, _>>()?;
        actions.sort();
        actions.dedup();
        Ok(Self(actions))
    }

    pub fn allows(&self, server: &str, tool: &str) -> bool {
        self.0.iter().any(|action| action.allows(server, tool))
    }

    pub fn reaches(&self, server: &str, beginning: &str) -> bool {
        self.0.iter().any(|action| action.reaches(server, beginning))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Action> {
        self.0.iter()
    }
}

impl Default for Actions {
    fn default() -> Self {
        Self::all()
    }
}

impl TryFrom<Vec<String>> for Actions {
    type Error = ActionError;

    fn try_from(patterns: Vec<String>) -> Result<Self, Self::Error> {
        Self::of(&patterns)
    }
}

impl From<Actions> for Vec<String> {
    fn from(actions: Actions) -> Self {
        actions.0.iter().map(ToString::to_string).collect()
    }
}

impl fmt::Display for Actions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nothing");
        }
        for (n, action) in self.0.iter().enumerate() {
            let comma = if n > 0 { ", " } else { "" };
            write!(f, "{comma}{action}")?;
        }
        Ok(())
    }
}

/// `*` stands for any text. Linear but for the product of both lengths at worst.
fn matches(pattern: &str, text: &str) -> bool {
    wildcard(pattern.as_bytes(), text.as_bytes(), None)
}

/// The same with a byte that stands for any one byte, where there is one.
pub(super) fn wildcard(pattern: &[u8], text: &[u8], any_one: Option<u8>) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where the last star is, and how far the text was when it was met.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&byte) if byte == text[t] || Some(byte) == any_one => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((at, met)) = star else { return false };
                star = Some((at, met + 1));
                p = at + 1;
                t = met + 1;
            }
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn actions(patterns: &[&str]) -> Actions {
        Actions::of(&patterns.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn a_set_allows_what_one_of_its_patterns_names_and_nothing_else() {
        let set = actions(&["time/*", "fs/read_*", "git/log"]);
        for (server, tool) in [("time", "now"), ("fs", "read_file"), ("fs", "read_"), ("git", "log")] {
            assert!(set.allows(server, tool), "{server}/{tool}");
        }
        for (server, tool) in [("times", "now"), ("fs", "write_read_x"), ("git", "logs"), ("git", "lo"), ("", "")] {
            assert!(!set.allows(server, tool), "{server}/{tool}");
        }
        assert!(Actions::all().allows("any", "thing/at all"));
        assert!(!actions(&[]).allows("time", "now"));
    }

    #[test]
    fn order_and_repetition_make_no_difference() {
        assert_eq!(actions(&["b/x", "a/*", "b/x"]), actions(&["a/*", "b/x"]));
        assert_eq!(actions(&["b/x", "a/*"]).to_string(), "a/*, b/x");
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in ["", "time", "/x", "time/", "a b/c", "a/\n", &"x/y".repeat(200)] {
            assert!(text.parse::<Action>().is_err(), "{text}");
        }
        assert!(Actions::of(&vec!["a/b".to_owned(); MOST + 1]).is_err());
        assert!(serde_json::from_str::<Actions>("[\"time\"]").is_err());
    }

    /// Slow and obvious.
    fn oracle(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => (0..=text.len()).any(|n| oracle(rest, &text[n..])),
            Some((byte, rest)) => text.first() == Some(byte) && oracle(rest, &text[1..]),
        }
    }

    proptest! {
        #[test]
        fn stars_match_as_the_definition_says(pattern in "[ab*]{0,8}", text in "[ab]{0,10}") {
            prop_assert_eq!(matches(&pattern, &text), oracle(pattern.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn what_is_allowed_is_reached_by_each_of_its_beginnings(pattern in "s/[ab*]{1,6}", tool in "[ab]{1,8}", at in 0..9usize) {
            let action: Action = pattern.parse().unwrap();
            if action.allows("s", &tool) {
                prop_assert!(action.reaches("s", &tool[..at.min(tool.len())]));
            }
            prop_assert!(!action.reaches("t", ""));
        }

        #[test]
        fn any_text_is_a_pattern_that_reads_back_or_an_error(text in "\\PC{0,40}") {
            if let Ok(action) = text.parse::<Action>() {
                prop_assert_eq!(action.to_string(), text);
            }
        }
    }
}
