//! From a launch definition to an image and the exact command inside of it.
//!
//! Invariant: package managers run in the builder container only, never run a package's install
//! scripts, and install wheels or tarballs whose digests the lock records.

mod image;
mod local;
mod npm;
mod pypi;

use bytes::Bytes;
use serde_json::Value;

use super::builder::{Tar, header};
use super::{BuiltImage, Sandbox, SandboxError};
use crate::admission::{LaunchDefinition, Source};

/// Sets `$built` to a digest over every path, kind, mode bit and content below /app. The base
/// image's own Python reads it, before anything that was installed has ever run.
const BUILT: &str = r#"
built=$(python3 -I -S -c '
import hashlib, os
whole = hashlib.sha256()
def part(data):
    whole.update(len(data).to_bytes(8, "big") + data)
def walk(path):
    for entry in sorted(os.scandir(path), key=lambda entry: os.fsencode(entry.name)):
        if entry.path == "/app/.build":
            continue
        part(os.fsencode(entry.path))
        if entry.is_symlink():
            part(b"link")
            part(os.fsencode(os.readlink(entry.path)))
        elif entry.is_dir():
            part(b"directory")
            walk(entry.path)
        else:
            part(b"program" if entry.stat().st_mode & 0o111 else b"file")
            with open(entry.path, "rb") as file:
                part(hashlib.sha256(file.read()).digest())
walk("/app")
print("sha256:" + whole.hexdigest())
')
"#;

pub(super) type Progress<'a> = &'a (dyn Fn(&str) + Send + Sync);

pub(super) async fn build(
    sandbox: &Sandbox,
    launch: &LaunchDefinition,
    server: &str,
    progress: Progress<'_>,
) -> Result<BuiltImage, SandboxError> {
    let mut built = match &launch.source {
        Source::Npm { package, version, bin } => {
            npm::build(sandbox, server, package, version.as_deref(), bin.as_deref(), progress).await?
        }
        Source::Pypi { package, version, script, module, with } => {
            let entry = pypi::Entry { script: script.as_deref(), module: module.as_deref() };
            pypi::build(sandbox, server, package, version.as_deref(), with, &entry, progress).await?
        }
        Source::Local { path, run } => local::build(sandbox, server, path, run, progress).await?,
        Source::Image { image, run } => image::find(sandbox, server, image, run, progress).await?,
        Source::Remote(_) => return Err(nothing_to_build(server)),
    };
    built.argv.extend(launch.args.iter().cloned());
    progress(&format!("image {} is ready", built.image_id.get(..19).unwrap_or(&built.image_id)));
    Ok(built)
}

/// Why a package manager would never be asked for this, whatever its registry has.
pub fn unusable(source: &Source) -> Option<String> {
    match source {
        Source::Npm { package, .. } if !npm::is_name(package) => {
            Some(format!("{package:?} is not the name of an npm package; write one such as @acme/server"))
        }
        Source::Npm { version: Some(version), .. } if !is_version(version) => {
            Some(format!("{version:?} is not an npm version; write one such as 1.2.3"))
        }
        Source::Pypi { package, version, .. } => pypi::requirement(package, version.as_deref())
            .err()
            .map(|why| format!("{why}; write the project, or PROJECT==VERSION")),
        _ => None,
    }
}

fn nothing_to_build(server: &str) -> SandboxError {
    SandboxError::definition(server, "it is a remote server", "it is reached where it is, and never run here")
}

/// Builds what was reviewed before once more, from its lock, and takes it only if every file is the same.
pub(super) async fn rebuild(
    sandbox: &Sandbox,
    launch: &LaunchDefinition,
    server: &str,
    before: &BuiltImage,
    progress: Progress<'_>,
) -> Result<BuiltImage, SandboxError> {
    let again = "`lazaret server review` with --update resolves it anew";
    let (Some(built), Value::Object(files)) = (before.lock["built"].as_str(), &before.lock["files"]) else {
        let cause = "its last review kept no lock file to build from";
        return Err(SandboxError::definition(server, cause, again));
    };
    progress("building it again from its lock");
    let image_id = match &launch.source {
        Source::Npm { package, .. } => npm::rebuild(sandbox, server, package, files, built, &before.argv).await?,
        Source::Pypi { .. } => pypi::rebuild(sandbox, server, files, built, &before.argv).await?,
        Source::Local { .. } | Source::Image { .. } | Source::Remote(_) => {
            return Err(SandboxError::definition(server, "only packages are built from a lock", again));
        }
    };
    progress("every file is the same as when it was reviewed");
    Ok(BuiltImage { image_id, ..before.clone() })
}

/// The digest of a directory or a file as it is now, as the lock of its image has it.
pub(super) async fn source_digest(path: &std::path::Path) -> Result<String, String> {
    let (Tar::Stream(mut chunks), summary) = super::tree::stream(super::tree::Tree::scan(path)?) else {
        return Err("it cannot be read as a stream".into());
    };
    while let Some(chunk) = futures_util::StreamExt::next(&mut chunks).await {
        // The summary says why.
        if chunk.is_err() {
            break;
        }
    }
    Ok(summary.await.map_err(|_| "reading it was given up".to_owned())??.digest)
}

fn same(server: &str, expected: &str, report: &Value) -> Result<(), SandboxError> {
    let found = report["built"].as_str().unwrap_or("nothing");
    if found == expected {
        return Ok(());
    }
    let cause = format!(
        "built again from its lock it is not what was reviewed: its files had the digest {expected}, and now have {found}"
    );
    let hint = "a package or the base image changed under its version; to look at it as something new, run `lazaret server review` with --update";
    Err(SandboxError::definition(server, cause, hint))
}

/// Small files at the container's root.
fn files<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> std::io::Result<Tar> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, text) in files {
        tar.append_data(&mut header(tar::EntryType::Regular, 0o644, text.len() as u64), path, text.as_bytes())?;
    }
    Ok(Tar::Whole(Bytes::from(tar.into_inner()?)))
}

/// The text of one file of a lock.
fn locked_file<'a>(
    server: &str,
    files: &'a serde_json::Map<String, Value>,
    name: &str,
) -> Result<&'a str, SandboxError> {
    let missing = || {
        let hint = "`lazaret server review` with --update resolves it anew";
        SandboxError::definition(server, format!("the lock of its last review has no {name}"), hint)
    };
    files.get(name).and_then(Value::as_str).ok_or_else(missing)
}

fn packed(server: &str, error: &std::io::Error) -> SandboxError {
    SandboxError::definition(server, format!("its lock cannot be packed: {error}"), "see that memory is left")
}

/// What a build reported, as JSON.
fn parse(server: &str, report: &[u8]) -> Result<serde_json::Value, SandboxError> {
    serde_json::from_slice(report).map_err(|e| SandboxError::Build {
        server: server.into(),
        step: "reading what was installed".into(),
        cause: e.to_string(),
        hint: "the base image's npm or pip may be of an unknown version",
        output: String::new(),
    })
}

/// An exact version, a range or a tag: never an option, an address, an alias or a path.
fn is_version(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || ".+-_^~<>=!*|, ".contains(c);
    !text.is_empty() && text.len() <= 128 && !text.starts_with('-') && text.chars().all(plain)
}

#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(bytes: &[u8]) {
    if let Ok(report) = parse("s", bytes) {
        npm::fuzz(&report);
        pypi::fuzz(&report);
    }
    let text = String::from_utf8_lossy(bytes);
    assert!(!is_version(&text) || !text.contains(['/', ':', '@', ';', '\n']) && !text.starts_with('-'));
}

#[cfg(test)]
mod tests;
