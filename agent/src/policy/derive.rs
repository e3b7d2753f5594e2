//! What policies see of arguments beside their digest: paths and hosts in one canonical form.
//!
//! A raw string is a trap: `like "/home/u/proj/*"` allows `/home/u/proj/../../../etc/shadow`.
//! Invariant: where a string can be read in several ways, every reading is in the set. So "one of
//! them is forbidden" and "all of them are allowed" both err towards denial. Seen are whole
//! strings, object keys too, wherever they stand; not paths inside of longer text.

mod host;
mod path;
mod sql;

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
    /// Names of files and directories in everything that is written like a path, relative ones too.
    pub path_names: BTreeSet<String>,
    /// Hosts of URLs, lower case, and addresses that stand alone.
    pub url_host: BTreeSet<String>,
    /// Schemes of URLs, lower case.
    pub url_scheme: BTreeSet<String>,
    /// Ports of URLs, those that the scheme implies too.
    pub url_port: BTreeSet<u16>,
    /// What SQL among the arguments would do.
    pub sql_class: BTreeSet<&'static str>,
    pub size: Size,
}

/// How much it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Size {
    /// Of the arguments as compact JSON text.
    pub bytes: usize,
    /// Bytes of the longest string.
    pub longest: usize,
    /// Members and items, at every depth.
    pub members: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the arguments hold more paths and URLs than policies are asked about ({MAX_BYTES} bytes)")]
pub struct TooMuch;

pub fn derive(arguments: &Json) -> Result<Derived, TooMuch> {
    let mut derived = Derived::default();
    let mut budget = MAX_BYTES;
    derived.size.bytes = arguments.to_text().len();
    walk(arguments, None, &mut |seen| match seen {
        Seen::Member => {
            derived.size.members += 1;
            Ok(())
        }
        Seen::Text(key, text) => derived.add(key, text, &mut budget),
    })?;
    derived.path_common = path::common(&derived.path_canon);
    Ok(derived)
}

/// The classes of a text below a member of this name.
pub fn sql_classes(key: &str, text: &str) -> BTreeSet<&'static str> {
    sql::classes(Some(key), text)
}

/// The one form of an absolute path, by its text alone; `None` for anything else.
pub(super) fn canonical_path(text: &str) -> Option<String> {
    path::canonical(text)
}

enum Seen<'a> {
    Member,
    /// A string and the key that it stands below, in a list too; a key by itself.
    Text(Option<&'a str>, &'a str),
}

/// Every string, keys included. The parser bounds the depth.
fn walk<'a>(
    json: &'a Json,
    key: Option<&'a str>,
    see: &mut impl FnMut(Seen<'a>) -> Result<(), TooMuch>,
) -> Result<(), TooMuch> {
    match json {
        Json::String(text) => see(Seen::Text(key, &text.value)),
        Json::Array(items) => items.iter().try_for_each(|item| {
            see(Seen::Member)?;
            walk(item, key, see)
        }),
        Json::Object(members) => members.iter().try_for_each(|(name, value)| {
            see(Seen::Member)?;
            see(Seen::Text(None, &name.value))?;
            walk(value, Some(&name.value), see)
        }),
        Json::Null | Json::Bool(_) | Json::Number(_) => Ok(()),
    }
}

impl Derived {
    /// For the log: what they are, never what stands in them.
    pub fn described(&self) -> serde_json::Value {
        serde_json::json!({
            "paths": self.path_canon.len(),
            "path_unresolved": self.path_unresolved,
            "hosts": self.url_host.len(),
            "sql_class": self.sql_class,
            "bytes": self.size.bytes,
            "longest": self.size.longest,
            "members": self.size.members,
        })
    }

    fn add(&mut self, key: Option<&str>, text: &str, budget: &mut usize) -> Result<(), TooMuch> {
        self.size.longest = self.size.longest.max(text.len());
        self.sql_class.extend(sql::classes(key, text));
        let trimmed = text.trim_matches(|c: char| c.is_whitespace() || c.is_control());
        self.add_path(text, budget)?;
        if trimmed != text {
            self.add_path(trimmed, budget)?;
        }
        // To whoever hands it to the kernel a path ends here.
        if let Some((path, _)) = trimmed.split_once('\0') {
            self.add_path(path, budget)?;
        }
        if let Some(path) = path::of_file_url(trimmed) {
            self.add_path(&path, budget)?;
        }
        // A server that decodes what it is given sees these instead.
        for path in path::decoded(trimmed) {
            self.add_path(&path, budget)?;
        }
        for host in host::readings(key, trimmed) {
            spend(budget, host.len())?;
            self.url_host.insert(host);
        }
        if let Some(scheme) = host::scheme(trimmed) {
            spend(budget, scheme.len())?;
            self.url_scheme.insert(scheme);
        }
        self.url_port.extend(host::ports(trimmed));
        Ok(())
    }

    fn add_path(&mut self, text: &str, budget: &mut usize) -> Result<(), TooMuch> {
        self.path_unresolved |= path::is_unresolved(text);
        for name in path::names(text) {
            if !self.path_names.contains(name) {
                spend(budget, name.len())?;
                self.path_names.insert(name.to_owned());
            }
        }
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
