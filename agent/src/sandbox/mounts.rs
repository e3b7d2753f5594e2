//! Host directories that a definition opens to its cage: the only loosening there is so far.
//!
//! A mount is judged again at each start, on the path as it is then: a link that was put there
//! since the approval would show the server another directory than the reviewer saw.

use std::os::unix::fs::FileTypeExt as _;
use std::path::{Component, Path};

use bollard::models::{Mount as DockerMount, MountBindOptions, MountBindOptionsPropagationEnum, MountType};

use super::SandboxError;
use crate::admission::Mount;

/// Handing these out would hand out the host: processes, devices, and the sockets of its services.
const NEVER: [&str; 6] = ["/proc", "/sys", "/dev", "/run", "/var/run", "/var/lib/docker"];
/// Mounting over these would replace the cage's own parts.
const RESERVED: [&str; 9] = ["/proc", "/sys", "/dev", "/app", "/bin", "/etc", "/lib", "/usr", "/opt"];

pub(super) fn resolve(server: &str, mounts: &[Mount]) -> Result<Vec<DockerMount>, SandboxError> {
    mounts.iter().map(|mount| one(mount).map_err(|cause| refused(server, mount, &cause))).collect()
}

fn refused(server: &str, mount: &Mount, cause: &str) -> SandboxError {
    SandboxError::Start {
        server: server.into(),
        cause: format!("the mount of {} on {}: {cause}", mount.host.display(), mount.container.display()),
        hint: "change the mount in the server's definition and review it again",
    }
}

fn one(mount: &Mount) -> Result<DockerMount, String> {
    let plain = |path: &Path| path.is_absolute() && !path.components().any(|c| c == Component::ParentDir);
    if !plain(&mount.host) || !plain(&mount.container) {
        return Err("both paths must be absolute and without `..`".into());
    }
    let real = mount.host.canonicalize().map_err(|e| format!("the host path cannot be opened ({e})"))?;
    if real != mount.host {
        return Err(format!("the host path leads through a link to {}; name that path", real.display()));
    }
    let kind = real.metadata().map_err(|e| e.to_string())?.file_type();
    if !kind.is_dir() && !kind.is_file() || kind.is_socket() {
        return Err("only directories and files can be mounted; sockets and devices open the host".into());
    }
    if real == Path::new("/")
        || NEVER.iter().any(|never| real.starts_with(never) || Path::new(never).starts_with(&real))
    {
        return Err("that path opens the host".into());
    }
    let inside = &mount.container;
    if inside == Path::new("/") || inside == Path::new("/tmp") || RESERVED.iter().any(|path| inside.starts_with(path)) {
        return Err("that place in the cage is the cage's own".into());
    }
    let (Some(source), Some(target)) = (real.to_str(), inside.to_str()) else {
        return Err("a path is not UTF-8".into());
    };
    Ok(DockerMount {
        target: Some(target.into()),
        source: Some(source.into()),
        typ: Some(MountType::BIND),
        read_only: Some(!mount.writable),
        // What is mounted below the directory later, on either side, stays on its side.
        bind_options: Some(MountBindOptions {
            propagation: Some(MountBindOptionsPropagationEnum::RPRIVATE),
            non_recursive: Some(true),
            ..MountBindOptions::default()
        }),
        ..DockerMount::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(host: &Path, container: &str) -> Option<String> {
        one(&Mount { host: host.into(), container: container.into(), writable: true }).err()
    }

    #[test]
    fn mounts_that_open_the_host_are_refused() {
        for host in
            ["/", "/proc", "/dev", "/var", "/var/lib", "/run", "/sys/fs/cgroup", "relative", "/tmp/../etc", "/no/such"]
        {
            assert!(refusal(Path::new(host), "/data").is_some(), "{host}");
        }
        let dir = tempfile::tempdir().unwrap();
        let dir_path = dir.path().canonicalize().unwrap();
        for container in ["/", "/tmp", "/app/src", "/usr/bin", "data", "/data/../usr"] {
            assert!(refusal(&dir_path, container).is_some(), "{container}");
        }
        assert_eq!(refusal(&dir_path, "/data"), None);
    }

    #[test]
    fn a_link_or_a_socket_in_place_of_the_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        std::os::unix::fs::symlink("/etc", dir.join("link")).unwrap();
        assert!(refusal(&dir.join("link"), "/data").unwrap().contains("through a link to /etc"));
        let _listener = std::os::unix::net::UnixListener::bind(dir.join("sock")).unwrap();
        assert!(refusal(&dir.join("sock"), "/data").unwrap().contains("sockets"));
    }
}
