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
    fn the_level_counts_from_the_mount_wherever_it_is() {
        assert_eq!(level(HYBRID, Path::new("/sys/fs/cgroup/unified")), Some(0));
        assert_eq!(level(HYBRID, Path::new("/sys/fs/cgroup/unified/a/b")), Some(2));
        assert_eq!(level(HYBRID, Path::new("/sys/fs/cgroup/pids/a")), None);
        let inner = "31 30 0:27 /docker/x /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(level(inner, Path::new("/sys/fs/cgroup/a")), Some(3));
    }
}
