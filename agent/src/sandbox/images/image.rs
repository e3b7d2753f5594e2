//! Images that somebody else made: those that are on the host are found and pinned, and what is
//! named by its digest is pulled. A tag is never pulled: what it names changes without a word.

use bollard::query_parameters as query;
use futures_util::StreamExt as _;
use serde_json::json;

use super::Progress;
use crate::sandbox::docker::{Engine, image_id};
use crate::sandbox::error::status;
use crate::sandbox::{BuiltImage, Sandbox, SandboxError};

pub(super) async fn find(
    sandbox: &Sandbox,
    server: &str,
    image: &str,
    run: &[String],
    progress: Progress<'_>,
) -> Result<BuiltImage, SandboxError> {
    let engine = sandbox.engine().await?;
    let look = || engine.docker.inspect_image(image);
    let absent = |e: &bollard::errors::Error| status(e) == Some(404);
    let found = match look().await {
        Err(e) if absent(&e) && by_digest(image) => {
            pull(engine, image, progress).await?;
            look().await
        }
        found => found,
    };
    let found = found.map_err(|e| match absent(&e) {
        true => SandboxError::NoImage {
            action: "build",
            server: server.into(),
            image: image.into(),
            hint: "name it as NAME@sha256:… and it is pulled by that digest, or pull or build it yourself",
        },
        false => engine.refused(format!("inspect the image {image}"), &e),
    })?;
    let config = found.config.unwrap_or_default();
    let argv = if run.is_empty() {
        [config.entrypoint.unwrap_or_default(), config.cmd.unwrap_or_default()].concat()
    } else {
        run.to_vec()
    };
    let (Some(image_id), false) = (found.id.map(image_id), argv.is_empty()) else {
        let cause = format!("the image {image} has no command of its own");
        return Err(SandboxError::definition(server, cause, "write the command into the definition"));
    };
    let labels = config.labels.unwrap_or_default();
    let label = |name: &str| labels.get(&format!("org.opencontainers.image.{name}"));
    let package = json!({
        "kind": "image",
        "name": image,
        "version": label("version"),
        "license": label("licenses"),
        "description": label("description"),
        "publisher": label("vendor").or_else(|| label("authors")),
        "repository": label("source"),
        "homepage": label("url"),
        "user": config.user,
        "volumes": config.volumes,
        // Names only: a value may be a secret.
        "env": config.env.unwrap_or_default().iter().map(|pair| pair.split('=').next().unwrap_or_default().to_owned()).collect::<Vec<_>>(),
    });
    let layers = found.root_fs.and_then(|root| root.layers);
    // Of the named repository only: that the host has it under another name too is no change of it.
    let mut digests = found.repo_digests.unwrap_or_default();
    digests.retain(|digest| digest.split('@').next() == Some(repository(image)));
    digests.sort_unstable();
    let lock = json!({ "kind": "image", "id": image_id, "digests": digests, "layers": layers });
    Ok(BuiltImage { image_id, argv, package, lock })
}

/// Without tag and digest; a colon before the last slash belongs to the registry's port.
fn repository(image: &str) -> &str {
    let name = image.split('@').next().unwrap_or(image);
    match name.rfind(':').filter(|at| *at > name.rfind('/').unwrap_or(0)) {
        Some(tag) => &name[..tag],
        None => name,
    }
}

fn by_digest(image: &str) -> bool {
    let digest = image.split_once("@sha256:").filter(|(name, _)| !name.is_empty());
    digest.is_some_and(|(_, hex)| hex.len() == 64 && hex.bytes().all(|c| c.is_ascii_hexdigit()))
}

/// Docker checks what it gets against the digest.
async fn pull(engine: &Engine, image: &str, progress: Progress<'_>) -> Result<(), SandboxError> {
    progress(&format!("pulling {image}"));
    let options = query::CreateImageOptionsBuilder::new().from_image(image).build();
    let mut news = engine.slow.create_image(Some(options), None, None);
    let (mut begun, mut done) = (0, 0);
    while let Some(item) = news.next().await {
        let item = item.map_err(|e| engine.refused(format!("pull the image {image}"), &e))?;
        if let Some(cause) = item.error_detail.and_then(|detail| detail.message) {
            return Err(SandboxError::Docker { action: format!("pull the image {image}"), cause });
        }
        match item.status.as_deref() {
            Some("Pulling fs layer") => begun += 1,
            Some("Pull complete" | "Already exists") => {
                done += 1;
                progress(&format!("pulled {done} of {begun} layers of {image}"));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_digest_is_pulled() {
        let digest = "0123456789abcdef".repeat(4);
        for good in ["a", "mcp/time", "localhost:5000/x", "ghcr.io/a/b:1.2"] {
            assert!(by_digest(&format!("{good}@sha256:{digest}")), "{good}");
        }
        for bad in [
            "mcp/time".to_owned(),
            "mcp/time:latest".to_owned(),
            format!("sha256:{digest}"),
            format!("@sha256:{digest}"),
            format!("a@sha256:{}", &digest[1..]),
            format!("a@sha512:{digest}"),
            format!("a@sha256:{digest}:latest"),
        ] {
            assert!(!by_digest(&bad), "{bad}");
        }
    }

    #[test]
    fn a_repository_is_what_stands_before_tag_and_digest() {
        for (image, name) in [
            ("a", "a"),
            ("a:1", "a"),
            ("h:5000/a", "h:5000/a"),
            ("h:5000/a:1@sha256:0", "h:5000/a"),
            ("a@sha256:0", "a"),
        ] {
            assert_eq!(repository(image), name);
        }
    }
}
