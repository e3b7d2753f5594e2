//! `{"mcpServers": {NAME: {"command", "args", "env"} | {"url"}}}`, which most clients share, and
//! what Claude Code adds: the same per project, below `projects`.
//!
//! Files are read as JSON with comments and trailing commas, whatever their client allows: an
//! entry that some client would accept must not be missed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{ClientServer, Parsed};

/// Project directories that one file may add; a file with more is not a person's.
const MAX_PROJECTS: usize = 2048;

/// Servers that one file may name; the kernel has room for a few thousand in all.
const MAX_SERVERS: usize = 1024;

pub(super) fn parse(text: &str) -> Result<Parsed, String> {
    let root = object(text)?;
    let mut parsed = Parsed::default();
    servers(root.get("mcpServers"), "mcpServers", None, &mut parsed);
    if let Some(projects) = root.get("projects").and_then(Value::as_object) {
        for (path, project) in projects.iter().filter(|(path, _)| path.starts_with('/')).take(MAX_PROJECTS) {
            let dir = PathBuf::from(path);
            let place = format!("projects[{path:?}].mcpServers");
            servers(project.get("mcpServers"), &place, Some(&dir), &mut parsed);
            parsed.projects.push(dir);
        }
    }
    Ok(parsed)
}

/// Amp: `"amp.mcpServers"` among its settings.
pub(super) fn parse_amp(text: &str) -> Result<Parsed, String> {
    let root = object(text)?;
    let mut parsed = Parsed::default();
    servers(root.get("amp.mcpServers"), "\"amp.mcpServers\"", None, &mut parsed);
    servers(root.get("mcpServers"), "mcpServers", None, &mut parsed);
    Ok(parsed)
}

/// The object that a config file is.
pub(super) fn object(text: &str) -> Result<Map<String, Value>, String> {
    let start = |what: &str| format!("line 1, column 1: {what}");
    if text.trim().is_empty() {
        return Err(start("the file is empty"));
    }
    let value: Value = jsonc_parser::parse_to_serde_value(text, &jsonc_parser::ParseOptions::default())
        .map_err(|e| format!("line {}, column {}: {}", e.line_display(), e.column_display(), e.kind()))?;
    match value {
        Value::Object(root) => Ok(root),
        _ => Err(start("the file is no JSON object")),
    }
}

/// Reads a table of servers; `place` says where it is, for errors.
pub(super) fn servers(table: Option<&Value>, place: &str, project: Option<&Path>, parsed: &mut Parsed) {
    let table = match table {
        None | Some(Value::Null) => return,
        Some(Value::Object(table)) => table,
        Some(_) => return complain(parsed, format!("{place} is no object")),
    };
    for (name, entry) in table {
        if parsed.servers.len() >= MAX_SERVERS {
            return complain(
                parsed,
                format!("{place}: the file names more than {MAX_SERVERS} servers; only the first ones are known"),
            );
        }
        match server(name, entry, project) {
            Ok(server) => parsed.servers.push(server),
            Err(what) => complain(parsed, format!("{place}.{name}: {what}")),
        }
    }
}

pub(super) fn complain(parsed: &mut Parsed, what: String) {
    parsed.error.get_or_insert(what);
}

fn server(name: &str, entry: &Value, project: Option<&Path>) -> Result<ClientServer, String> {
    let entry = entry.as_object().ok_or("it is no object")?;
    let text = |keys: &[&str]| keys.iter().find_map(|key| entry.get(*key)).and_then(Value::as_str).map(str::to_owned);
    let url = text(&["url", "httpUrl", "serverUrl"]);
    let mut args = words(entry.get("args"))?;
    let mut env = environment(entry.get("env").or_else(|| entry.get("environment")))?;
    let command = match entry.get("command") {
        // Zed's older shape.
        Some(Value::Object(inner)) => {
            args.extend(words(inner.get("args"))?);
            env.extend(environment(inner.get("env"))?);
            inner.get("path").and_then(Value::as_str).map(str::to_owned)
        }
        // OpenCode's shape: command and arguments in one list.
        Some(list @ Value::Array(_)) => {
            let mut all = words(Some(list))?;
            if all.is_empty() {
                return Err("its command is empty".into());
            }
            args.splice(0..0, all.drain(1..));
            all.pop()
        }
        Some(Value::String(command)) => Some(command.clone()),
        None | Some(Value::Null) => None,
        Some(_) => return Err("its command is no text".into()),
    };
    if command.is_none() && url.is_none() {
        return Err("it has neither a command nor a url".into());
    }
    let off = entry.get("disabled").and_then(Value::as_bool) == Some(true)
        || entry.get("enabled").and_then(Value::as_bool) == Some(false);
    Ok(ClientServer {
        name: name.into(),
        command,
        args,
        env,
        url,
        headers: headers(entry)?,
        cwd: text(&["cwd"]).map(PathBuf::from).filter(|cwd| cwd.is_absolute()),
        project: project.map(Path::to_path_buf),
        door: false,
        disabled: off,
        dynamic: false,
    })
}

/// A list of words; numbers and truth values are written as JSON writes them, as clients do.
pub(super) fn words(list: Option<&Value>) -> Result<Vec<String>, String> {
    match list {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(items)) => {
            items.iter().map(|item| scalar(item).ok_or_else(|| "an argument is no text".into())).collect()
        }
        Some(_) => Err("its args are no list".into()),
    }
}

pub(super) fn environment(table: Option<&Value>) -> Result<BTreeMap<String, String>, String> {
    match table {
        None | Some(Value::Null) => Ok(BTreeMap::new()),
        Some(Value::Object(table)) => {
            Ok(table.iter().filter_map(|(name, value)| scalar(value).map(|value| (name.clone(), value))).collect())
        }
        Some(_) => Err("its env is no object".into()),
    }
}

/// What a remote server is told; a variable of the client's environment stands as `${NAME}`.
fn headers(entry: &Map<String, Value>) -> Result<BTreeMap<String, String>, String> {
    let table = |table: Option<&Value>| environment(table).map_err(|_| "its headers are no object".to_owned());
    let options = entry.get("requestOptions").and_then(|options| options.get("headers"));
    let mut headers = table(entry.get("headers").or_else(|| entry.get("http_headers")).or(options))?;
    // Codex.
    let from_env = table(entry.get("env_http_headers"))?;
    headers.extend(from_env.into_iter().map(|(name, variable)| (name, format!("${{{variable}}}"))));
    if let Some(variable) = entry.get("bearer_token_env_var").and_then(Value::as_str) {
        headers.insert("Authorization".into(), format!("Bearer ${{{variable}}}"));
    }
    Ok(headers)
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        _ => None,
    }
}
