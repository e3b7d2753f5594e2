//! From a launch definition to an image and the exact command inside of it.
//!
//! Invariant: package managers run in the builder container only, never run a package's install
//! scripts, and install wheels or tarballs whose digests the lock records.

mod image;
mod local;
mod npm;
mod pypi;

use super::{BuiltImage, Sandbox, SandboxError};
use crate::admission::{LaunchDefinition, Source};

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
        Source::Image { image, run } => image::find(sandbox, server, image, run).await?,
    };
    built.argv.extend(launch.args.iter().cloned());
    progress(&format!("image {} is ready", built.image_id.get(..19).unwrap_or(&built.image_id)));
    Ok(built)
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

#[cfg(test)]
mod tests {
    use super::is_version;

    #[test]
    fn a_version_cannot_smuggle_in_another_source() {
        for good in ["1.2.3", "latest", "^1.0", ">=1,<2", "1.0.0-rc.1+build", "1.x || 2.x", "~=1.4"] {
            assert!(is_version(good), "{good}");
        }
        for bad in ["", "--registry", "git+https://x", "npm:evil@1", "file:../x", "1 @ http://x", "1;x", "$(x)", "1\n2"]
        {
            assert!(!is_version(bad), "{bad}");
        }
    }
}
