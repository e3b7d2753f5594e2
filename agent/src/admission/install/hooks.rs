//! Puts our hooks into a client's settings, and takes exactly them out again.
//!
//! Invariant: an entry is ours where each of its commands is `lazaret hook`; no other is touched. What was made to hold
//! ours goes with them when nothing else is in it.

use std::path::Path;

use jiff::Timestamp;
use jsonc_parser::ast::Value as Node;
use jsonc_parser::common::Ranged as _;
use serde_json::{Value, json};

use super::anchored::Anchored;
use super::edit::{self, Style};
use super::{ClientChange, Door, InstallError, Plan, check};
use crate::proxy::json::Json;

/// Clients that have hooks, with the directory and the file below the home.
const SUPPORTED: &[(&str, &str, &str)] = &[("claude-code", ".claude", "settings.json")];
/// What the door hears of, and which tools it concerns.
const EVENTS: &[(&str, Option<&str>)] = &[("SubagentStart", None), ("PreToolUse", Some("mcp__.*"))];
/// Seconds that the client waits for a hook of ours, which takes one at most.
const PATIENCE: u32 = 5;
const HOOKS: &str = "hooks";

fn find(client: &str, home: &Path) -> Result<Anchored, InstallError> {
    let known = SUPPORTED.iter().find(|(name, ..)| *name == client);
    let (_, dir, file) = known.ok_or_else(|| InstallError::Unsupported(client.into()))?;
    if !home.join(dir).is_dir() {
        return Err(InstallError::NeverStarted { client: client.into(), path: home.join(dir) });
    }
    Anchored::find(home, &format!("{dir}/{file}"))
}

/// The path of a client's settings, links resolved: the key of the [`ClientChange`]; `None` where it has none yet.
pub fn settings_path(client: &str, home: &Path) -> Result<Option<std::path::PathBuf>, InstallError> {
    match find(client, home) {
        Ok(file) => Ok(Some(file.path)),
        Err(InstallError::NeverStarted { .. }) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Whether every event that the door hears of has our hook.
pub fn are_installed(client: &str, home: &Path) -> Result<bool, InstallError> {
    if settings_path(client, home)?.is_none() {
        return Ok(false);
    }
    let file = find(client, home)?;
    let Some(contents) = file.read()? else { return Ok(false) };
    let json = check(&file.path, &contents.text)?;
    let has =
        |event: &str| -> Result<bool, InstallError> { Ok(entries(&file.path, &json, event)?.iter().any(is_ours)) };
    EVENTS.iter().try_fold(true, |all, (event, _)| Ok(all && has(event)?))
}

/// Works out how `client` is made to tell the door of its sub-agents. `earlier` is what is stored from an installation
/// before.
pub fn install_hooks(
    client: &str,
    home: &Path,
    door: &Door,
    earlier: Option<ClientChange>,
) -> Result<Plan, InstallError> {
    let file = find(client, home)?;
    let before = file.read()?;
    let mut after = before.as_ref().map_or("{}\n", |before| before.text.as_str()).to_owned();
    let mut change = earlier.unwrap_or_else(|| ClientChange {
        client: client.into(),
        path: file.path.clone(),
        at: Timestamp::now(),
        agent: String::new(),
        removed: Vec::new(),
        made_file: before.is_none(),
        made_table: false,
        made: Vec::new(),
        backup: None,
    });
    change.agent.clone_from(&door.agent);
    change.at = Timestamp::now();
    let mut moved = Vec::new();
    for (event, matcher) in EVENTS {
        let json = check(&file.path, &after)?;
        let wanted = entry(&command(door), *matcher);
        let ours: Vec<_> = entries(&file.path, &json, event)?.iter().filter(|entry| is_ours(entry)).collect();
        if ours.len() == 1 && ours[0].to_value() == wanted {
            continue;
        }
        let broken = || InstallError::Shape { path: file.path.clone(), what: format!("{HOOKS}.{event}") };
        let made = |change: &mut ClientChange, path: &[&str]| {
            let path: Vec<String> = path.iter().map(|name| (*name).to_owned()).collect();
            if !change.made.contains(&path) {
                change.made.push(path);
            }
        };
        let table = json.get(HOOKS);
        if table.is_none() {
            made(&mut change, &[HOOKS]);
        }
        if table.and_then(|table| table.get(event)).is_none() {
            made(&mut change, &[HOOKS, *event]);
        }
        after = without_ours(&file.path, after, event)?;
        after = match entries_are_there(&file.path, &after, event)? {
            true => append(&after, event, &wanted),
            false => edit::put(&after, &[HOOKS.into()], event, &json!([wanted])),
        }
        .ok_or_else(broken)?;
        moved.push((*event).to_owned());
    }
    Plan::new(file, before, after, moved, Some(change))
}

/// Works out how our hooks are taken out again; `None` where there are none of ours. `change` is what is stored from
/// the installation; without it what holds them stays.
pub fn remove_hooks(client: &str, home: &Path, change: Option<&ClientChange>) -> Result<Option<Plan>, InstallError> {
    if settings_path(client, home)?.is_none() {
        return Ok(None);
    }
    let file = find(client, home)?;
    let Some(before) = file.read()? else { return Ok(None) };
    let mut after = before.text.clone();
    let mut moved = Vec::new();
    for (event, _) in EVENTS {
        let shorter = without_ours(&file.path, after.clone(), event)?;
        if shorter != after {
            moved.push((*event).to_owned());
            after = shorter;
        }
    }
    if moved.is_empty() {
        return Ok(None);
    }
    // The inner ones were made last.
    for path in change.iter().flat_map(|change| change.made.iter().rev()) {
        let json = check(&file.path, &after)?;
        let Some((name, above)) = path.split_last() else { continue };
        let at = path.iter().try_fold(&json, |at, name| at.get(name));
        let empty = match at {
            Some(Json::Array(elements)) => elements.is_empty(),
            Some(Json::Object(members)) => members.is_empty(),
            _ => false,
        };
        if empty && let Some((without, _)) = edit::cut(&after, above, name) {
            after = without;
        }
    }
    Plan::new(file, Some(before), after, moved, None).map(Some)
}

fn command(door: &Door) -> String {
    let quoted = |text: &str| match text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+@".contains(c)) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    };
    let run_dir = door.run_dir.as_ref().map(|dir| format!(" --run-dir {}", quoted(&dir.display().to_string())));
    format!("{} hook{}", quoted(&door.command.display().to_string()), run_dir.unwrap_or_default())
}

fn entry(command: &str, matcher: Option<&str>) -> Value {
    let hooks = json!([{ "type": "command", "command": command, "timeout": PATIENCE }]);
    match matcher {
        Some(matcher) => json!({ "matcher": matcher, "hooks": hooks }),
        None => json!({ "hooks": hooks }),
    }
}

/// Whether it runs nothing but `lazaret hook`.
fn is_ours(entry: &Json) -> bool {
    let commands = entry.get(HOOKS).and_then(Json::as_array).unwrap_or_default();
    let ours = |hook: &Json| {
        let command = hook.get("command").and_then(Json::as_str).unwrap_or_default();
        let (program, rest) = match command.strip_prefix('\'') {
            Some(rest) => rest.split_once("' ").unwrap_or_default(),
            None => command.split_once(' ').unwrap_or_default(),
        };
        program.rsplit('/').next() == Some("lazaret") && rest.split(' ').next() == Some("hook")
    };
    !commands.is_empty() && commands.iter().all(ours)
}

fn entries<'a>(path: &Path, json: &'a Json, event: &str) -> Result<&'a [Json], InstallError> {
    let shape = |what: String| InstallError::Shape { path: path.into(), what };
    match json.get(HOOKS) {
        None => Ok(&[]),
        Some(table @ Json::Object(_)) => match table.get(event) {
            None => Ok(&[]),
            Some(Json::Array(entries)) => Ok(entries),
            Some(_) => Err(InstallError::NoArray { path: path.into(), what: format!("{HOOKS}.{event}") }),
        },
        Some(_) => Err(shape(HOOKS.into())),
    }
}

fn entries_are_there(path: &Path, text: &str, event: &str) -> Result<bool, InstallError> {
    Ok(check(path, text)?.get(HOOKS).and_then(|table| table.get(event)).is_some())
}

fn without_ours(path: &Path, mut text: String, event: &str) -> Result<String, InstallError> {
    loop {
        let json = check(path, &text)?;
        let Some(index) = entries(path, &json, event)?.iter().position(is_ours) else { return Ok(text) };
        let broken = || InstallError::Shape { path: path.into(), what: format!("{HOOKS}.{event}") };
        text = cut(&text, event, index).ok_or_else(broken)?;
    }
}

/// The byte ranges of an event's array and of its elements.
fn places(text: &str, event: &str) -> Option<(std::ops::Range<usize>, Vec<std::ops::Range<usize>>)> {
    edit::at(text, &[HOOKS.to_owned()], |table| {
        let member = table.properties.iter().find(|member| member.name.as_str() == event)?;
        let Node::Array(array) = &member.value else { return None };
        let elements = array.elements.iter().map(|element| element.range().start..element.range().end).collect();
        Some((array.range.start..array.range.end, elements))
    })
}

/// A new last element, in the style of the file.
fn append(text: &str, event: &str, value: &Value) -> Option<String> {
    let style = Style::of(text);
    let (array, elements) = places(text, event)?;
    let (inside, written) = (style.line(3), style.write(value, 3));
    let (range, new) = match elements.last() {
        Some(last) => (last.end..last.end, format!(",{inside}{written}")),
        None => (array.start + 1..array.end - 1, format!("{inside}{written}{}", style.line(2))),
    };
    Some([text.get(..range.start)?, &new, text.get(range.end..)?].concat())
}

fn cut(text: &str, event: &str, index: usize) -> Option<String> {
    let (array, elements) = places(text, event)?;
    let own = elements.get(index)?;
    let range = match (index.checked_sub(1).and_then(|before| elements.get(before)), elements.get(index + 1)) {
        (Some(before), _) => before.end..own.end,
        (None, Some(next)) => own.start..next.start,
        (None, None) => array.start + 1..array.end - 1,
    };
    Some([text.get(..range.start)?, text.get(range.end..)?].concat())
}

#[cfg(test)]
mod tests;
