//! What the house itself contributes to an agent's measurement: the tools that it can find, and the policies.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::door::Door;
use super::json::Json;
use crate::identity::measure::Surroundings;
use crate::identity::{Address, Part, PartKind, SessionIdentity};

pub(super) struct ShownTo {
    door: Arc<Door>,
    agent: Address,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// Counts of changes of admission and registry, and the digest as of then.
    tools: Option<((u64, u64), String)>,
    policies: Option<(Vec<Stamp>, String)>,
}

/// A policy file, its size and when it changed.
type Stamp = (PathBuf, u64, i64, i64, u64);

impl ShownTo {
    pub(super) fn new(door: Arc<Door>, identity: &SessionIdentity) -> Self {
        Self { door, agent: identity.address().clone(), kept: Mutex::default() }
    }

    /// Over the names and digests of the approved tools that the agent is registered for. What a vouch narrows does
    /// not count: the vouch would change what it is for.
    fn tools(&self) -> Option<String> {
        let agent = self.door.registry.get(&self.agent).ok()??;
        let shelf = self.door.shelf().ok()?;
        let shown: Vec<_> = shelf
            .digests()
            .filter(|(server, tool, _)| agent.actions.allows(server, tool))
            .map(|(server, tool, digest)| json!([server, tool, digest]))
            .collect();
        Some(sha256(&Json::from_value(&json!({ "v": "lazaret-tools-v1", "tools": shown })).canonical()))
    }

    /// Over the policy files, as they are on disk; over the built-in policy's name where there are none.
    fn policies(files: &[Stamp]) -> String {
        let read = |(path, ..): &Stamp| {
            let bytes = std::fs::read(path).unwrap_or_default();
            json!([path.file_name().map(|name| name.to_string_lossy()), hex::encode(Sha256::digest(bytes))])
        };
        let files: Vec<_> = files.iter().map(read).collect();
        let builtin = files.is_empty().then_some(env!("CARGO_PKG_VERSION"));
        sha256(
            &Json::from_value(&json!({ "v": "lazaret-policies-v1", "files": files, "builtin": builtin })).canonical(),
        )
    }

    fn policy_files(&self) -> Vec<Stamp> {
        use std::os::unix::fs::MetadataExt as _;
        let files = self.door.gates.engine().describe().files;
        let stamp = |path: PathBuf| {
            let meta = std::fs::metadata(&path).ok();
            let meta = meta.map_or((0, 0, 0, 0), |meta| (meta.len(), meta.ctime(), meta.ctime_nsec(), meta.ino()));
            (path, meta.0, meta.1, meta.2, meta.3)
        };
        files.into_iter().map(stamp).collect()
    }
}

impl Surroundings for ShownTo {
    fn parts(&self) -> Vec<Part> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // The counts are read first: a change during the reading makes this digest an old one.
        let counts = (*self.door.admission.changes().borrow(), *self.door.registry.changes().borrow());
        let tools = match &kept.tools {
            Some((known, digest)) if *known == counts => digest.clone(),
            _ => match self.tools() {
                Some(digest) => {
                    kept.tools = Some((counts, digest.clone()));
                    digest
                }
                None => "unmeasured: the approved tools cannot be read".into(),
            },
        };
        let files = self.policy_files();
        let policies = match &kept.policies {
            Some((known, digest)) if *known == files => digest.clone(),
            _ => {
                let digest = Self::policies(&files);
                kept.policies = Some((files, digest.clone()));
                digest
            }
        };
        let part = |kind, name: &str, digest| Part { kind, name: name.into(), digest };
        vec![
            part(PartKind::Tools, "approved tools it is registered for", tools),
            part(PartKind::Policy, "policies of this host", policies),
        ]
    }
}

fn sha256(text: &str) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(text.as_bytes())))
}
