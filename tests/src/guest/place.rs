//! Where the scenarios run: in a guest that is theirs alone, or on a host among other people's processes.
//!
//! Invariant: on a host no daemon ever judges anything but the cgroup of this run. What is "the whole host" to a
//! session is that cgroup there, and a session whose scope cannot be cut down to it does not run.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::report::{Check, ensure};

/// Made by `host.sh` in the root that it enters; holds what a guest has on its kernel's command line.
const MARKER: &str = "/on-the-host";
/// The run's own cgroup, mounted in the place of the hierarchy's root.
const CGROUP: &str = "/sys/fs/cgroup";
/// The id of the root of every cgroup hierarchy.
const ROOT_CGROUP: u64 = 1;

pub fn is_the_host() -> bool {
    Path::new(MARKER).exists()
}

pub fn command_line() -> String {
    let file = if is_the_host() { MARKER } else { "/proc/cmdline" };
    fs::read_to_string(file).unwrap_or_default()
}

/// The scope that a daemon gets where a session asks for `scope`.
pub fn scope(scope: &str) -> Result<String, String> {
    if !is_the_host() {
        return Ok(scope.to_owned());
    }
    fenced()?;
    match scope.strip_prefix("cgroup:") {
        Some(path) if Path::new(path).starts_with(CGROUP) => Ok(scope.to_owned()),
        None if scope == "host" => Ok(format!("cgroup:{CGROUP}")),
        _ => Err(format!("on a host there is no daemon with the scope {scope}: it would judge what is not this run's")),
    }
}

/// `Err` unless `CGROUP` is a cgroup of this run's own and this process is in it.
pub fn fenced() -> Check {
    let read = |path: &str| fs::read_to_string(path).map_err(|e| format!("cannot read {path}: {e}"));
    let id = fs::metadata(CGROUP).map_err(|e| format!("cannot look at {CGROUP}: {e}"))?.ino();
    // The root of a hierarchy has no type.
    ensure(id != ROOT_CGROUP && Path::new(CGROUP).join("cgroup.type").exists(), || {
        format!("{CGROUP} is the root of the hierarchy: every process of the host is in it")
    })?;
    let mounts = read("/proc/self/mountinfo")?;
    let mounted = mounts.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        (fields.get(4) == Some(&CGROUP)).then(|| fields.get(3).map(|root| (*root).to_owned()))?
    });
    let mounted = mounted.ok_or_else(|| format!("nothing is mounted on {CGROUP}"))?;
    let own = read("/proc/self/cgroup")?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default();
    ensure(mounted.len() > 1 && own == mounted, || format!("{mounted:?} is judged, and this process is in {own:?}"))
}
