//! The settings that make a container a cage, and the proof that Docker took them.
//!
//! Closed by default. What a definition loosens is in its `mounts`, nowhere else.

use std::collections::HashMap;

use bollard::models::{
    ContainerInspectResponse, HostConfig, HostConfigLogConfig, Mount, MountPoint, ResourcesUlimits, RestartPolicy,
    RestartPolicyNameEnum,
};

use super::builder::Network;
use super::docker::Engine;
use super::flavour::Flavour;
use crate::config::SandboxConfig;

/// `nobody`, which owns nothing on a Debian host.
pub(super) const UID: u32 = 65534;
pub(super) const USER: &str = "65534:65534";
const NO_NEW_PRIVILEGES: &str = "no-new-privileges";
/// More than all cages may have together.
const PROCESSES_OF_ALL: i64 = 16384;
/// Shared memory of a cage: the one writable place beside /tmp.
const SHM_BYTES: i64 = 16 << 20;

/// A cage's settings. `volumes` are paths that the image declares as volumes: each becomes a
/// tmpfs, since Docker would otherwise put an unlimited, lasting directory of the host there.
pub(super) fn cage(
    config: &SandboxConfig,
    engine: &Engine,
    instance: &str,
    mounts: Vec<Mount>,
    volumes: &[String],
    filter: Option<&str>,
) -> HostConfig {
    let tmpfs = format!("rw,noexec,nosuid,nodev,size={},mode=1777", config.tmpfs_bytes);
    let own: &[&str] = match engine.flavour {
        Flavour::Docker => &["/tmp"],
        // It would put directories there without a limit.
        Flavour::Podman => &["/tmp", "/run", "/var/tmp"],
    };
    let places = volumes.iter().cloned().chain(own.iter().map(|path| (*path).to_owned()));
    HostConfig {
        network_mode: Some("none".into()),
        readonly_rootfs: Some(true),
        memory: Some(config.memory_bytes),
        memory_swap: Some(config.memory_bytes),
        // Docker counts in billionths of a processor.
        nano_cpus: Some((config.cpus * 1e9) as i64),
        pids_limit: Some(config.pids),
        shm_size: Some(SHM_BYTES),
        tmpfs: Some(places.map(|path| (path, tmpfs.clone())).collect()),
        mounts: Some(mounts),
        security_opt: Some([NO_NEW_PRIVILEGES].into_iter().chain(filter).map(str::to_owned).collect()),
        ..closed(engine, instance)
    }
}

/// A builder's settings: it has a writable root and, to download, the network, and is closed in all else.
pub(super) fn builder(engine: &Engine, instance: &str, network: Network) -> HostConfig {
    let tmpfs = "rw,nosuid,nodev,size=256m,mode=1777".to_owned();
    HostConfig {
        network_mode: Some(if network == Network::Registry { "bridge" } else { "none" }.into()),
        memory: Some(2 << 30),
        memory_swap: Some(2 << 30),
        pids_limit: Some(512),
        tmpfs: Some(HashMap::from([("/tmp".to_owned(), tmpfs)])),
        ..closed(engine, instance)
    }
}

fn closed(engine: &Engine, instance: &str) -> HostConfig {
    let limit = |name: &str, n| ResourcesUlimits { name: Some(name.into()), soft: Some(n), hard: Some(n) };
    // Podman raises this one to more than its own where it is told nothing, which not every host lets it. It counts all
    // processes of the user; the limit that counts is the cgroup's.
    let processes = (engine.flavour == Flavour::Podman).then(|| limit("nproc", PROCESSES_OF_ALL));
    HostConfig {
        cap_drop: Some(vec!["ALL".into()]),
        security_opt: Some(vec![NO_NEW_PRIVILEGES.into()]),
        privileged: Some(false),
        ipc_mode: Some("private".into()),
        init: Some(true),
        cgroup_parent: engine.cgroup_parent(instance),
        log_config: Some(HostConfigLogConfig { typ: Some("none".into()), config: None }),
        restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }),
        // Exit codes are read before the container is removed.
        auto_remove: Some(false),
        ulimits: Some([limit("core", 0), limit("nofile", 4096)].into_iter().chain(processes).collect()),
        ..HostConfig::default()
    }
}

/// What the engine made of the settings of a cage.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Walls that are missing: the container must not start.
    pub missing: Vec<String>,
    /// Limits that this host does not enforce.
    pub warnings: Vec<String>,
}

pub(super) fn verify(
    made: &ContainerInspectResponse,
    asked: &HostConfig,
    config: &SandboxConfig,
    flavour: Flavour,
) -> Verdict {
    let mut verdict = Verdict::default();
    let host = made.host_config.clone().unwrap_or_default();
    let mut wall = |holds: bool, name: &str| {
        if !holds {
            verdict.missing.push(name.into());
        }
    };
    let user = made.config.as_ref().and_then(|c| c.user.as_deref()).unwrap_or_default();
    wall(user == USER, "another user");
    let drops = host.cap_drop.unwrap_or_default();
    // Podman names those of its own that it took away; what is left is read from the kernel (`proof`).
    let all = drops.iter().any(|cap| cap.eq_ignore_ascii_case("all") || cap == "CAP_ALL");
    wall(all || flavour == Flavour::Podman && !drops.is_empty(), "capabilities are kept");
    wall(host.cap_add.is_none_or(|caps| caps.is_empty()), "capabilities are added");
    let options = host.security_opt.unwrap_or_default();
    wall(
        options.iter().any(|o| o.starts_with("no-new-privileges") && !o.ends_with("false")),
        "new privileges are possible",
    );
    wall(!options.iter().any(|o| o.ends_with("unconfined")), "a security profile is off");
    let filter = |options: &[String]| options.iter().find(|o| o.starts_with("seccomp=")).cloned();
    let asked_filter = filter(asked.security_opt.as_deref().unwrap_or_default());
    wall(filter(&options) == asked_filter, "its system calls are filtered otherwise");
    wall(host.privileged != Some(true), "it is privileged");
    wall(host.readonly_rootfs == Some(true), "its root is writable");
    wall(host.network_mode.as_deref() == Some("none"), "it has a network");
    // Docker writes nothing where it was told nothing.
    let names = |hosts: &Option<Vec<String>>| hosts.clone().unwrap_or_default();
    wall(names(&host.extra_hosts) == names(&asked.extra_hosts), "it knows other hosts");
    wall(host.pid_mode.as_deref().is_none_or(|mode| mode != "host"), "it sees the host's processes");
    wall(host.ipc_mode.as_deref().is_none_or(|mode| mode != "host"), "it shares the host's memory segments");
    wall(host.uts_mode.as_deref().is_none_or(|mode| mode != "host"), "it shares the host's name");
    wall(host.devices.is_none_or(|devices| devices.is_empty()), "it has devices");
    let count = |mounts: &Option<Vec<Mount>>| mounts.as_ref().map_or(0, Vec::len);
    match flavour {
        Flavour::Docker => {
            wall(host.binds.is_none_or(|binds| binds.is_empty()), "it has host directories");
            wall(count(&host.mounts) == count(&asked.mounts), "its mounts differ");
        }
        // It tells mounts as binds.
        Flavour::Podman => {
            let shown = host.binds.as_ref().map_or(0, Vec::len) + count(&host.mounts);
            wall(shown == count(&asked.mounts), "its mounts differ");
        }
    }
    let asked_mounts = asked.mounts.as_deref().unwrap_or_default();
    let known = |point: &MountPoint| {
        asked_mounts.iter().any(|mount| {
            mount.target == point.destination
                && mount.source == point.source
                && (mount.read_only != Some(true) || point.rw == Some(false))
        })
    };
    let bound = made.mounts.as_deref().unwrap_or_default().iter().filter(|m| m.source.as_deref() != Some(""));
    wall(bound.filter(|m| m.typ.as_deref() != Some("tmpfs")).all(known), "it has other mounts than were asked for");
    let foreign = made.mounts.as_deref().unwrap_or_default().iter().filter(|m| m.name.is_some()).count();
    wall(foreign == 0, "it has a volume");

    // Without these two, one server can take the host down.
    wall(host.memory == Some(config.memory_bytes), "its memory is not limited");
    wall(host.pids_limit == Some(config.pids), "the number of its processes is not limited");
    let mut limit = |holds: bool, what: &str| {
        if !holds {
            verdict.warnings.push(format!("{} did not take the limit on {what}", flavour.name()));
        }
    };
    limit(host.memory_swap == Some(config.memory_bytes), "swap");
    limit(host.nano_cpus == asked.nano_cpus, "processor time");
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::ContainerConfig;

    fn asked() -> HostConfig {
        let config = SandboxConfig::default();
        HostConfig {
            cap_drop: Some(vec!["ALL".into()]),
            security_opt: Some(vec!["no-new-privileges".into()]),
            readonly_rootfs: Some(true),
            network_mode: Some("none".into()),
            memory: Some(config.memory_bytes),
            memory_swap: Some(config.memory_bytes),
            pids_limit: Some(config.pids),
            ..HostConfig::default()
        }
    }

    fn made(host: HostConfig) -> ContainerInspectResponse {
        let config = ContainerConfig { user: Some(USER.into()), ..ContainerConfig::default() };
        ContainerInspectResponse {
            host_config: Some(host),
            config: Some(config),
            ..ContainerInspectResponse::default()
        }
    }

    #[test]
    fn a_container_that_docker_opened_is_refused() {
        let config = SandboxConfig::default();
        assert_eq!(verify(&made(asked()), &asked(), &config, Flavour::Docker), Verdict::default());
        let openings: [fn(&mut HostConfig); 12] = [
            |h| h.memory = Some(0),
            |h| h.pids_limit = None,
            |h| h.network_mode = Some("bridge".into()),
            |h| h.readonly_rootfs = Some(false),
            |h| h.cap_drop = None,
            |h| h.cap_add = Some(vec!["SYS_ADMIN".into()]),
            |h| h.security_opt = Some(vec!["no-new-privileges".into(), "apparmor=unconfined".into()]),
            |h| h.security_opt = Some(vec!["no-new-privileges".into(), "seccomp={}".into()]),
            |h| h.extra_hosts = Some(vec!["a.example:127.77.0.1".into()]),
            |h| h.privileged = Some(true),
            |h| h.pid_mode = Some("host".into()),
            |h| h.binds = Some(vec!["/:/host".into()]),
        ];
        for open in openings {
            let mut host = asked();
            open(&mut host);
            assert_eq!(verify(&made(host.clone()), &asked(), &config, Flavour::Docker).missing.len(), 1, "{host:?}");
        }
    }

    #[test]
    fn a_limit_that_docker_dropped_is_a_warning() {
        let dropped = HostConfig { memory_swap: Some(0), ..asked() };
        let verdict = verify(&made(dropped), &asked(), &SandboxConfig::default(), Flavour::Docker);
        assert_eq!(verdict.missing, [""; 0]);
        assert_eq!(verdict.warnings, ["Docker did not take the limit on swap"]);
    }

    #[test]
    fn podmans_account_is_read_as_it_writes_it() {
        let config = SandboxConfig::default();
        let mount = |source: &str, target: &str, read_only| Mount {
            source: Some(source.into()),
            target: Some(target.into()),
            read_only: Some(read_only),
            ..Mount::default()
        };
        let asked = HostConfig { mounts: Some(vec![mount("/srv", "/data", true)]), ..asked() };
        let told = |binds: &[&str], rw| {
            let point = MountPoint {
                source: Some("/srv".into()),
                destination: Some("/data".into()),
                rw: Some(rw),
                typ: Some("bind".into()),
                ..MountPoint::default()
            };
            let host = HostConfig {
                mounts: None,
                cap_drop: Some(vec!["CHOWN".into(), "SETUID".into()]),
                binds: Some(binds.iter().map(|bind| (*bind).to_owned()).collect()),
                ..asked.clone()
            };
            ContainerInspectResponse { mounts: Some(vec![point]), ..made(host) }
        };
        let judge = |made, flavour| verify(&made, &asked, &config, flavour).missing;
        let bind = "/srv:/data:ro,rprivate,bind";
        assert_eq!(judge(told(&[bind], false), Flavour::Podman), [""; 0]);
        assert_eq!(judge(told(&[bind], true), Flavour::Podman), ["it has other mounts than were asked for"]);
        assert_eq!(judge(told(&[bind, "/:/host"], false), Flavour::Podman), ["its mounts differ"]);
        assert_eq!(judge(told(&[bind], false), Flavour::Docker).len(), 3, "Docker has no reason to tell it so");
    }
}
