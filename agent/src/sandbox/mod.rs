//! Runs approved servers: builds their images and starts them in cages, all through Docker.
//!
//! Invariants: no third-party code ever runs on the host, install scripts included; a server
//! runs in a hardened container from an image pinned by id, or not at all; every container
//! that is made here is removed again, by stop, by exit, by drop, or by the next sweep.
//! Nothing outside of this room knows Docker.

mod allowance;
mod builder;
mod cage;
mod docker;
mod egress;
mod error;
mod flavour;
mod hardening;
mod images;
mod init;
mod mounts;
mod proof;
mod seccomp;
mod stderr;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OnceCell, watch};

pub use self::allowance::Allowance;
pub(crate) use self::egress::is_own;
pub use self::egress::{EgressEvent, EgressOutcome, EgressWitness, Hello, read_hello};
pub use self::error::SandboxError;
pub use self::flavour::Flavour;
pub use self::images::unusable;
pub use self::stderr::StderrLog;

/// The fuzz target of what a server writes on its standard error.
#[cfg(any(test, fuzzing))]
pub fn fuzz_stderr(bytes: &[u8]) {
    stderr::fuzz(bytes);
}

/// The fuzz target of what package managers say of a package.
#[cfg(any(test, fuzzing))]
pub fn fuzz_report(bytes: &[u8]) {
    images::fuzz(bytes);
}
use crate::admission::{Egress, LaunchDefinition, Mount};
use crate::config::SandboxConfig;

/// Label on everything that an instance makes in Docker; its value is the instance's name.
pub const LABEL_INSTANCE: &str = "lazaret.instance";
pub const LABEL_SERVER: &str = "lazaret.server";
/// `review`, `serve` or `build` on containers, `image` on images.
pub const LABEL_PURPOSE: &str = "lazaret.purpose";
/// For engines of other users: what lies here is public, and root's.
const SHARED_FILES: &str = "/var/cache/lazaret";

/// Told of each container between its creation and its start, so that the kernel can expect it.
pub trait LaunchGrant: Send + Sync {
    fn grant(&self, container_id: &str);
}

/// What the Docker daemon says of itself.
#[derive(Debug, Clone, Serialize)]
pub struct DockerInfo {
    /// `Docker` or `Podman`.
    pub engine: &'static str,
    pub version: String,
    /// The version of the API that is spoken with it.
    pub api_version: String,
    pub rootless: bool,
    pub cgroup_version: String,
    pub cgroup_driver: String,
    pub security_options: Vec<String>,
    pub storage_driver: String,
    /// Why no server starts here, each in a few words; empty where servers can run.
    pub open_walls: Vec<String>,
    /// What is otherwise than with Docker run by root, each a sentence.
    pub differs: Vec<String>,
    /// What a cage lacks on this host, each a sentence.
    pub warnings: Vec<String>,
}

/// The image that was made for a server, and what is in it.
#[derive(Debug, Clone)]
pub struct BuiltImage {
    /// `sha256:…`
    pub image_id: String,
    /// The exact command inside of the cage, with the definition's own arguments.
    pub argv: Vec<String>,
    /// Name, exact version, licence, publisher, install scripts, as far as the source knows.
    pub package: serde_json::Value,
    /// Every package in the image with version and integrity.
    pub lock: serde_json::Value,
}

/// One container to start.
#[derive(Debug, Clone)]
pub struct CageSpec {
    pub server: String,
    pub image_id: String,
    pub argv: Vec<String>,
    pub env: BTreeMap<String, String>,
    /// Which of the variables nobody gets to read.
    pub secrets: BTreeSet<String>,
    pub mounts: Vec<Mount>,
    /// What it may reach; nothing else.
    pub egress: Vec<Egress>,
    pub purpose: Purpose,
}

/// Why a container runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    Review,
    Serve,
}

impl Purpose {
    pub fn as_str(self) -> &'static str {
        match self {
            Purpose::Review => "review",
            Purpose::Serve => "serve",
        }
    }
}

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CageExit {
    /// None where Docker could not say.
    pub code: Option<i64>,
    pub out_of_memory: bool,
}

/// A running container.
///
/// `stdout` owns it: dropping `stdout` kills and removes the container. Dropping `stdin`, or
/// shutting it down, ends the server's input.
pub struct Cage {
    pub container_id: String,
    pub stdin: Box<dyn AsyncWrite + Send + Unpin>,
    pub stdout: Box<dyn AsyncRead + Send + Unpin>,
    pub stderr: StderrLog,
    /// Limits that Docker did not take, each a sentence. Hard parts of the cage that are missing
    /// are errors instead.
    pub warnings: Vec<String>,
    /// Set once the container has ended and is gone.
    pub exit: watch::Receiver<Option<CageExit>>,
}

/// This instance's door to Docker. Cheap to share, and needs no Docker to be made.
pub struct Sandbox {
    config: SandboxConfig,
    instance: String,
    grant: RwLock<Option<Arc<dyn LaunchGrant>>>,
    witness: RwLock<Option<Arc<dyn EgressWitness>>>,
    engine: OnceCell<docker::Engine>,
    /// Where Docker finds the first program of cages.
    files: Option<PathBuf>,
    init: OnceCell<PathBuf>,
    /// The system call filter as the engine takes it.
    filter: OnceCell<String>,
}

impl Sandbox {
    pub fn new(config: &SandboxConfig, instance: String) -> Self {
        Self {
            config: config.clone(),
            instance,
            grant: RwLock::new(None),
            witness: RwLock::new(None),
            engine: OnceCell::new(),
            files: None,
            init: OnceCell::new(),
            filter: OnceCell::new(),
        }
    }

    /// Names the directory for what cages need of the host. Without one, no server starts that
    /// has environment or egress.
    pub fn keeping_files_in(self, dir: &Path) -> Self {
        Self { files: Some(dir.into()), ..self }
    }

    pub fn set_egress_witness(&self, witness: Arc<dyn EgressWitness>) {
        *self.witness.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(witness);
    }

    pub fn set_launch_grant(&self, grant: Arc<dyn LaunchGrant>) {
        *self.grant.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(grant);
    }

    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Asks Docker what it is. Fails within seconds where Docker is away or hangs.
    pub async fn info(&self) -> Result<DockerInfo, SandboxError> {
        docker::info(self.engine().await?).await
    }

    /// Sockets at which another engine listens than at the configured one.
    pub fn other_engines(&self) -> Vec<String> {
        flavour::others(&self.config.docker)
    }

    /// Whether the image that npm and PyPI servers are built on is here.
    pub async fn has_base_image(&self) -> Result<bool, SandboxError> {
        docker::has_image(self.engine().await?, &self.config.base_image).await
    }

    /// Removes every container of this instance, running or not, and returns how many there were.
    /// For the start and the end of the daemon: it ends live cages too.
    pub async fn sweep(&self) -> Result<usize, SandboxError> {
        docker::sweep(self.engine().await?, &self.instance).await
    }

    /// Makes the image for a definition. Slow: it downloads packages, inside of a container.
    pub async fn build(
        &self,
        launch: &LaunchDefinition,
        server: &str,
        progress: &(dyn Fn(&str) + Send + Sync),
    ) -> Result<BuiltImage, SandboxError> {
        images::build(self, launch, server, progress).await
    }

    /// Makes the image of a review again, from its lock: byte for byte what it was, or an error.
    pub async fn rebuild(
        &self,
        launch: &LaunchDefinition,
        server: &str,
        before: &BuiltImage,
        progress: &(dyn Fn(&str) + Send + Sync),
    ) -> Result<BuiltImage, SandboxError> {
        images::rebuild(self, launch, server, before, progress).await
    }

    /// The digest of a directory or file of this host as it is now, comparable with `tree` in the
    /// lock of the image that was made of it.
    pub async fn source_digest(&self, path: &std::path::Path) -> Result<String, String> {
        images::source_digest(path).await
    }

    /// Starts a container. The caller speaks to it over `stdin` and `stdout`.
    pub async fn start(&self, spec: &CageSpec) -> Result<Cage, SandboxError> {
        cage::start(self, spec).await
    }

    /// Ends a container and returns once it is gone. Drop or shut down its `stdin` first: a
    /// server that ends by itself is not killed. One that is gone already is no error.
    pub async fn stop(&self, container_id: &str) -> Result<(), SandboxError> {
        cage::stop(self.engine().await?, container_id).await
    }

    /// Removes an image that `build` made and that no server uses any more.
    pub async fn remove_image(&self, image_id: &str) -> Result<(), SandboxError> {
        docker::remove_image(self.engine().await?, image_id).await
    }

    async fn engine(&self) -> Result<&docker::Engine, SandboxError> {
        self.engine.get_or_try_init(|| docker::Engine::connect(&self.config.docker)).await
    }

    /// The cage's first program on this host.
    async fn init(&self, engine: &docker::Engine) -> std::io::Result<&PathBuf> {
        self.init.get_or_try_init(async || init::install(&self.files(engine)?)).await
    }

    /// The system call filter, in the shape that this engine reads.
    async fn filter(&self, engine: &docker::Engine) -> std::io::Result<&str> {
        let make = async || match engine.flavour {
            Flavour::Docker => Ok(seccomp::option()),
            Flavour::Podman => seccomp::install(&self.files(engine)?),
        };
        self.filter.get_or_try_init(make).await.map(String::as_str)
    }

    /// Where files lie that the engine reads. An engine that is not root's cannot look into the state directory.
    fn files(&self, engine: &docker::Engine) -> std::io::Result<PathBuf> {
        let own = self.files.clone().ok_or_else(|| std::io::Error::other("there is no directory for it"))?;
        if engine.rootless.is_none() {
            return Ok(own);
        }
        let shared = Path::new(SHARED_FILES).join(&self.instance);
        std::fs::create_dir_all(&shared)?;
        for dir in [Path::new(SHARED_FILES), &shared] {
            std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        }
        Ok(shared)
    }

    fn egress_witness(&self) -> Option<Arc<dyn EgressWitness>> {
        self.witness.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    fn launch_grant(&self) -> Option<Arc<dyn LaunchGrant>> {
        self.grant.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}
