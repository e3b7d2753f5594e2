//! The agent's key on this side: made, found, rotated, in its owner's name.
//!
//! Invariant: root never writes below another user's home directory. Under sudo the key is handled
//! by a process that has only that user's rights, so that a planted link leads nowhere new.

use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::api::users;
use crate::cli::args::agent::{AgentKeyArgs, KeyChoice};
use crate::cli::instance::Human;
use crate::cli::{CliError, out};
use crate::identity::source::{default_source, remember};
use crate::identity::{self, Address, AgentKey, KeyError, PublicKey, Rotation, SourceName};

/// What the process with the human's rights must know of the caller's environment.
const PASSED_ON: [&str; 2] = ["SSH_AUTH_SOCK", "LAZARET_PKCS11_PIN"];

/// A key, as the process that can use it tells of it.
#[derive(Serialize, Deserialize)]
pub struct Made {
    pub source: String,
    pub public_key: PublicKey,
    /// Whose it is: the owner of the file, or who can use the source.
    pub owner_uid: u32,
    pub fresh: bool,
}

/// Where the key is that was chosen.
pub fn chosen(address: &Address, choice: &KeyChoice) -> Result<SourceName, CliError> {
    match (&choice.key, &choice.key_source) {
        (Some(path), _) => Ok(SourceName::File(std::path::absolute(path).map_err(CliError::failed)?)),
        (None, Some(SourceName::File(path))) => {
            Ok(SourceName::File(std::path::absolute(path).map_err(CliError::failed)?))
        }
        (None, Some(source)) => Ok(source.clone()),
        (None, None) => default_source(address).map_err(|e| CliError::Configuration(e.to_string())),
    }
}

/// The key of an agent that is being enrolled; a file is made where `create` and there is none.
pub fn obtain(address: &Address, choice: &KeyChoice, human: &Human, create: bool) -> Result<Made, CliError> {
    if human.behind_sudo {
        return as_human(address, choice, human, if create { &[] } else { &["--no-create"] });
    }
    load_or_make(address, choice, create)
}

fn load_or_make(address: &Address, choice: &KeyChoice, create: bool) -> Result<Made, CliError> {
    let source = chosen(address, choice)?;
    let SourceName::File(path) = &source else {
        let key = source.open().map_err(CliError::failed)?;
        if choice.key_source.is_some() {
            remember(address, &source).map_err(CliError::failed)?;
        }
        let owner_uid = users::own_uid().map_err(CliError::failed)?;
        return Ok(Made { source: source.to_string(), public_key: key.public(), owner_uid, fresh: false });
    };
    let (key, fresh) = match AgentKey::load(path) {
        Ok(key) => (key, false),
        Err(KeyError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound && !create => {
            return Err(CliError::Failed(format!(
                "cannot enroll {address}: it is enrolled already, and its key is not at {}; name the key's file with --key, or revoke the agent first",
                path.display()
            )));
        }
        Err(KeyError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            let key = AgentKey::generate().map_err(CliError::failed)?;
            key.save(path).map_err(CliError::failed)?;
            (key, true)
        }
        Err(e) => return Err(CliError::failed(e)),
    };
    let owner_uid = std::fs::metadata(path).map_err(CliError::failed)?.uid();
    Ok(Made { source: path.display().to_string(), public_key: key.public(), owner_uid, fresh })
}

/// The signed step from the key that there is to the next one, which is made where it is to be a file.
pub fn sign_rotation(
    address: &Address,
    choice: &KeyChoice,
    next: Option<&SourceName>,
    human: &Human,
) -> Result<Rotation, CliError> {
    if human.behind_sudo {
        return as_human(address, choice, human, &with_next("--rotate", next));
    }
    let old = chosen(address, choice)?;
    let new = match next {
        Some(next) => next.clone(),
        None => SourceName::File(next_file(&file_of(address, &old)?)),
    };
    if let (SourceName::File(path), None) = (&new, next) {
        // An attempt that was not finished made it: nobody but us has seen it, and it was not accepted.
        let made = AgentKey::load_or_create(path);
        made.map_err(CliError::failed)?;
    }
    let (old, new) = (old.open().map_err(CliError::failed)?, new.open().map_err(CliError::failed)?);
    Rotation::sign(address, &*old, &*new, Timestamp::now()).map_err(CliError::failed)
}

/// Puts the key that was accepted in the place of the old one; returns where it is.
pub fn finish_rotation(
    address: &Address,
    choice: &KeyChoice,
    next: Option<&SourceName>,
    human: &Human,
) -> Result<String, CliError> {
    if human.behind_sudo {
        return as_human(address, choice, human, &with_next("--rotated", next));
    }
    let old = chosen(address, choice)?;
    if let SourceName::File(path) = &old {
        std::fs::rename(path, beside(path, "retired")).map_err(|e| moving(path, &e))?;
    }
    match next {
        Some(next) => {
            remember(address, next).map_err(CliError::failed)?;
            Ok(next.to_string())
        }
        None => {
            let path = file_of(address, &old)?;
            std::fs::rename(next_file(&path), &path).map_err(|e| moving(&path, &e))?;
            Ok(path.display().to_string())
        }
    }
}

fn moving(path: &Path, e: &std::io::Error) -> CliError {
    CliError::Failed(format!(
        "the key was rotated, but its files were not moved: {e}; the new key is {}, put it at {}",
        next_file(path).display(),
        path.display()
    ))
}

/// The file that a key has, or would have.
fn file_of(address: &Address, source: &SourceName) -> Result<PathBuf, CliError> {
    match source {
        SourceName::File(path) => Ok(path.clone()),
        _ => identity::default_key_path(address).map_err(|e| CliError::Configuration(e.to_string())),
    }
}

fn next_file(path: &Path) -> PathBuf {
    beside(path, "next")
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

fn with_next(flag: &str, next: Option<&SourceName>) -> Vec<String> {
    let mut args = vec![flag.to_owned()];
    if let Some(next) = next {
        args.extend(["--new-key-source".to_owned(), next.to_string()]);
    }
    args
}

/// `lazaret agent key`, run with the rights of the human behind sudo and nothing else.
fn as_human<T: DeserializeOwned>(
    address: &Address,
    choice: &KeyChoice,
    human: &Human,
    flags: &[impl AsRef<std::ffi::OsStr>],
) -> Result<T, CliError> {
    let failed =
        |cause: String| CliError::Failed(format!("cannot use the key of {address} as {}: {cause}", human.name));
    let program = std::env::current_exe().map_err(|e| failed(e.to_string()))?;
    let mut command = Command::new(program);
    command.args(["agent", "key", address.as_str()]).args(flags);
    if let Some(key) = &choice.key {
        command.arg("--key").arg(std::path::absolute(key).map_err(|e| failed(e.to_string()))?);
    }
    if let Some(source) = &choice.key_source {
        command.args(["--key-source", &source.to_string()]);
    }
    command.env_clear();
    command.envs(PASSED_ON.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    let output = command
        .env("HOME", &human.home)
        .env("PATH", "/usr/bin:/bin")
        .current_dir("/")
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .gid(human.gid)
        .uid(human.uid)
        .output()
        .map_err(|e| failed(e.to_string()))?;
    if !output.status.success() {
        let cause = String::from_utf8_lossy(&output.stderr);
        return Err(failed(out::visible(cause.trim().trim_start_matches("lazaret: "))));
    }
    serde_json::from_slice(&output.stdout).map_err(|e| failed(format!("its answer was not understood ({e})")))
}

/// `lazaret agent key`: makes, reads or rotates the key and prints what is public about it.
pub fn key(args: &AgentKeyArgs) -> Result<(), CliError> {
    let address: Address = args.address.parse().map_err(|e: identity::AddressError| CliError::Usage(e.to_string()))?;
    let human = Human { behind_sudo: false, ..Human::invoking().map_err(CliError::failed)? };
    let next = args.new_key_source.as_ref();
    if args.rotate {
        return out::json_line(&sign_rotation(&address, &args.key, next, &human)?);
    }
    if args.rotated {
        return out::json_line(&finish_rotation(&address, &args.key, next, &human)?);
    }
    out::json_line(&load_or_make(&address, &args.key, !args.no_create)?)
}
