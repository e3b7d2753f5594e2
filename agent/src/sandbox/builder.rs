//! The containers that an image is made in: they have the package managers, and nothing of the host
//! but its certificates and registry settings. What is downloaded, by name and digest, is downloaded
//! in one that has a network; it is installed in another, which has none, and which becomes the image.
//!
//! Invariant: what serves only the build lies in `/app/.build` and is gone before the commit,
//! so that neither caches nor the host's settings stand in an image.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::pin::Pin;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::models::{ContainerConfig, ContainerCreateBody};
use bollard::query_parameters as query;
use bollard::{body_full, body_try_stream};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};

use super::cage::{Unstarted, container_name, labels, random_suffix, wait};
use super::docker::{self, Engine};
use super::error::{cause, status};
use super::flavour::Flavour;
use super::{Sandbox, SandboxError, StderrLog, hardening};

/// Longest that one build may take.
const LIMIT: Duration = Duration::from_secs(900);
/// Most that a build may report of what it installed.
const REPORT_BYTES: usize = 64 << 20;
const HOST_CA: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Settings of the host that a package manager needs to find its registry from here.
const PASSED_ON: [&str; 9] = [
    "npm_config_registry",
    "PIP_INDEX_URL",
    "PIP_DEFAULT_TIMEOUT",
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "NO_PROXY",
    "no_proxy",
];
/// What each package manager reads the path of further certificates from.
const CA_VARIABLES: [&str; 5] =
    ["NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO"];

/// The script's frame: the data goes to descriptor 3, everything that is said to stderr.
const FRAME: &str = "set -eu\nexec 3>&1 1>&2\n. /app/.build/env\ncd /app\n";
const CLEAN: &str = "\ncd /\nrm -rf /app/.build\n";

/// How something is installed, in two shell scripts.
pub(super) struct Script {
    /// With a network: leaves in `/app` all that `install` needs.
    pub fetch: String,
    /// Without one. Its descriptor 3 is the report.
    pub install: String,
}

pub(super) struct Builder<'a> {
    sandbox: &'a Sandbox,
    engine: &'a Engine,
    server: &'a str,
    script: Option<Script>,
    args: Vec<String>,
    id: String,
    /// Removes the container when the build ends, well or not.
    guard: Unstarted,
}

impl<'a> Builder<'a> {
    /// Creates the container. `script` is for `run`; `args` are its `$1`, `$2`, …
    pub async fn create(
        sandbox: &'a Sandbox,
        server: &'a str,
        script: Option<Script>,
        args: &[&str],
    ) -> Result<Self, SandboxError> {
        let engine = sandbox.engine().await?;
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let network = if script.is_some() { Network::Registry } else { Network::None };
        let (id, guard) = container(sandbox, engine, server, &args, network).await?;
        let builder = Self { sandbox, engine, server, script, args, id, guard };
        if let Some(script) = &builder.script {
            builder.frame(&script.fetch).await?;
        }
        Ok(builder)
    }

    /// Puts the script in place that the container runs.
    async fn frame(&self, script: &str) -> Result<(), SandboxError> {
        let packed = frame(script).map_err(|e| SandboxError::Docker {
            action: format!("pack the build of {}", self.server),
            cause: e.to_string(),
        })?;
        self.upload(Tar::Whole(packed)).await
    }

    /// Goes on in a container without a network, with all that lies in `/app`.
    async fn seal(&mut self, script: &str) -> Result<(), SandboxError> {
        let (id, guard) = container(self.sandbox, self.engine, self.server, &self.args, Network::None).await?;
        let options = query::DownloadFromContainerOptionsBuilder::new().path("/app").build();
        let files = self.engine.slow.download_from_container(&self.id, Some(options));
        let files = Box::pin(files.map(|chunk| chunk.map_err(std::io::Error::other)));
        let mut before = std::mem::replace(&mut self.guard, guard);
        self.id = id;
        self.upload(Tar::Stream(files)).await?;
        before.remove().await;
        self.frame(&format!("{script}{CLEAN}")).await
    }

    /// Unpacks a tar stream at the container's root.
    pub async fn upload(&self, tar: Tar) -> Result<(), SandboxError> {
        let options = query::UploadToContainerOptionsBuilder::new().path("/").build();
        let body = match tar {
            Tar::Whole(bytes) => body_full(bytes),
            Tar::Stream(chunks) => body_try_stream(chunks),
        };
        self.engine
            .slow
            .upload_to_container(&self.id, Some(options), body)
            .await
            .map_err(|e| self.engine.refused(format!("copy files into the builder of {}", self.server), &e))
    }

    /// Runs both scripts and returns what the second one wrote to descriptor 3.
    pub async fn run(&mut self, step: &str, hint: &'static str) -> Result<Vec<u8>, SandboxError> {
        if let Some(Script { install, .. }) = self.script.take() {
            let download = format!("{step}, downloading");
            match self.attempt(&download, hint).await {
                // It only fetches: what is there already is not fetched again.
                Err(SandboxError::Build { output, .. }) if is_of_the_network(&output) => {
                    tracing::warn!(server = self.server, "the network failed in {download}; once more");
                    self.step(&download, hint).await?;
                }
                Err(error) => {
                    self.guard.remove().await;
                    return Err(error);
                }
                Ok(_) => {}
            }
            self.seal(&install).await?;
        }
        self.step(step, hint).await
    }

    async fn step(&mut self, step: &str, hint: &'static str) -> Result<Vec<u8>, SandboxError> {
        let done = self.attempt(step, hint).await;
        if done.is_err() {
            self.guard.remove().await;
        }
        done
    }

    async fn attempt(&self, step: &str, hint: &'static str) -> Result<Vec<u8>, SandboxError> {
        let log = StderrLog::default();
        let result = match tokio::time::timeout(LIMIT, self.run_to_end(&log)).await {
            Ok(result) => result,
            Err(_) => Err(format!("it took longer than {} minutes", LIMIT.as_secs() / 60)),
        };
        result.map_err(|cause| {
            let output = log.tail(12).join("\n");
            SandboxError::Build { server: self.server.into(), step: step.into(), cause, hint, output }
        })
    }

    async fn run_to_end(&self, log: &StderrLog) -> Result<Vec<u8>, String> {
        let docker = &self.engine.docker;
        let options = query::AttachContainerOptionsBuilder::new().stream(true).stdout(true).stderr(true).build();
        let mut attached = docker.attach_container(&self.id, Some(options)).await.map_err(|e| cause(&e))?;
        docker.start_container(&self.id, None).await.map_err(|e| cause(&e))?;
        let mut report = Vec::new();
        while let Some(frame) = attached.output.next().await {
            match frame.map_err(|e| cause(&e))? {
                LogOutput::StdOut { message } => report.extend_from_slice(&message),
                LogOutput::StdErr { message } => {
                    // A build has a time limit of its own.
                    let _flood = log.push(&message);
                }
                LogOutput::StdIn { .. } | LogOutput::Console { .. } => {}
            }
            if report.len() > REPORT_BYTES {
                return Err(format!("it reported more than {} MiB", REPORT_BYTES >> 20));
            }
        }
        match wait(docker, &self.id).await? {
            0 => Ok(report),
            137 => Err("it was killed, which is what happens when memory runs out".into()),
            code => Err(format!("exit code {code}")),
        }
    }

    /// Makes the container's files an image and removes the container.
    pub async fn commit(mut self, argv: &[String]) -> Result<String, SandboxError> {
        let name = container_name(self.server);
        let repo = format!("lazaret/{}", Some(name.trim_matches('-')).filter(|n| !n.is_empty()).unwrap_or("server"));
        let tag = format!("{}-{}", self.sandbox.instance, random_suffix());
        // The builder's own label would otherwise be inherited by whatever runs from the image.
        let image_labels = labels(&self.sandbox.instance, self.server, "image");
        let config = ContainerConfig {
            user: Some(hardening::USER.into()),
            working_dir: Some("/tmp".into()),
            entrypoint: Some(Vec::new()),
            cmd: Some(argv.to_vec()),
            labels: Some(image_labels),
            ..ContainerConfig::default()
        };
        // The tag keeps `docker image prune` away from it; it runs by id all the same.
        let options = query::CommitContainerOptionsBuilder::new().container(&self.id).repo(&repo).tag(&tag);
        let options = match self.engine.flavour {
            Flavour::Docker => options,
            // It does not read the body.
            Flavour::Podman => options.changes(&changes(&config)),
        };
        let made = self.engine.slow.commit_container(options.build(), config).await;
        let made = made.map_err(|e| self.engine.refused(format!("commit the image of {}", self.server), &e))?;
        self.guard.remove().await;
        Ok(docker::image_id(made.id))
    }
}

/// What npm, pip and git say when it is not the package that is wrong.
fn is_of_the_network(output: &str) -> bool {
    const SIGNS: [&str; 7] = [
        "EAI_AGAIN",
        "ETIMEDOUT",
        "ECONNRESET",
        "ECONNREFUSED",
        "Temporary failure in name resolution",
        "Connection reset by peer",
        "Read timed out",
    ];
    SIGNS.iter().any(|sign| output.contains(sign))
}

/// What a container of a build may reach.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Network {
    Registry,
    None,
}

async fn container(
    sandbox: &Sandbox,
    engine: &Engine,
    server: &str,
    args: &[String],
    network: Network,
) -> Result<(String, Unstarted), SandboxError> {
    let image = &sandbox.config.base_image;
    let body = ContainerCreateBody {
        image: Some(image.clone()),
        entrypoint: Some(vec!["/usr/bin/env".into()]),
        cmd: Some(["sh", "/app/.build/run"].into_iter().map(str::to_owned).chain(args.iter().cloned()).collect()),
        user: Some(hardening::USER.into()),
        working_dir: Some("/tmp".into()),
        labels: Some(labels(&sandbox.instance, server, "build")),
        host_config: Some(hardening::builder(engine, &sandbox.instance, network)),
        ..ContainerCreateBody::default()
    };
    let name = format!("lazaret-{}-build-{}-{}", sandbox.instance, container_name(server), random_suffix());
    let options = query::CreateContainerOptionsBuilder::new().name(&name).build();
    let created = engine.docker.create_container(Some(options), body).await.map_err(|e| match status(&e) {
        Some(404) => SandboxError::NoBaseImage { server: server.into(), image: image.clone() },
        _ => engine.refused(format!("create the builder of {server}"), &e),
    })?;
    let guard = Unstarted::new(&engine.docker, &created.id);
    Ok((created.id, guard))
}

/// The same settings as instructions of a Dockerfile. Every value is ours but the command and the server's name.
fn changes(config: &ContainerConfig) -> String {
    let json = |words: &[String]| serde_json::Value::from(words).to_string();
    let mut lines = vec![
        format!("ENTRYPOINT {}", json(config.entrypoint.as_deref().unwrap_or_default())),
        format!("CMD {}", json(config.cmd.as_deref().unwrap_or_default())),
    ];
    let labels = config.labels.iter().flatten().filter(|(_, value)| !value.contains(['\n', '"', '\\', '$', '\'']));
    lines.extend(labels.map(|(name, value)| format!("LABEL {name}=\"{value}\"")));
    lines.join("\n")
}

/// A tar to send: small and whole, or made while it is sent.
pub(super) enum Tar {
    Whole(Bytes),
    Stream(Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>),
}

/// `/app` and `/app/.build` with the script, the settings and the host's certificates.
fn frame(script: &str) -> std::io::Result<Bytes> {
    let mut tar = tar::Builder::new(Vec::new());
    for path in ["app/", "app/.build/", "app/.build/home/", "app/.build/tmp/"] {
        tar.append_data(&mut header(tar::EntryType::Directory, 0o755, 0), path, std::io::empty())?;
    }
    let mut settings: HashMap<&str, String> = HashMap::from([
        ("HOME", "/app/.build/home".to_owned()),
        ("TMPDIR", "/app/.build/tmp".to_owned()),
        ("npm_config_cache", "/app/.build/npm".to_owned()),
        ("npm_config_update_notifier", "false".to_owned()),
        ("PIP_DISABLE_PIP_VERSION_CHECK", "1".to_owned()),
        ("PIP_NO_CACHE_DIR", "1".to_owned()),
        ("PIP_NO_INPUT", "1".to_owned()),
        ("PIP_ROOT_USER_ACTION", "ignore".to_owned()),
    ]);
    for name in PASSED_ON {
        if let Ok(value) = std::env::var(name) {
            settings.insert(name, value);
        }
    }
    let bundle = std::env::var("SSL_CERT_FILE").unwrap_or_else(|_| HOST_CA.into());
    if let Ok(certificates) = std::fs::read(&bundle) {
        file(&mut tar, "app/.build/ca.pem", &certificates)?;
        settings.extend(CA_VARIABLES.map(|name| (name, "/app/.build/ca.pem".to_owned())));
    }
    let env = settings.iter().fold(String::new(), |mut text, (name, value)| {
        let _ = writeln!(text, "export {name}='{}'", value.replace('\'', r"'\''"));
        text
    });
    file(&mut tar, "app/.build/env", env.as_bytes())?;
    file(&mut tar, "app/.build/run", format!("{FRAME}{script}").as_bytes())?;
    Ok(tar.into_inner()?.into())
}

fn file(tar: &mut tar::Builder<Vec<u8>>, path: &str, content: &[u8]) -> std::io::Result<()> {
    tar.append_data(&mut header(tar::EntryType::Regular, 0o644, content.len() as u64), path, content)
}

/// An entry that belongs to the cage's user and has no date, so that equal files make equal bytes.
pub(super) fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(hardening::UID.into());
    header.set_gid(hardening::UID.into());
    header.set_mtime(1);
    header
}
