//! Looks at a server before anybody trusts it; one that somebody else runs is asked where it is. Else: builds its image, starts it in the cage without a
//! network, asks what it offers, and ends it again. Whatever happens, no container stays.

use std::sync::Arc;

use jiff::Timestamp;

use super::model::{Review, Server, Source};
use super::remote::Remote;
use super::service::Admission;
use super::{AdmissionError, offer};
use crate::proxy::json::Json;
use crate::proxy::{RemoteLink, Upstream, UpstreamError, UpstreamLimits};
use crate::remote::{RemoteError, Remotes};
use crate::sandbox::{BuiltImage, CageSpec, Purpose, Sandbox, SandboxError, StderrLog};

#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    #[error("cannot review {server}: {source}")]
    Cage { server: String, source: SandboxError },
    #[error("cannot review {server}: {source}")]
    Server { server: String, source: UpstreamError },
    #[error(
        "cannot review {server}: {source}; install scripts are never run, and {packages} would have run some: a server that needs what they make can be given as an image of your own (--image)"
    )]
    Unmade { server: String, source: UpstreamError, packages: String },
    #[error("cannot review {server}: {source}")]
    Remote { server: String, source: RemoteError },
    #[error(transparent)]
    Admission(#[from] AdmissionError),
}

/// What becomes of the image of the review before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Again {
    /// It is looked at again. Where it is gone, it is built from its lock.
    #[default]
    Keep,
    /// It is built from its lock once more, and has to be the same in every file.
    Rebuild,
    /// It is forgotten: versions are resolved anew.
    Update,
}

/// Takes what a container whose review failed wrote to its standard error: its id, that, and why.
pub type LastWords<'a> = &'a (dyn Fn(&str, &StderrLog, String) + Send + Sync);

/// What the running server said of itself.
struct Listing {
    protocol_version: String,
    server_info: Json,
    instructions: Option<String>,
    tools: Vec<Json>,
    prompts: Vec<Json>,
    resource_templates: Vec<Json>,
    offers: Vec<String>,
}

/// Reviews the server `name` and records what was found. It stays (or gets back) in quarantine
/// unless what is found is exactly what was approved.
#[expect(clippy::too_many_arguments, reason = "the parts of the house that a review needs, each once")]
pub async fn review(
    sandbox: &Sandbox,
    remotes: &Arc<Remotes>,
    admission: &Admission,
    limits: UpstreamLimits,
    name: &str,
    again: Again,
    by: &str,
    progress: &(dyn Fn(&str) + Send + Sync),
    last_words: LastWords<'_>,
) -> Result<Server, ReviewError> {
    let server = admission.get(name)?.ok_or_else(|| AdmissionError::NoServer(name.into()))?;
    if let Some(remote) = server.launch.remote() {
        return review_remote(remotes, admission, limits, &server, remote, by, progress).await;
    }
    let cage = |source| ReviewError::Cage { server: name.into(), source };
    let mut built = image(sandbox, &server, again, progress).await.map_err(cage)?;
    let mut listing = look(sandbox, &server, &built, limits, progress, last_words).await;
    if let Err(ReviewError::Cage { source: SandboxError::NoImage { .. }, .. }) = listing {
        progress("the image of the last review is gone");
        built = if is_package(&server) {
            sandbox.rebuild(&server.launch, name, &built, progress).await.map_err(cage)?
        } else {
            sandbox.build(&server.launch, name, progress).await.map_err(cage)?
        };
        listing = look(sandbox, &server, &built, limits, progress, last_words).await;
    }
    let recorded = match listing {
        Ok(listing) => record(admission, name, &built, listing, by, progress).map_err(ReviewError::from),
        Err(ReviewError::Server { server, source: source @ UpstreamError::Ended { .. } }) => {
            Err(match with_install_scripts(&built.package) {
                packages if packages.is_empty() => ReviewError::Server { server, source },
                packages => ReviewError::Unmade { server, source, packages },
            })
        }
        Err(e) => Err(e),
    };
    clean_up(sandbox, &server, &built.image_id, recorded.as_ref().ok()).await;
    recorded
}

/// There is no image and no cage: what is pinned is where it is, and what it lists.
async fn review_remote(
    remotes: &Arc<Remotes>,
    admission: &Admission,
    limits: UpstreamLimits,
    server: &Server,
    remote: &Remote,
    by: &str,
    progress: &(dyn Fn(&str) + Send + Sync),
) -> Result<Server, ReviewError> {
    progress(&format!("connecting to {}", remote.url()));
    let link = RemoteLink::of(remotes, server);
    let link = link.map_err(|source| ReviewError::Remote { server: server.name.clone(), source })?;
    let failed = |source| ReviewError::Server { server: server.name.clone(), source };
    let Some(link) = link else { return Err(AdmissionError::NoServer(server.name.clone()).into()) };
    let upstream = Upstream::open(link, limits).await.map_err(failed)?;
    let listing = list(&upstream).await;
    upstream.stop().await;
    let host = remote.url().host_str().unwrap_or_default();
    let nothing_built = BuiltImage {
        image_id: String::new(),
        argv: Vec::new(),
        package: serde_json::json!({ "kind": "remote", "publisher": host }),
        lock: serde_json::Value::Null,
    };
    Ok(record(admission, &server.name, &nothing_built, listing.map_err(failed)?, by, progress)?)
}

fn record(
    admission: &Admission,
    name: &str,
    built: &BuiltImage,
    listing: Listing,
    by: &str,
    progress: &(dyn Fn(&str) + Send + Sync),
) -> Result<Server, AdmissionError> {
    progress(&format!("it offers {} tools", listing.tools.len()));
    let review = Review {
        at: Timestamp::now(),
        image_id: built.image_id.clone(),
        argv: built.argv.clone(),
        package: built.package.clone(),
        lock: built.lock.clone(),
        protocol_version: listing.protocol_version,
        server_info: listing.server_info.to_value(),
        instructions: listing.instructions,
        pin: String::new(),
        prompts: Json::Array(listing.prompts).to_text(),
        resource_templates: Json::Array(listing.resource_templates).to_text(),
        offers: Some(listing.offers),
        content: String::new(),
        findings: Vec::new(),
    };
    admission.record_review(name, review, listing.tools, by)
}

/// Removes the image that no review stands for any more: the new one after a failure, else the
/// one before. Never an image that was not built here.
async fn clean_up(sandbox: &Sandbox, before: &Server, built: &str, recorded: Option<&Server>) {
    if matches!(before.launch.source, Source::Image { .. }) {
        return;
    }
    let old = before.review.as_ref().map(|review| review.image_id.as_str());
    let unused = if recorded.is_some() { old } else { Some(built) };
    let kept = if recorded.is_some() { Some(built) } else { old };
    if let Some(image) = unused.filter(|image| Some(*image) != kept) {
        // A container of it may still run; Docker keeps the image then, and so may we.
        let _ = sandbox.remove_image(image).await;
    }
}

/// Of the server's package and of those below it, as their reviewer sees them.
fn with_install_scripts(package: &serde_json::Value) -> String {
    let own = package["install_scripts"].as_object().filter(|scripts| !scripts.is_empty());
    let own = own.and(package["name"].as_str());
    let below = package["install_scripts_of"].as_array().into_iter().flatten().filter_map(serde_json::Value::as_str);
    let names: std::collections::BTreeSet<&str> =
        own.into_iter().chain(below.map(|path| path.rsplit("node_modules/").next().unwrap_or(path))).collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}

fn is_package(server: &Server) -> bool {
    matches!(server.launch.source, Source::Npm { .. } | Source::Pypi { .. })
}

/// The image of the last review where it is of packages: their versions are settled. A directory
/// or a foreign image may have changed, so that it is looked at again; where it has not, the
/// image that was reviewed stays.
async fn image(
    sandbox: &Sandbox,
    server: &Server,
    again: Again,
    progress: &(dyn Fn(&str) + Send + Sync),
) -> Result<BuiltImage, SandboxError> {
    let before = server.review.as_ref().map(|review| BuiltImage {
        image_id: review.image_id.clone(),
        argv: review.argv.clone(),
        package: review.package.clone(),
        lock: review.lock.clone(),
    });
    match before {
        Some(before) if again == Again::Rebuild => {
            let built = sandbox.rebuild(&server.launch, &server.name, &before, progress).await?;
            // The reviewed one stays, and with it the approval; if it is gone, it is found to be.
            let _ = sandbox.remove_image(&built.image_id).await;
            Ok(before)
        }
        Some(before) if again == Again::Keep && is_package(server) => {
            progress("using the image of the last review; --update resolves its versions anew");
            Ok(before)
        }
        Some(before) if again == Again::Keep && is_unchanged(sandbox, server, &before).await => {
            progress("its source has not changed, using the image of the last review");
            Ok(before)
        }
        before => {
            let built = sandbox.build(&server.launch, &server.name, progress).await?;
            let same = before.filter(|before| {
                before.lock == built.lock && before.argv == built.argv && before.package == built.package
            });
            match same {
                Some(before)
                    if before.image_id != built.image_id && matches!(server.launch.source, Source::Local { .. }) =>
                {
                    // What was built now is of no use; Docker keeps it if a container uses it.
                    let _ = sandbox.remove_image(&built.image_id).await;
                    Ok(before)
                }
                _ => Ok(built),
            }
        }
    }
}

/// Whether the directory or the file is what the image was made of. What it depends on was
/// resolved then, and stays as it was.
async fn is_unchanged(sandbox: &Sandbox, server: &Server, before: &BuiltImage) -> bool {
    let Source::Local { path, .. } = &server.launch.source else { return false };
    // Where it cannot be read, the build says why.
    let now = sandbox.source_digest(path).await.ok();
    now.is_some() && now.as_deref() == before.lock["tree"].as_str()
}

async fn look(
    sandbox: &Sandbox,
    server: &Server,
    built: &BuiltImage,
    limits: UpstreamLimits,
    progress: &(dyn Fn(&str) + Send + Sync),
    last_words: LastWords<'_>,
) -> Result<Listing, ReviewError> {
    progress("starting it in its cage, without a network");
    let spec = CageSpec {
        server: server.name.clone(),
        image_id: built.image_id.clone(),
        argv: built.argv.clone(),
        env: server.launch.env.clone(),
        secrets: server.launch.secrets.clone(),
        mounts: server.launch.mounts.clone(),
        // A review never has a network, whatever the definition asks for.
        egress: Vec::new(),
        purpose: Purpose::Review,
    };
    let cage =
        sandbox.start(&spec).await.map_err(|source| ReviewError::Cage { server: server.name.clone(), source })?;
    for warning in &cage.warnings {
        progress(&format!("warning: {warning}"));
    }
    let (container, stderr) = (cage.container_id.clone(), cage.stderr.clone());
    let listing = match Upstream::start(cage, limits).await {
        Ok(upstream) => {
            let listing = list(&upstream).await;
            upstream.stop().await;
            listing
        }
        Err(e) => Err(e),
    };
    let stopped = sandbox.stop(&container).await;
    if let Err(e) = &listing {
        last_words(&container, &stderr, format!("its review failed: {e}"));
    }
    let listing = listing.map_err(|source| ReviewError::Server { server: server.name.clone(), source })?;
    stopped.map_err(|source| ReviewError::Cage { server: server.name.clone(), source })?;
    Ok(listing)
}

async fn list(upstream: &Upstream) -> Result<Listing, UpstreamError> {
    Ok(Listing {
        protocol_version: upstream.protocol_version().to_owned(),
        server_info: upstream.server_info().clone(),
        instructions: upstream.instructions().map(str::to_owned),
        offers: offer::kinds(upstream.capabilities()),
        tools: upstream.list_all("tools/list", "tools").await?,
        prompts: upstream.list_all("prompts/list", "prompts").await?,
        resource_templates: upstream.list_all("resources/templates/list", "resourceTemplates").await?,
    })
}
