//! What a change of a client config says: which entries became others, and who wrote them.
//!
//! A change is told to operators and written down, so that it carries no secret: of the environment only
//! the names, of arguments what stands in no place of a secret.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::Serialize;

use super::super::clients::{Client, ClientFile, ClientServer};
use super::writer::Writer;

/// Entries of one change that are told; a person reads no more.
const MAX_ENTRIES: usize = 32;
const MASK: &str = "***";

/// One file that was changed, however many writes that took.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ConfigChange {
    pub time: Timestamp,
    pub client: Client,
    pub path: PathBuf,
    pub entries: Vec<EntryChange>,
    /// Entries that changed too and are not listed.
    pub more: usize,
    /// An entry that led through the door leads past it now, or is gone.
    pub past_the_door: bool,
    /// The file cannot be read any more, and why. Its servers are those of before.
    pub error: Option<String>,
    /// Who wrote, in the order of the writes. Empty: nobody was seen to.
    pub writers: Vec<Writer>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    Added,
    Rewritten,
    Removed,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EntryChange {
    pub what: What,
    pub name: String,
    /// The project that the entry belongs to.
    pub project: Option<PathBuf>,
    pub old: Option<Definition>,
    pub new: Option<Definition>,
    /// Values of the environment changed; they are not told.
    pub environment: bool,
}

/// What an entry starts, without its secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Definition {
    pub command: Option<String>,
    pub args: Vec<String>,
    pub url: Option<String>,
    /// Names only.
    pub env: Vec<String>,
    /// It is our own connector.
    pub door: bool,
    pub disabled: bool,
}

impl Definition {
    fn of(server: &ClientServer) -> Self {
        Self {
            command: server.command.clone(),
            args: masked(&server.args),
            url: server.url.as_deref().map(without_secrets),
            env: server.env.keys().cloned().collect(),
            door: server.door,
            disabled: server.disabled,
        }
    }
}

impl std::fmt::Display for Definition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.command, &self.url) {
            (Some(command), _) => {
                f.write_str(command)?;
                self.args.iter().try_for_each(|arg| write!(f, " {arg}"))
            }
            (None, Some(url)) => f.write_str(url),
            (None, None) => f.write_str("nothing"),
        }?;
        if self.disabled { f.write_str(" (disabled)") } else { Ok(()) }
    }
}

impl std::fmt::Display for EntryChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.name)?;
        if let Some(project) = &self.project {
            write!(f, " of {}", project.display())?;
        }
        match (&self.old, &self.new) {
            (None, Some(new)) => write!(f, " was added: {new}"),
            (Some(old), None) => write!(f, " was removed: {old}"),
            (Some(old), Some(new)) if old == new => f.write_str(" has another environment or directory"),
            (Some(old), Some(new)) => write!(f, " was rewritten: {old} became {new}"),
            (None, None) => Ok(()),
        }
    }
}

impl std::fmt::Display for ConfigChange {
    /// `claude-code's config FILE: NAME was rewritten: … became …; written by pid 7 (node, …)`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}'s config {}: ", self.client, self.path.display())?;
        let mut parts: Vec<String> = self.entries.iter().map(EntryChange::to_string).collect();
        if self.more > 0 {
            parts.push(format!("{} more entries changed", self.more));
        }
        if let Some(error) = &self.error {
            parts.push(format!("it cannot be read any more ({error})"));
        }
        f.write_str(&parts.join("; "))?;
        match self.writers.as_slice() {
            [] => f.write_str("; nobody was seen to write it"),
            writers => {
                let writers: Vec<String> = writers.iter().map(Writer::to_string).collect();
                write!(f, "; written by {}", writers.join(" and by "))
            }
        }
    }
}

/// What changed from one state of a file to the next; `None` where neither entries nor readability did.
pub(super) fn between(old: Option<&ClientFile>, new: Option<&ClientFile>) -> Option<ConfigChange> {
    let file = new.or(old)?;
    let servers = |file: Option<&ClientFile>| -> BTreeMap<(Option<PathBuf>, String), ClientServer> {
        let servers = file.map(|file| file.servers.as_slice()).unwrap_or_default();
        servers.iter().map(|server| ((server.project.clone(), server.name.clone()), server.clone())).collect()
    };
    let (before, after) = (servers(old), servers(new));
    let names: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let mut entries = Vec::new();
    let mut past_the_door = false;
    for key in names {
        let (was, is) = (before.get(key), after.get(key));
        let what = match (was, is) {
            (None, Some(_)) => What::Added,
            (Some(_), None) => What::Removed,
            (Some(was), Some(is)) if was != is => What::Rewritten,
            _ => continue,
        };
        past_the_door |= was.is_some_and(|was| was.door) && !is.is_some_and(|is| is.door);
        entries.push(EntryChange {
            what,
            name: key.1.clone(),
            project: key.0.clone(),
            old: was.map(Definition::of),
            new: is.map(Definition::of),
            environment: was.is_some_and(|was| is.is_some_and(|is| was.env != is.env)),
        });
    }
    let error = new.and_then(|file| file.error.clone()).filter(|_| old.is_none_or(|file| file.error.is_none()));
    if entries.is_empty() && error.is_none() {
        return None;
    }
    let more = entries.len().saturating_sub(MAX_ENTRIES);
    entries.truncate(MAX_ENTRIES);
    let (client, path) = (file.client, file.path.clone());
    Some(ConfigChange {
        time: Timestamp::now(),
        client,
        path,
        entries,
        more,
        past_the_door,
        error,
        writers: Vec::new(),
    })
}

/// Arguments with what stands where secrets stand replaced: behind `--token`, in `KEY=…`, in a URL.
fn masked(args: &[String]) -> Vec<String> {
    let mut hide = false;
    args.iter()
        .map(|arg| {
            if std::mem::take(&mut hide) && !arg.starts_with('-') {
                return MASK.to_owned();
            }
            if let Some((name, _)) = arg.split_once('=').filter(|(name, _)| is_secret(name)) {
                return format!("{name}={MASK}");
            }
            if let Some((name, _)) = arg.split_once(": ").filter(|(name, _)| is_secret(name)) {
                return format!("{name}: {MASK}");
            }
            hide = arg.starts_with('-') && is_secret(arg);
            without_secrets(arg)
        })
        .collect()
}

/// Whether a name is one of secrets.
fn is_secret(name: &str) -> bool {
    const MARKS: [&str; 9] =
        ["key", "token", "secret", "passw", "auth", "credential", "cookie", "connection-string", "dsn"];
    let name = name.to_ascii_lowercase().replace('_', "-");
    MARKS.iter().any(|mark| name.contains(mark)) || name == "--header" || name == "-h"
}

/// A word without the user information and the query of a URL, and without what looks like a key.
fn without_secrets(word: &str) -> String {
    const KEYS: [&str; 9] = ["sk-", "ghp_", "gho_", "github_pat_", "glpat-", "xoxb-", "xoxp-", "AKIA", "eyJ"];
    if KEYS.iter().any(|key| word.starts_with(key)) {
        return MASK.to_owned();
    }
    let Some((scheme, rest)) = word.split_once("://") else { return word.to_owned() };
    let end = rest.find(['?', '#']).unwrap_or(rest.len());
    let (place, query) = rest.split_at(end);
    let authority = place.find('/').unwrap_or(place.len());
    let place = match place[..authority].rfind('@') {
        Some(at) => format!("{MASK}{}", &place[at..]),
        None => place.to_owned(),
    };
    let query = if query.is_empty() { String::new() } else { format!("{}{MASK}", &query[..1]) };
    format!("{scheme}://{place}{query}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn secrets_are_masked_where_they_usually_stand() {
        let args = words(&[
            "-y",
            "x",
            "--api-key",
            "s3cret",
            "--token=s3cret",
            "-e",
            "GITHUB_TOKEN=s3cret",
            "--header",
            "Authorization: Bearer s3cret",
            "https://me:s3cret@h/mcp?k=s3cret#s3cret",
            "sk-s3cret",
            "--port",
            "80",
        ]);
        let masked = masked(&args);
        assert!(!masked.join(" ").contains("s3cret"), "{masked:?}");
        assert_eq!(masked[9], "https://***@h/mcp?***");
        assert_eq!((masked[1].as_str(), masked[12].as_str()), ("x", "80"));
    }

    proptest! {
        #[test]
        fn any_words_are_masked_without_a_panic(args in proptest::collection::vec("\\PC{0,20}", 0..6)) {
            prop_assert_eq!(masked(&args).len(), args.len());
        }

        #[test]
        fn what_follows_a_flag_of_secrets_never_shows(flag in "--[a-z]{0,5}(token|key|secret|password)", value in "s3cret[a-z]{0,8}") {
            let shown = masked(&words(&[&flag, &value, &format!("{flag}={value}")]));
            prop_assert!(!shown.join(" ").contains("s3cret"));
        }
    }
}
