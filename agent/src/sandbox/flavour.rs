//! Which engine answers at the socket, and what is not the same there as with Docker run by root.
//!
//! Invariant: where an engine takes a setting in another shape, it is given that shape and the result is read back;
//! what it cannot give at all is said, and where that opens the cage the server is not started.

use std::path::Path;

use bollard::models::SystemVersion;
use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Flavour {
    Docker,
    /// Through its Docker-compatible API.
    Podman,
}

impl Flavour {
    pub(super) fn of(version: &SystemVersion) -> Self {
        let parts = version.components.as_deref().unwrap_or_default();
        if parts.iter().any(|part| part.name == "Podman Engine") { Self::Podman } else { Self::Docker }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Docker => "Docker",
            Self::Podman => "Podman",
        }
    }
}

/// The user that listens at the socket; an engine's own word for being rootless is not always there.
pub(super) fn listener(socket: &Path) -> Option<u32> {
    let stream = std::os::unix::net::UnixStream::connect(socket).ok()?;
    Some(rustix::net::sockopt::socket_peercred(&stream).ok()?.uid.as_raw())
}

/// What is otherwise than with Docker run by root, each a sentence; none of it opens a cage.
pub(super) fn differences(flavour: Flavour, rootless: Option<u32>) -> Vec<String> {
    let mut all = Vec::new();
    if flavour == Flavour::Podman {
        all.push("it says of capabilities only which of its own it took away: what a cage has is read from the kernel before the server runs".into());
        all.push(
            "it puts writable directories on /run and /var/tmp of a read-only root: they get the limits of /tmp".into(),
        );
        if rootless.is_none() {
            all.push(
                "the kernel programs do not know its cages on cgroup v2: in enforce, give a scope without them, or its servers are stopped"
                    .into(),
            );
        }
    }
    if let Some(uid) = rootless {
        all.push(format!("it runs as user {uid}, and so can everything else of that user enter and change every cage"));
        all.push(
            "the kernel programs do not take its containers for approved: in enforce, leave that user out of the scope"
                .into(),
        );
        all.push(
            "cgroup limits need cgroup v2 with memory and pids delegated to that user; the kernel is asked before a server runs, and without them none starts"
                .into(),
        );
    }
    all
}

/// Sockets of engines that answer nothing to a configuration that names another one, for whoever mends it.
pub(super) fn others(configured: &Path) -> Vec<String> {
    let host = std::env::var("DOCKER_HOST").ok().and_then(|host| host.strip_prefix("unix://").map(str::to_owned));
    let mut known: Vec<String> = host.into_iter().collect();
    known.extend(["/var/run/docker.sock".to_owned(), "/run/podman/podman.sock".to_owned()]);
    let mut users: Vec<_> = std::fs::read_dir("/run/user").into_iter().flatten().flatten().map(|e| e.path()).collect();
    users.sort();
    for user in users {
        known.extend(["docker.sock", "podman/podman.sock"].map(|name| user.join(name).to_string_lossy().into_owned()));
    }
    known.dedup();
    let same = |path: &Path| path == configured || path.canonicalize().ok() == configured.canonicalize().ok();
    known.retain(|path| !same(Path::new(path)) && listener(Path::new(path)).is_some());
    known
}

#[cfg(test)]
mod tests {
    use bollard::models::SystemVersionComponents;

    use super::*;

    #[test]
    fn an_engine_is_known_by_its_components_and_its_listener() {
        let of = |name: &str| SystemVersion {
            components: Some(vec![SystemVersionComponents { name: name.into(), ..Default::default() }]),
            ..SystemVersion::default()
        };
        assert_eq!(Flavour::of(&of("Podman Engine")), Flavour::Podman);
        assert_eq!(Flavour::of(&of("Engine")), Flavour::Docker);
        assert_eq!(Flavour::of(&SystemVersion::default()), Flavour::Docker);

        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        assert_eq!(listener(&socket), None);
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert_eq!(listener(&socket), Some(rustix::process::getuid().as_raw()));
    }

    #[test]
    fn a_socket_that_is_configured_is_not_proposed() {
        let dir = tempfile::tempdir().unwrap();
        assert!(others(&dir.path().join("none")).iter().all(|path| !path.starts_with(dir.path().to_str().unwrap())));
        let docker = Path::new("/var/run/docker.sock");
        assert!(!others(docker).iter().any(|path| Path::new(path) == docker));
    }
}
