//! What an agent is made of at this moment: the parts that a human vouches for beside its key.

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::proxy::json::Json;

/// What a part is; its name says which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartKind {
    /// The client's program.
    Executable,
    /// A file of the interpreter's script tree.
    Script,
    /// The command line.
    Argv,
    /// A file that instructs the agent, such as `CLAUDE.md`.
    Instructions,
    /// A file that names its MCP servers.
    McpConfig,
    /// The tools that it was shown.
    Tools,
    /// The policies that held for it.
    Policy,
}

impl std::fmt::Display for PartKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.serialize(f)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Part {
    pub kind: PartKind,
    /// A path, or what else tells this part from others of its kind.
    pub name: String,
    /// `sha256:` and 64 hex digits; another word where not all of it was measured, or nothing, and why.
    pub digest: String,
}

/// All parts in one order, and one digest over them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measurement {
    /// `sha256:` and 64 hex digits.
    pub digest: String,
    pub parts: Vec<Part>,
}

/// How a part differs from what was vouched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Drift {
    Added,
    Removed,
    Changed,
}

impl Measurement {
    pub fn of(mut parts: Vec<Part>) -> Self {
        parts.sort();
        parts.dedup();
        let canonical = Json::from_value(&json!({ "v": "lazaret-measurement-v1", "parts": parts })).canonical();
        use sha2::Digest as _;
        let digest = format!("sha256:{}", hex::encode(sha2::Sha256::digest(canonical.as_bytes())));
        Self { digest, parts }
    }

    /// Part by part, what differs now from what was vouched for.
    pub fn drift_to(&self, now: &Self) -> Vec<(Drift, Part)> {
        let find = |all: &[Part], one: &Part| {
            all.iter().find(|part| part.kind == one.kind && part.name == one.name).map(|part| part.digest.clone())
        };
        let mut drift = Vec::new();
        for part in &self.parts {
            match find(&now.parts, part) {
                None => drift.push((Drift::Removed, part.clone())),
                Some(digest) if digest != part.digest => {
                    drift.push((Drift::Changed, Part { digest, ..part.clone() }));
                }
                Some(_) => {}
            }
        }
        let added = now.parts.iter().filter(|part| find(&self.parts, part).is_none());
        drift.extend(added.map(|part| (Drift::Added, part.clone())));
        drift
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str, digest: &str) -> Part {
        Part { kind: PartKind::McpConfig, name: name.into(), digest: digest.into() }
    }

    #[test]
    fn order_does_not_matter_and_every_difference_does() {
        let one = Measurement::of(vec![part("a", "1"), part("b", "2")]);
        assert_eq!(one, Measurement::of(vec![part("b", "2"), part("a", "1")]));
        let other = Measurement::of(vec![part("a", "1"), part("b", "3"), part("c", "4")]);
        assert_ne!(one.digest, other.digest);
        assert_eq!(one.drift_to(&other), [(Drift::Changed, part("b", "3")), (Drift::Added, part("c", "4"))]);
        assert_eq!(other.drift_to(&one)[1], (Drift::Removed, part("c", "4")));
        assert!(one.drift_to(&one).is_empty());
    }
}
