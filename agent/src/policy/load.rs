//! Policy files: `*.cedar` of one directory, all of them or none.
//!
//! Invariant: what is loaded has passed Cedar's strict validation against the embedded schema, so
//! that no policy can read an attribute that a call may lack (such a `forbid` would be skipped).

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;

use std::sync::Arc;

use cedar_policy::ffi::DetailedError;
use cedar_policy::{EntityUid, Policy, PolicyId, PolicySet, ResourceConstraint, Schema, ValidationMode, Validator};
use serde_json::Value;

use super::input::SCHEMA;
use crate::audit::AuditError;
use crate::config::line_column;

const BUILTIN: &str = include_str!("builtin.cedar");
const MAX_FILE: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    #[error(
        "cannot read the policies {path}: {source}; make it readable text, or remove it (without any, the built-in policy is in force)"
    )]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot use the policy {path}: anybody may write to it (mode {mode:04o}); run `chmod o-w {path}`")]
    TooOpen { path: PathBuf, mode: u32 },
    #[error("cannot use the policy {path}: it is longer than 1 MiB; split it")]
    TooLong { path: PathBuf },
    #[error("{}\nno policy was loaded; correct the files, `lazaret policy check` tries them", join(.0))]
    Faults(Vec<PolicyFault>),
    #[error("cannot read the built-in policy schema: {0}; report this as a bug")]
    Schema(String),
    #[error("cannot hold the policies against the approved tools: {0}; the former policies stay in force")]
    Tools(String),
    #[error(transparent)]
    Audit(#[from] AuditError),
    #[error("cannot read what was used of the rate limits: {0}")]
    Rate(crate::store::StoreError),
}

/// One fault of one file; line and column from 1.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PolicyFault {
    pub path: PathBuf,
    pub line: usize,
    pub column: usize,
    pub message: String,
}

impl fmt::Display for PolicyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.path.display(), self.line, self.column, self.message)
    }
}

pub(super) fn join(faults: &[PolicyFault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

pub(super) struct Loaded {
    pub schema: Schema,
    pub policies: Vec<LoadedPolicy>,
    /// The files that they came from; empty for the built-in policy.
    pub files: Vec<PathBuf>,
}

/// One policy, and where it stands.
#[derive(Clone)]
pub(super) struct LoadedPolicy {
    /// Under an id that names its file, or the one that its `@id` gives.
    pub policy: Policy,
    /// The tool whose arguments it speaks of; then it is validated against that tool's types.
    pub tool: Option<EntityUid>,
    path: PathBuf,
    text: Arc<str>,
}

impl LoadedPolicy {
    pub fn fault(&self, message: String) -> PolicyFault {
        PolicyFault { path: self.path.clone(), line: 1, column: 1, message: format!("{}: {message}", self.policy.id()) }
    }

    /// Where it names an argument, by the first place in its file.
    pub fn fault_of_argument(&self, name: &str, message: String) -> PolicyFault {
        let places = [format!("input.{name}"), format!("input has {name}"), format!("input[\"{name}\"]")];
        let offset = places.iter().filter_map(|place| self.text.find(place.as_str())).min().unwrap_or_default();
        let (line, column) = line_column(&self.text, offset);
        PolicyFault { line, column, ..self.fault(message) }
    }

    /// The arguments that it asks about by name.
    pub fn input_names(&self) -> BTreeSet<String> {
        input_names(&self.policy)
    }

    pub fn fault_at(&self, error: &cedar_policy::ValidationError) -> PolicyFault {
        fault(&self.path, &self.text, &DetailedError::from(error))
    }
}

/// Reads `dir`. A missing directory, or one without a `*.cedar` file, means the built-in policy;
/// files that hold no policy mean that nothing is permitted.
pub(super) fn load(dir: &Path) -> Result<Loaded, PolicyError> {
    let mut loader = Loader::new()?;
    let files = list(dir)?;
    for file in &files {
        loader.file(file)?;
    }
    if files.is_empty() {
        loader.text(Path::new("builtin.cedar"), BUILTIN);
    }
    if !loader.faults.is_empty() {
        return Err(PolicyError::Faults(loader.faults));
    }
    Ok(Loaded { schema: loader.schema, policies: loader.policies, files })
}

/// The `*.cedar` files of `dir` in the order of their names. Hidden files are an editor's.
fn list(dir: &Path) -> Result<Vec<PathBuf>, PolicyError> {
    let failed = |source| PolicyError::Read { path: dir.into(), source };
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed(e)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|extension| extension == "cedar") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

struct Loader {
    schema: Schema,
    ids: HashSet<PolicyId>,
    validator: Validator,
    policies: Vec<LoadedPolicy>,
    faults: Vec<PolicyFault>,
}

impl Loader {
    fn new() -> Result<Self, PolicyError> {
        let (schema, _) = Schema::from_cedarschema_str(SCHEMA).map_err(|e| PolicyError::Schema(e.to_string()))?;
        let validator = Validator::new(schema.clone());
        Ok(Self { schema, ids: HashSet::new(), validator, policies: Vec::new(), faults: Vec::new() })
    }

    fn file(&mut self, path: &Path) -> Result<(), PolicyError> {
        let failed = |source| PolicyError::Read { path: path.into(), source };
        let meta = std::fs::metadata(path).map_err(failed)?;
        if meta.mode() & 0o002 != 0 {
            return Err(PolicyError::TooOpen { path: path.into(), mode: meta.mode() & 0o7777 });
        }
        if meta.len() > MAX_FILE {
            return Err(PolicyError::TooLong { path: path.into() });
        }
        let text = std::fs::read_to_string(path).map_err(failed)?;
        self.text(path, &text);
        Ok(())
    }

    fn text(&mut self, path: &Path, text: &str) {
        let mut set = match PolicySet::from_str(text) {
            Ok(set) => set,
            Err(errors) => {
                self.faults.extend(errors.iter().map(|error| fault(path, text, &DetailedError::from(error))));
                return;
            }
        };
        if let Some(template) = set.templates().next() {
            let message =
                format!("{} is a template (`?principal` or `?resource`): write a policy for each case", template.id());
            self.faults.push(fault_of(path, text, &template.to_string(), message));
        }
        let text: Arc<str> = text.into();
        for policy in set.policies().cloned().collect::<Vec<_>>() {
            let mut tool = None;
            if reads_input(&policy) {
                // Its types are the tool's own, and are looked at together with the tool.
                if let Err(e) = set.remove_static(policy.id().clone()) {
                    self.faults.push(PolicyFault { path: path.into(), line: 1, column: 1, message: e.to_string() });
                }
                match policy.resource_constraint() {
                    ResourceConstraint::Eq(uid) if uid.type_name().basename() == "Tool" => tool = Some(uid),
                    _ => {
                        let message = format!(
                            "{} reads context.input, which is known for one tool at a time; write `resource == Tool::\"server:tool\"` in its head",
                            policy.id()
                        );
                        self.faults.push(fault_of(path, &text, &policy.to_string(), message));
                    }
                }
            }
            self.policy(path, &text, &policy, tool);
        }
        for error in self.validator.validate(&set, ValidationMode::Strict).validation_errors() {
            self.faults.push(fault(path, &text, &DetailedError::from(error)));
        }
    }

    fn policy(&mut self, path: &Path, text: &Arc<str>, policy: &Policy, tool: Option<EntityUid>) {
        let id = match policy.annotation("id").filter(|id| !id.is_empty()) {
            Some(id) => id.to_owned(),
            None => {
                let file = path.file_name().unwrap_or_default().to_string_lossy();
                // Cedar numbers the policies of a text from 0: `policy0`.
                let number = policy.id().to_string().trim_start_matches("policy").parse::<usize>().unwrap_or_default();
                format!("{file}#{}", number + 1)
            }
        };
        let id = PolicyId::new(id);
        if !self.ids.insert(id.clone()) {
            let message = format!("the policy id {id} is taken by an earlier policy: give each @id once");
            self.faults.push(fault_of(path, text, &policy.to_string(), message));
        }
        self.policies.push(LoadedPolicy { policy: policy.new_id(id), tool, path: path.into(), text: text.clone() });
    }
}

/// What is wrong with a whole policy stands where the policy does. Of two that read the same the later one is meant.
fn fault_of(path: &Path, text: &str, policy: &str, message: String) -> PolicyFault {
    let (line, column) = text.rfind(policy.trim()).map_or((1, 1), |at| line_column(text, at));
    PolicyFault { path: path.into(), line, column, message }
}

fn fault(path: &Path, text: &str, error: &DetailedError) -> PolicyFault {
    let (line, column) = error.source_locations.first().map_or((1, 1), |label| line_column(text, label.loc.start));
    let mut message = error.message.clone();
    let label = error.source_locations.first().and_then(|label| label.label.as_deref());
    for more in [label, error.help.as_deref()].into_iter().flatten() {
        message.push_str("; ");
        message.push_str(more);
    }
    PolicyFault { path: path.into(), line, column, message }
}

/// Whether a policy names `context.input` anywhere.
fn reads_input(policy: &Policy) -> bool {
    // What has no JSON form is validated without the tool's types, which refuses `input`.
    policy.to_json().is_ok_and(|json| any(&json, &mut |node| is_input(node)))
}

/// `context.input` in Cedar's JSON form, or the question whether there is one.
fn is_input(node: &Value) -> bool {
    node["attr"] == "input" && node["left"]["Var"] == "context"
}

/// The arguments that a policy asks about by name.
fn input_names(policy: &Policy) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    if let Ok(json) = policy.to_json() {
        any(&json, &mut |node| {
            if is_input(&node["left"]["."])
                && let Some(name) = node["attr"].as_str()
            {
                names.insert(name.to_owned());
            }
            false
        });
    }
    names
}

/// Whether `is` holds for any object in a JSON tree.
fn any(json: &Value, is: &mut impl FnMut(&Value) -> bool) -> bool {
    match json {
        Value::Object(members) => is(json) || members.values().any(|value| any(value, is)),
        Value::Array(items) => items.iter().any(|item| any(item, is)),
        _ => false,
    }
}

/// Reads a text of policies as a file's, without the file: for whoever tries texts.
pub fn try_text(text: &str) -> Result<usize, Vec<PolicyFault>> {
    let Ok(mut loader) = Loader::new() else { return Ok(0) };
    loader.text(Path::new("policy.cedar"), text);
    if loader.faults.is_empty() { Ok(loader.policies.len()) } else { Err(loader.faults) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_whole_policy_is_told_where_it_stands() {
        for (text, line, column, part) in [
            (
                "@id(\"a\") permit (principal, action, resource);\n  @id(\"a\")\nforbid (principal, action, resource);",
                2,
                3,
                "taken",
            ),
            ("// c\npermit (principal == ?principal, action, resource);", 2, 1, "template"),
            ("\n permit (principal, action, resource) when { context.input has x };", 2, 2, "one tool at a time"),
        ] {
            let mut loader = Loader::new().unwrap();
            loader.text(Path::new("f"), text);
            let fault = loader.faults.iter().find(|fault| fault.message.contains(part)).unwrap();
            assert_eq!((fault.line, fault.column), (line, column), "{fault:?}");
        }
    }
}
