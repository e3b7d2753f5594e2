//! Points a client at the connector, and takes that back.
//!
//! Invariants: nothing is written that was not shown as a diff before; a file that does not
//! parse, or that changed since, is left alone; there is a backup before anything is replaced;
//! what was taken out is remembered, and put back by `remove`.

mod anchored;
mod edit;
mod hooks;
mod mask;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::launch;
use super::model::{LaunchDefinition, Source};
use crate::proxy::json::Json;
use crate::store::Record;
use anchored::{Anchored, Contents};
pub use edit::Cut;
pub use hooks::{are_installed as hooks_are_installed, install_hooks, remove_hooks, settings_path};

/// Clients whose configs are written, with the file below the home.
const SUPPORTED: &[(&str, &str)] = &[("claude-code", ".claude.json")];
/// The connector's name in a client's config.
pub const ENTRY: &str = "lazaret";

#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    #[error(
        "cannot change the config of {0}: only claude-code is written so far; add the entry that `lazaret client install claude-code --dry-run` shows by hand"
    )]
    Unsupported(String),
    #[error("cannot read {path}: {cause}; nothing was changed")]
    Read { path: PathBuf, cause: String },
    #[error("cannot change {path}: it leads out of the home, to {target}; nothing was changed, edit that file by hand")]
    Outside { path: PathBuf, target: PathBuf },
    #[error("cannot change {path}:{line}:{column}: {message}; nothing was changed, mend the file first")]
    Syntax { path: PathBuf, line: usize, column: usize, message: String },
    #[error("cannot change {path}: its {what} is no object; nothing was changed, mend the file first")]
    Shape { path: PathBuf, what: String },
    #[error("cannot change {path}: its {what} is no array; nothing was changed, mend the file first")]
    NoArray { path: PathBuf, what: String },
    #[error(
        "cannot put hooks in for {client}: it has made no directory {path} yet; nothing was changed, start it once and run the command again"
    )]
    NeverStarted { client: String, path: PathBuf },
    #[error(
        "cannot change {path}: it has a server named {ENTRY} that is not the connector; nothing was changed, rename that one first"
    )]
    NameTaken { path: PathBuf },
    #[error("cannot take the connector out of {path}: it is not in there; see `lazaret client list`")]
    NotInstalled { path: PathBuf },
    #[error(
        "cannot change {path}: it was changed while you looked at the diff; nothing was written, run the command again"
    )]
    Changed { path: PathBuf },
    #[error("cannot write {path}: {cause}; the file is as it was")]
    Write { path: PathBuf, cause: String },
}

/// How a client reaches the door.
#[derive(Debug, Clone)]
pub struct Door {
    /// The absolute path of `lazaret`.
    pub command: PathBuf,
    pub agent: String,
    /// The agent's key, where it is not in its usual place.
    pub key: Option<PathBuf>,
    /// Where the sockets are, unless in the default place.
    pub run_dir: Option<PathBuf>,
}

impl Door {
    fn entry(&self) -> serde_json::Value {
        let mut args = vec!["connect".to_owned(), "--agent".into(), self.agent.clone()];
        for (flag, path) in [("--key", &self.key), ("--run-dir", &self.run_dir)] {
            args.extend(path.iter().flat_map(|path| [flag.to_owned(), path.display().to_string()]));
        }
        serde_json::json!({ "type": "stdio", "command": self.command, "args": args, "env": {} })
    }
}

/// A server that the client reaches through the door from now on.
#[derive(Debug, Clone)]
pub struct Adopted {
    pub name: String,
    pub source: Source,
    pub args: Vec<String>,
    pub configured: Vec<String>,
}

impl Adopted {
    pub fn new(name: &str, launch: &LaunchDefinition) -> Self {
        Self {
            name: name.into(),
            source: launch.source.clone(),
            args: launch.args.clone(),
            configured: launch.configured.clone(),
        }
    }

    /// Whether a config's entry starts this server: word by word, or the same package with the
    /// same arguments by another launcher.
    fn is_started_by(&self, argv: &[String], cwd: &Path) -> bool {
        if argv == self.configured {
            return true;
        }
        let Ok(other) = launch::from_argv(argv, &BTreeMap::new(), cwd) else { return false };
        other.args == self.args && same_source(&self.source, &other.source)
    }
}

fn same_source(a: &Source, b: &Source) -> bool {
    // A shadow's version was read from what was installed; the config often names none.
    let same_version = |a: &Option<String>, b: &Option<String>| a.is_none() || b.is_none() || a == b;
    match (a, b) {
        (Source::Npm { package: a, version: v, .. }, Source::Npm { package: b, version: w, .. }) => {
            a == b && same_version(v, w)
        }
        (
            Source::Pypi { package: a, version: v, with: x, .. },
            Source::Pypi { package: b, version: w, with: y, .. },
        ) => a == b && same_version(v, w) && x == y,
        _ => a == b,
    }
}

/// What was done to a client's config, so that it can be undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientChange {
    pub client: String,
    pub path: PathBuf,
    pub at: Timestamp,
    pub agent: String,
    /// In the order in which they were taken out.
    pub removed: Vec<Cut>,
    /// The file, or its table of servers, was not there before.
    pub made_file: bool,
    pub made_table: bool,
    /// What was made to hold our hooks, the outer ones first.
    #[serde(default)]
    pub made: Vec<Vec<String>>,
    pub backup: Option<PathBuf>,
}

impl Record for ClientChange {
    const TABLE: &'static str = "client_changes";
    fn key(&self) -> String {
        self.path.display().to_string()
    }
}

/// A change that was worked out and not yet made.
#[derive(Debug)]
pub struct Plan {
    pub path: PathBuf,
    /// Unified, for showing: values of `env` and `headers` are masked. Empty where nothing would change.
    pub diff: String,
    /// Names of the entries that leave the file (install) or come back (remove).
    pub moved: Vec<String>,
    file: Anchored,
    before: Option<Contents>,
    after: String,
    change: Option<ClientChange>,
}

/// What `Plan::apply` did.
#[derive(Debug)]
pub struct Applied {
    pub backup: Option<PathBuf>,
    /// To be stored under its key; `None` after a removal: the stored one is to be deleted.
    pub change: Option<ClientChange>,
}

/// The path of a supported client's config below `home`, links resolved: the key of its [`ClientChange`].
pub fn config_path(client: &str, home: &Path) -> Result<PathBuf, InstallError> {
    find(client, home).map(|file| file.path)
}

fn find(client: &str, home: &Path) -> Result<Anchored, InstallError> {
    let known = SUPPORTED.iter().find(|(name, _)| *name == client);
    let (_, name) = known.ok_or_else(|| InstallError::Unsupported(client.into()))?;
    Anchored::find(home, name)
}

/// Works out how `client` is pointed at the door: adds its entry, and takes out the entries (of
/// the user and of projects) that start a server of `adopted`. `earlier` is what is stored from
/// an installation before.
pub fn install(
    client: &str,
    home: &Path,
    door: &Door,
    adopted: &[Adopted],
    earlier: Option<ClientChange>,
) -> Result<Plan, InstallError> {
    let file = find(client, home)?;
    let before = file.read()?;
    let text = before.as_ref().map_or("{}\n", |before| before.text.as_str()).to_owned();
    let json = check(&file.path, &text)?;
    let table = servers_of(&file.path, &json, &[])?;
    if table.and_then(|table| table.get(ENTRY)).is_some_and(|entry| !is_connector(entry)) {
        return Err(InstallError::NameTaken { path: file.path });
    }
    let mut change = earlier.unwrap_or_else(|| ClientChange {
        client: client.into(),
        path: file.path.clone(),
        at: Timestamp::now(),
        agent: String::new(),
        removed: Vec::new(),
        made_file: before.is_none(),
        made_table: table.is_none(),
        made: Vec::new(),
        backup: None,
    });
    change.agent.clone_from(&door.agent);
    change.at = Timestamp::now();
    let mut after = text;
    let mut moved = Vec::new();
    for (path, name) in replaced(&file.path, &json, home, adopted)? {
        if let Some((without, cut)) = edit::cut(&after, &path, &name) {
            after = without;
            change.removed.push(cut);
            moved.push(name);
        }
    }
    let broken = || InstallError::Shape { path: file.path.clone(), what: "mcpServers".into() };
    after = edit::put(&after, &["mcpServers".into()], ENTRY, &door.entry()).ok_or_else(broken)?;
    Plan::new(file, before, after, moved, Some(change))
}

/// Works out how the connector is taken out of `client` again. `change` is what is stored from
/// the installation; without it only the connector goes, and nothing comes back.
pub fn remove(client: &str, home: &Path, change: Option<&ClientChange>) -> Result<Plan, InstallError> {
    let file = find(client, home)?;
    let before = file.read()?;
    let missing = || InstallError::NotInstalled { path: file.path.clone() };
    let text = before.as_ref().map(|before| before.text.as_str()).ok_or_else(missing)?;
    let json = check(&file.path, text)?;
    let servers = servers_of(&file.path, &json, &[])?;
    if !servers.and_then(|table| table.get(ENTRY)).is_some_and(is_connector) {
        return Err(missing());
    }
    let table = ["mcpServers".to_owned()];
    let (mut after, _) = edit::cut(text, &table, ENTRY).ok_or_else(missing)?;
    let mut moved = Vec::new();
    for cut in change.iter().flat_map(|change| change.removed.iter().rev()) {
        if let Some(with) = edit::put_back(&after, cut) {
            after = with;
            moved.push(cut.name.clone());
        }
    }
    let empty = |text: &str| {
        check(&file.path, text)
            .is_ok_and(|json| matches!(json.get("mcpServers"), Some(Json::Object(members)) if members.is_empty()))
    };
    if change.is_some_and(|change| change.made_table)
        && empty(&after)
        && let Some((without, _)) = edit::cut(&after, &[], "mcpServers")
    {
        after = without;
    }
    Plan::new(file, before, after, moved, None)
}

impl Plan {
    fn new(
        file: Anchored,
        before: Option<Contents>,
        after: String,
        moved: Vec<String>,
        change: Option<ClientChange>,
    ) -> Result<Self, InstallError> {
        // What is written has to be what the client can read.
        check(&file.path, &after)?;
        let old = before.as_ref().map_or("", |before| before.text.as_str());
        let path = file.path.display().to_string();
        let (shown_old, shown) = (mask::masked(old), mask::masked(&after));
        let diff = similar::TextDiff::from_lines(shown_old.as_str(), shown.as_str());
        let diff = diff.unified_diff().context_radius(3).header(&path, &path).to_string();
        Ok(Self { path: file.path.clone(), diff, moved, file, before, after, change })
    }

    pub fn changes_nothing(&self) -> bool {
        self.before.as_ref().is_some_and(|before| before.text == self.after)
    }

    /// Makes the change, after a backup. Fails, and changes nothing, where the file is no longer
    /// what the plan was made from.
    pub fn apply(self) -> Result<Applied, InstallError> {
        let mut change = self.change;
        let unchanged = self.before.as_ref().is_some_and(|before| before.text == self.after);
        let mut backup = None;
        if !unchanged {
            if let Some(before) = &self.before {
                let stamp = Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
                backup = Some(self.file.back_up(before, &stamp)?);
            }
            self.file.replace(self.before.as_ref(), &self.after)?;
        }
        if let (Some(change), Some(backup)) = (&mut change, &backup) {
            change.backup = Some(backup.clone());
        }
        Ok(Applied { backup, change })
    }
}

fn check(path: &Path, text: &str) -> Result<Json, InstallError> {
    edit::check(text).map_err(|e| InstallError::Syntax {
        path: path.into(),
        line: e.line,
        column: e.column,
        message: e.message,
    })
}

/// The table of servers in the object at `above`.
fn servers_of<'a>(path: &Path, json: &'a Json, above: &[&str]) -> Result<Option<&'a Json>, InstallError> {
    let mut object = json;
    for name in above {
        match object.get(name) {
            Some(inner) => object = inner,
            None => return Ok(None),
        }
    }
    match object.get("mcpServers") {
        None => Ok(None),
        Some(table @ Json::Object(_)) => Ok(Some(table)),
        Some(_) => {
            let what = above.iter().chain(&["mcpServers"]).copied().collect::<Vec<_>>().join(".");
            Err(InstallError::Shape { path: path.into(), what })
        }
    }
}

/// Entries that start an adopted server: where they are, and their names.
fn replaced(
    path: &Path,
    json: &Json,
    home: &Path,
    adopted: &[Adopted],
) -> Result<Vec<(Vec<String>, String)>, InstallError> {
    let mut found = Vec::new();
    let mut look = |above: &[&str], cwd: &Path| -> Result<(), InstallError> {
        let Some(table) = servers_of(path, json, above)? else { return Ok(()) };
        for (name, entry) in table.as_object().unwrap_or_default() {
            let Some(argv) = argv_of(entry).filter(|_| !is_connector(entry)) else { continue };
            if adopted.iter().any(|server| server.is_started_by(&argv, cwd)) {
                let at = above.iter().chain(&["mcpServers"]).map(|name| (*name).to_owned()).collect();
                found.push((at, name.value.clone()));
            }
        }
        Ok(())
    };
    look(&[], home)?;
    for (project, _) in json.get("projects").and_then(Json::as_object).unwrap_or_default() {
        look(&["projects", &project.value], Path::new(&project.value))?;
    }
    Ok(found)
}

fn argv_of(entry: &Json) -> Option<Vec<String>> {
    let command = entry.get("command").and_then(Json::as_str)?;
    let args = entry.get("args").and_then(Json::as_array).unwrap_or_default();
    let words = args.iter().map(|arg| match arg {
        Json::String(text) => Some(text.value.clone()),
        Json::Number(number) => Some(number.clone()),
        _ => None,
    });
    std::iter::once(Some(command.to_owned())).chain(words).collect()
}

fn is_connector(entry: &Json) -> bool {
    argv_of(entry).is_some_and(|argv| {
        argv[0].rsplit('/').next() == Some("lazaret") && argv.get(1).is_some_and(|word| word == "connect")
    })
}

/// The fuzz target: an entry is put in and taken out, each other one is taken out and put back.
#[cfg(any(test, fuzzing))]
pub fn fuzz(text: &str) {
    let _ = mask::masked(text);
    let Ok(json) = edit::check(text) else { return };
    mask::fuzz(text);
    let table = ["mcpServers".to_owned()];
    let entry = serde_json::json!({ "command": "/x/lazaret", "args": ["connect"], "env": {} });
    if json.get("mcpServers").is_none_or(|table| table.as_object().is_some()) {
        let after = edit::put(text, &table, ENTRY, &entry).expect("there is a place for it");
        let mut expected = json.clone();
        if expected.get("mcpServers").is_none() {
            expected.set("mcpServers", Json::Object(Vec::new()));
        }
        if let Some(table) = expected.get_mut("mcpServers") {
            table.set(ENTRY, Json::from_value(&entry));
        }
        let read = edit::check(&after).expect("what is written can be read");
        assert_eq!(read.to_text(), expected.to_text(), "{after}");
        let (without, _) = edit::cut(&after, &table, ENTRY).expect("what was put in can be taken out");
        if let Some(table) = expected.get_mut("mcpServers") {
            table.remove(ENTRY);
        }
        assert_eq!(edit::check(&without).expect("it can be read").to_text(), expected.to_text());
    }
    for (name, _) in json.get("mcpServers").and_then(Json::as_object).unwrap_or_default() {
        let (without, cut) = edit::cut(text, &table, &name.value).expect("each member can be taken out");
        assert!(edit::check(&without).is_ok(), "{without}");
        assert_eq!(edit::put_back(&without, &cut).as_deref(), Some(text), "{name:?}");
    }
}

#[cfg(test)]
mod tests;
