//! A scope as the kernel compares it with the current task.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use lazaret_common::settings::{SCOPE_CGROUP, SCOPE_HOST, SCOPE_UID, Settings};

use super::{KernelError, sys};
use crate::config::Scope;

const CGROUP2_MAGIC: i64 = 0x6367_7270;

pub(super) fn apply(scope: &Scope, settings: &mut Settings) -> Result<(), KernelError> {
    let failed = |reason: String| KernelError::Scope { scope: scope.to_string(), reason };
    match scope {
        Scope::Host => settings.scope = SCOPE_HOST,
        Scope::Uid(uid) => {
            settings.scope = SCOPE_UID;
            settings.scope_uid = *uid;
        }
        Scope::Cgroup(path) => {
            let path = in_hierarchy(path).map_err(failed)?;
            settings.scope = SCOPE_CGROUP;
            // On 64-bit kernels the inode number of the directory is the cgroup's id.
            settings.scope_cgroup = std::fs::metadata(&path).map_err(|e| failed(e.to_string()))?.ino();
            let mounts = std::fs::read_to_string("/proc/self/mountinfo").map_err(|e| failed(e.to_string()))?;
            settings.scope_level = level(&mounts, &path).ok_or_else(|| failed("its mount was not found".into()))?;
        }
    }
    Ok(())
}

/// Whether a process is in scope by what it is now. One that was born there and moved out has a label.
pub(super) fn contains(scope: &Scope, pid: u32) -> bool {
    match scope {
        Scope::Host => true,
        Scope::Uid(uid) => real_uid(pid) == Some(*uid),
        Scope::Cgroup(path) => {
            in_hierarchy(path).is_ok_and(|scope| cgroup_of(pid).is_some_and(|dir| dir.starts_with(scope)))
        }
    }
}

pub(super) fn real_uid(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next()?.parse().ok())
}

/// The directory of the process's cgroup in the v2 hierarchy, without symbolic links.
pub(super) fn cgroup_of(pid: u32) -> Option<PathBuf> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounted(&mounts, Path::new(path))?.canonicalize().ok()
}

/// Where the cgroup that `/proc/PID/cgroup` names `path` is mounted. `None` for one that is not below the mount: where
/// only a part of the hierarchy is mounted, most of it is not.
fn mounted(mountinfo: &str, path: &Path) -> Option<PathBuf> {
    mountinfo
        .lines()
        .filter(|line| line.split_once(" - ").is_some_and(|(_, kind)| kind.starts_with("cgroup2 ")))
        .find_map(|line| {
            let mut fields = line.split(' ').skip(3);
            let root = fields.next()?;
            Some(Path::new(fields.next()?).join(path.strip_prefix(root).ok()?))
        })
}

/// The directory in the cgroup v2 hierarchy: named by its path, or as `/proc/PID/cgroup` names it.
fn in_hierarchy(path: &Path) -> Result<PathBuf, String> {
    let named = path.canonicalize();
    let below = cgroup_root().and_then(|root| root.join(path.strip_prefix("/").unwrap_or(path)).canonicalize().ok());
    let is_v2 = |path: &PathBuf| sys::file_system(path).is_ok_and(|magic| magic == CGROUP2_MAGIC);
    match (named, below) {
        (Ok(named), _) if is_v2(&named) => Ok(named),
        (_, Some(below)) if is_v2(&below) => Ok(below),
        (Ok(_), _) => Err("it is not in the cgroup v2 hierarchy".into()),
        (Err(e), _) => Err(e.to_string()),
    }
}

/// Depth of `path` below the root of the cgroup v2 hierarchy.
fn level(mountinfo: &str, path: &Path) -> Option<u32> {
    let (root, below) = mountinfo
        .lines()
        .filter(|line| line.split_once(" - ").is_some_and(|(_, kind)| kind.starts_with("cgroup2 ")))
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(3);
            let root = PathBuf::from(fields.next()?);
            let below = path.strip_prefix(fields.next()?).ok()?;
            Some((root, below.to_path_buf()))
        })
        .min_by_key(|(_, below)| below.components().count())?;
    let names = |path: &Path| path.components().filter(|c| matches!(c, Component::Normal(_))).count() as u32;
    // Outside of this cgroup namespace nothing can be counted.
    (!root.components().any(|c| c == Component::ParentDir)).then(|| names(&root) + names(&below))
}

/// Where the cgroup v2 hierarchy is mounted: `/sys/fs/cgroup`, or `unified` below it.
pub(super) fn cgroup_root() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts
        .lines()
        .filter(|line| line.split_once(" - ").is_some_and(|(_, kind)| kind.starts_with("cgroup2 ")))
        .find_map(|line| line.split(' ').nth(4).map(PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_outside_of_the_hierarchy_is_no_scope() {
        assert!(in_hierarchy(Path::new("/tmp")).is_err());
        assert!(in_hierarchy(Path::new("/no/such/cgroup")).is_err());
    }

    const HYBRID: &str = "30 25 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
        31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw\n\
        32 30 0:28 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n";

    #[test]
    fn a_cgroup_above_a_mount_of_a_part_is_not_taken_for_the_part() {
        let part = "31 30 0:27 /run-1 /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(mounted(part, Path::new("/run-1/judged")), Some("/sys/fs/cgroup/judged".into()));
        assert_eq!(mounted(part, Path::new("/run-1")), Some("/sys/fs/cgroup".into()));
        for other in ["/", "/run-10", "/system.slice/ssh.service"] {
            assert_eq!(mounted(part, Path::new(other)), None, "{other}");
        }
        assert_eq!(mounted(HYBRID, Path::new("/a")), Some("/sys/fs/cgroup/unified/a".into()));
    }

    #[test]
    fn the_level_counts_from_the_mount_wherever_it_is() {
        assert_eq!(level(HYBRID, Path::new("/sys/fs/cgroup/unified")), Some(0));
        assert_eq!(level(HYBRID, Path::new("/sys/fs/cgroup/unified/a/b")), Some(2));
        assert_eq!(level(HYBRID, Path::new("/sys/fs/cgroup/pids/a")), None);
        let inner = "31 30 0:27 /docker/x /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(level(inner, Path::new("/sys/fs/cgroup/a")), Some(3));
    }
}
