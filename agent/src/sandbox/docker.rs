//! The connection to the Docker daemon, and what concerns all of its containers and images.

use std::collections::HashMap;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::models::{SystemInfo, SystemInfoCgroupVersionEnum};
use bollard::query_parameters as query;
use bollard::{API_DEFAULT_VERSION, Docker};
use futures_util::StreamExt as _;

use super::error::{cause, is_away, status};
use super::flavour::{self, Flavour};
use super::{DockerInfo, LABEL_INSTANCE, LABEL_PURPOSE, SandboxError};

/// Longest that Docker may take to answer when it is only asked what it is. An engine that its socket starts, as a
/// user's Podman, is started by the question.
const PROBE: Duration = Duration::from_secs(15);
/// Longest that Docker may take to begin an answer to anything else.
const ANSWER_SECS: u64 = 60;
/// The same for what grows with the size of an image: copying files in, and the commit.
const SLOW: Duration = Duration::from_secs(600);

/// A Docker daemon that answered, with the API version that both sides speak.
pub(super) struct Engine {
    pub docker: Docker,
    /// The same connection, with more patience.
    pub slow: Docker,
    pub socket: PathBuf,
    pub info: SystemInfo,
    pub flavour: Flavour,
    /// The user that it runs as, where that is not root.
    pub rootless: Option<u32>,
}

impl Engine {
    pub async fn connect(socket: &Path) -> Result<Self, SandboxError> {
        let unreachable = |cause: String, hint| SandboxError::Unreachable { socket: socket.into(), cause, hint };
        match std::fs::metadata(socket) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(unreachable("there is no such socket".into(), how_to_start(socket)));
            }
            Err(e) => return Err(unreachable(e.to_string(), "run the daemon as a user that may use the socket")),
            Ok(meta) if !meta.file_type().is_socket() => {
                return Err(unreachable("that is not a socket".into(), "set [sandbox] docker to Docker's socket"));
            }
            Ok(_) => {}
        }
        let hint = "see that it runs (`systemctl status docker`) and that this user may use the socket";
        let docker = Docker::connect_with_unix(&socket.to_string_lossy(), ANSWER_SECS, API_DEFAULT_VERSION)
            .map_err(|e| unreachable(cause(&e), hint))?;
        let probe = async {
            let docker = docker.negotiate_version().await?;
            let info = docker.info().await?;
            let version = docker.version().await?;
            Ok::<_, bollard::errors::Error>((docker, info, Flavour::of(&version)))
        };
        match tokio::time::timeout(PROBE, probe).await {
            Ok(Ok((docker, info, flavour))) => {
                let slow = docker.clone().with_timeout(SLOW);
                let rootless = flavour::listener(socket).filter(|uid| *uid != 0);
                Ok(Self { slow, docker, socket: socket.into(), info, flavour, rootless })
            }
            Ok(Err(e)) => Err(unreachable(cause(&e), hint)),
            Err(_) => Err(unreachable(format!("no answer within {} s", PROBE.as_secs()), hint)),
        }
    }

    /// Docker's refusal as `otherwise` words it, or that Docker is gone.
    pub fn error(
        &self,
        error: &bollard::errors::Error,
        otherwise: impl FnOnce(String) -> SandboxError,
    ) -> SandboxError {
        if is_away(error) { self.gone(cause(error)) } else { otherwise(cause(error)) }
    }

    pub fn refused(&self, action: impl Into<String>, error: &bollard::errors::Error) -> SandboxError {
        self.error(error, |cause| SandboxError::Docker { action: action.into(), cause })
    }

    fn gone(&self, cause: String) -> SandboxError {
        let hint = "see that it still runs (`systemctl status docker`)";
        SandboxError::Unreachable { socket: self.socket.clone(), cause, hint }
    }

    /// The parent of all cages of an instance, as the daemon's cgroup driver wants it written.
    pub fn cgroup_parent(&self, instance: &str) -> Option<String> {
        match self.cgroup_driver().as_str() {
            "systemd" => Some(format!("lazaret-{instance}.slice")),
            // Whoever is not root has no place at the top.
            "cgroupfs" if self.rootless.is_none() => Some(format!("/lazaret-{instance}")),
            _ => None,
        }
    }

    fn cgroup_driver(&self) -> String {
        self.info.cgroup_driver.map(|driver| driver.to_string()).unwrap_or_default()
    }

    /// Whether it can filter a container's system calls. What it does by itself is of no matter.
    pub fn filters_calls(&self) -> bool {
        let options = self.info.security_options.as_deref().unwrap_or_default();
        options.iter().any(|option| option.starts_with("name=seccomp"))
    }

    /// Why no cage can be closed with this engine; its own account of a container would not say so.
    pub fn open_walls(&self) -> Vec<String> {
        let helpless = self.rootless.is_some() && self.info.cgroup_version == Some(SystemInfoCgroupVersionEnum::_1);
        if helpless {
            return vec!["without root it limits neither memory nor processes on cgroup v1".into()];
        }
        let mut open = Vec::new();
        for (able, what) in [(self.info.memory_limit, "memory"), (self.info.pids_limit, "processes")] {
            if able == Some(false) {
                open.push(format!("it cannot limit a container's {what}"));
            }
        }
        open
    }

    /// What this Docker cannot give to a cage.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let lacks = |flag: Option<bool>| flag == Some(false);
        if !self.filters_calls() {
            warnings.push("the engine runs containers without a seccomp filter".into());
        }
        if lacks(self.info.swap_limit) {
            warnings.push("this host cannot limit a container's swap".into());
        }
        if lacks(self.info.cpu_cfs_quota) {
            warnings.push("this host cannot limit a container's processor time".into());
        }
        warnings
    }
}

/// Where a socket is says whose it is.
fn how_to_start(socket: &Path) -> &'static str {
    if socket.starts_with("/run/user") {
        return "start it as its user (`systemctl --user start podman.socket`, or docker), whose services have to run \
                without a login (`loginctl enable-linger USER`)";
    }
    match socket.file_name().is_some_and(|name| name == "podman.sock") {
        true => "start it (`systemctl start podman.socket`), or install podman and catatonit",
        false => "start it (`systemctl start docker`), or install docker.io",
    }
}

pub(super) async fn info(engine: &Engine) -> Result<DockerInfo, SandboxError> {
    // Asked again, not taken from the connection: Docker may have gone since.
    let asked = tokio::time::timeout(PROBE, engine.docker.info()).await;
    let cause = match asked {
        Ok(Ok(info)) => {
            let options = info.security_options.unwrap_or_default();
            return Ok(DockerInfo {
                engine: engine.flavour.name(),
                open_walls: engine.open_walls(),
                differs: flavour::differences(engine.flavour, engine.rootless),
                version: info.server_version.unwrap_or_default(),
                api_version: engine.docker.client_version().to_string(),
                rootless: engine.rootless.is_some() || options.iter().any(|o| o == "name=rootless"),
                cgroup_version: info.cgroup_version.map(|v| v.to_string()).unwrap_or_default(),
                cgroup_driver: engine.cgroup_driver(),
                security_options: options,
                storage_driver: info.driver.unwrap_or_default(),
                warnings: engine.warnings(),
            });
        }
        Ok(Err(e)) => cause(&e),
        Err(_) => format!("no answer within {} s", PROBE.as_secs()),
    };
    Err(engine.gone(cause))
}

pub(super) async fn sweep(engine: &Engine, instance: &str) -> Result<usize, SandboxError> {
    let labels = vec![format!("{LABEL_INSTANCE}={instance}")];
    let options =
        query::ListContainersOptionsBuilder::new().all(true).filters(&HashMap::from([("label", labels)])).build();
    let found = engine
        .docker
        .list_containers(Some(options))
        .await
        .map_err(|e| engine.refused("list this instance's containers", &e))?;
    let (mut removed, mut failed) = (0, None);
    for container in found {
        // A container that somebody ran from an image of ours inherits the image's labels.
        let purpose = container.labels.as_ref().and_then(|labels| labels.get(LABEL_PURPOSE));
        let ours = purpose.is_some_and(|purpose| ["review", "serve", "build"].contains(&purpose.as_str()));
        let Some(id) = container.id.filter(|_| ours) else { continue };
        match remove(&engine.docker, &id).await {
            Ok(()) => removed += 1,
            // The others are still worth removing.
            Err(e) => failed = Some(e),
        }
    }
    if engine.cgroup_driver() == "cgroupfs" {
        remove_empty_cgroups(&format!("lazaret-{instance}"));
    }
    failed.map_or(Ok(removed), Err)
}

/// Docker makes a cgroup parent where it is missing and never removes it. One that is in use
/// stays: rmdir refuses.
fn remove_empty_cgroups(name: &str) {
    let root = Path::new("/sys/fs/cgroup");
    let _ = std::fs::remove_dir(root.join(name));
    for hierarchy in std::fs::read_dir(root).into_iter().flatten().flatten() {
        let _ = std::fs::remove_dir(hierarchy.path().join(name));
    }
}

pub(super) async fn has_image(engine: &Engine, image: &str) -> Result<bool, SandboxError> {
    match engine.docker.inspect_image(image).await {
        Ok(_) => Ok(true),
        Err(e) if status(&e) == Some(404) => Ok(false),
        Err(e) => Err(SandboxError::docker(format!("look for the image {image}"), &e)),
    }
}

/// Kills and removes a container and returns once it is gone. One that is gone is no error.
pub(super) async fn remove(docker: &Docker, id: &str) -> Result<(), SandboxError> {
    let options = query::RemoveContainerOptionsBuilder::new().force(true).v(true).build();
    match docker.remove_container(id, Some(options)).await {
        Ok(()) => Ok(()),
        Err(e) if status(&e) == Some(404) => Ok(()),
        // Somebody else is removing it just now: wait for that.
        Err(e) if status(&e) == Some(409) => {
            let options = query::WaitContainerOptionsBuilder::new().condition("removed").build();
            let mut gone = Box::pin(docker.wait_container(id, Some(options)));
            let _ = tokio::time::timeout(Duration::from_secs(30), gone.next()).await;
            Ok(())
        }
        Err(e) => Err(SandboxError::docker(format!("remove the container {}", short(id)), &e)),
    }
}

pub(super) async fn remove_image(engine: &Engine, image_id: &str) -> Result<(), SandboxError> {
    let options = query::RemoveImageOptionsBuilder::new().force(true).build();
    match engine.docker.remove_image(image_id, Some(options), None).await {
        Ok(_) => Ok(()),
        Err(e) if status(&e) == Some(404) => Ok(()),
        Err(e) => Err(engine.refused(format!("remove the image {image_id}"), &e)),
    }
}

/// As Docker writes it; Podman leaves the kind of digest out in places.
pub(super) fn image_id(id: String) -> String {
    let bare = id.len() == 64 && id.bytes().all(|c| c.is_ascii_hexdigit());
    if bare { format!("sha256:{id}") } else { id }
}

pub(super) fn short(id: &str) -> &str {
    &id[..id.len().min(12)]
}
