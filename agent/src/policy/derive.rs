//! What policies see of arguments beside their digest: paths and hosts in one canonical form.
//!
//! A raw string is a trap: `like "/home/u/proj/*"` allows `/home/u/proj/../../../etc/shadow`.
//! Invariant: where a string can be read in several ways, every reading is in the set. So "one of
//! them is forbidden" and "all of them are allowed" both err towards denial. Seen are whole
//! strings, object keys too, wherever they stand; not paths inside of longer text.

mod host;
mod path;

use std::collections::BTreeSet;

use crate::proxy::json::Json;

/// Bytes of derived facts per call; beyond that a policy is not asked, and the call is denied.
const MAX_BYTES: usize = 1 << 20;
/// No file has a longer path (PATH_MAX): a longer canonical form names nothing.
const MAX_PATH: usize = 4096;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Derived {
    /// Absolute paths without `.`, `..` and doubled slashes, by their text alone: links are not followed.
    pub path_canon: BTreeSet<String>,
    /// The same, with every directory above.
    pub path_ancestors: BTreeSet<String>,
    /// The deepest path that is, or holds, all of them.
    pub path_common: Option<String>,
    /// Some string may be a path whose place only the server knows.
    pub path_unresolved: bool,
    /// Hosts of URLs, lower case.
    pub url_host: BTreeSet<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the arguments hold more paths and URLs than policies are asked about ({MAX_BYTES} bytes)")]
pub struct TooMuch;

pub fn derive(arguments: &Json) -> Result<Derived, TooMuch> {
    let mut derived = Derived::default();
    let mut budget = MAX_BYTES;
    walk(arguments, &mut |text| derived.add(text, &mut budget))?;
    derived.path_common = path::common(&derived.path_canon);
    Ok(derived)
}

/// Every string, keys included. The parser bounds the depth.
fn walk(json: &Json, see: &mut impl FnMut(&str) -> Result<(), TooMuch>) -> Result<(), TooMuch> {
    match json {
        Json::String(text) => see(&text.value),
        Json::Array(items) => items.iter().try_for_each(|item| walk(item, see)),
        Json::Object(members) => members.iter().try_for_each(|(key, value)| {
            see(&key.value)?;
            walk(value, see)
        }),
        Json::Null | Json::Bool(_) | Json::Number(_) => Ok(()),
    }
}

impl Derived {
    fn add(&mut self, text: &str, budget: &mut usize) -> Result<(), TooMuch> {
        let trimmed = text.trim_matches(|c: char| c.is_whitespace() || c.is_control());
        self.add_path(text, budget)?;
        if trimmed != text {
            self.add_path(trimmed, budget)?;
        }
        if let Some(path) = path::of_file_url(trimmed) {
            self.add_path(&path, budget)?;
        }
        for host in host::readings(trimmed) {
            spend(budget, host.len())?;
            self.url_host.insert(host);
        }
        Ok(())
    }

    fn add_path(&mut self, text: &str, budget: &mut usize) -> Result<(), TooMuch> {
        self.path_unresolved |= path::is_unresolved(text);
        let Some(path) = path::canonical(text).filter(|path| path.len() <= MAX_PATH) else { return Ok(()) };
        if self.path_canon.contains(&path) {
            return Ok(());
        }
        for ancestor in path::ancestors(&path) {
            if !self.path_ancestors.contains(ancestor) {
                spend(budget, ancestor.len())?;
                self.path_ancestors.insert(ancestor.to_owned());
            }
        }
        spend(budget, path.len())?;
        self.path_canon.insert(path);
        Ok(())
    }
}

fn spend(budget: &mut usize, bytes: usize) -> Result<(), TooMuch> {
    *budget = budget.checked_sub(bytes + 1).ok_or(TooMuch)?;
    Ok(())
}

#[cfg(test)]
mod tests;
