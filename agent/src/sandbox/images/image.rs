//! Images that are on the host already: nothing is built or pulled, only found and pinned.

use serde_json::json;

use crate::sandbox::error::status;
use crate::sandbox::{BuiltImage, Sandbox, SandboxError};

pub(super) async fn find(
    sandbox: &Sandbox,
    server: &str,
    image: &str,
    run: &[String],
) -> Result<BuiltImage, SandboxError> {
    let engine = sandbox.engine().await?;
    let found = engine.docker.inspect_image(image).await.map_err(|e| match status(&e) {
        Some(404) => SandboxError::NoImage {
            action: "build",
            server: server.into(),
            image: image.into(),
            hint: "pull or build it first; what is pulled is then what gets reviewed",
        },
        _ => engine.refused(format!("inspect the image {image}"), &e),
    })?;
    let config = found.config.unwrap_or_default();
    let argv = if run.is_empty() {
        [config.entrypoint.unwrap_or_default(), config.cmd.unwrap_or_default()].concat()
    } else {
        run.to_vec()
    };
    let (Some(image_id), false) = (found.id, argv.is_empty()) else {
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
    let lock = json!({ "kind": "image", "id": image_id, "digests": found.repo_digests, "layers": layers });
    Ok(BuiltImage { image_id, argv, package, lock })
}
