//! The guest's scenarios on this machine's own kernel, without QEMU: what no stock kernel shows, and what this very
//! host can do.
//!
//! Invariant: the run has a cgroup of its own, which is the whole world to its daemons (`guest/place.rs`), and when it
//! is over its processes and its cgroup have gone. Its files, mounts and pins are in a mount namespace that ends with
//! its last process.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::host::cgroup_hierarchy;
use crate::poll;
use crate::qemu::{self, BedError, Boot};

const NAME: &str = "lazaret-bed-";
/// How long killed processes may take to go.
const GONE: Duration = Duration::from_secs(30);

pub fn run(initramfs: &Path, only: &[String], echo: impl Fn(&str)) -> Result<Boot, BedError> {
    if fs::metadata("/proc/self").is_ok_and(|own| own.uid() != 0) {
        return Err(BedError::Missing("it loads kernel programs, which needs root".into()));
    }
    let hierarchy = cgroup_hierarchy()
        .ok_or_else(|| BedError::Missing("no cgroup v2 hierarchy is mounted: there is no scope to keep to".into()))?;
    sweep(&hierarchy);
    let cgroup = Cgroup::new(hierarchy.join(format!("{NAME}{}", std::process::id())))?;
    let broken = |what: &str, e: std::io::Error| BedError::Broken(format!("cannot {what}: {e}"));
    let root = qemu::work_dir().join("host-root");
    fs::create_dir_all(&root).map_err(|e| broken("make the mount point of the host run", e))?;
    let script = qemu::work_dir().join("host.sh");
    fs::write(&script, include_str!("guest/host.sh")).map_err(|e| broken("write the host run's script", e))?;
    let console = qemu::work_dir().join("host.console");
    let stderr = fs::File::create(&console).map_err(|e| broken("make the host run's console", e))?;

    let mut runner = Command::new("timeout")
        .args(["--kill-after=5", qemu::DEADLINE_SECS])
        .args(["unshare", "--mount", "--net", "--ipc", "--propagation", "private", "/bin/sh"])
        .args([&script, &root, &cgroup.0, initramfs, qemu::busybox()?])
        .arg(qemu::chosen(only))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .map_err(|e| broken("run timeout(1)", e))?;
    let log = qemu::work_dir().join("host.log");
    let collected = runner.stdout.take().map(|stdout| qemu::collect(stdout, log.clone(), echo)).transpose();
    let status = runner.wait().map_err(|e| broken("wait for the host run", e))?;
    drop(cgroup);
    match collected? {
        Some((boot, true)) => Ok(boot),
        _ => Err(BedError::Broken(format!(
            "the run on this host did not come to its end ({status}); its results: {}; the end of {}:\n{}",
            log.display(),
            console.display(),
            qemu::tail(&console, 30)
        ))),
    }
}

/// What runs that were themselves killed have left.
fn sweep(hierarchy: &Path) {
    for entry in fs::read_dir(hierarchy).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(NAME));
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            drop(Cgroup(entry.path()));
        }
    }
}

struct Cgroup(PathBuf);

impl Cgroup {
    fn new(path: PathBuf) -> Result<Self, BedError> {
        fs::create_dir(&path)
            .map_err(|e| BedError::Broken(format!("cannot make the cgroup {}: {e}", path.display())))?;
        Ok(Self(path))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Linux 5.14, and everything below it.
        if let Err(e) = fs::write(self.0.join("cgroup.kill"), "1") {
            eprintln!("cannot end the processes in {}: {e}", self.0.display());
        }
        if poll(GONE, || remove(&self.0).ok()).is_none() {
            eprintln!("cannot remove the cgroup {}: processes in it do not end", self.0.display());
        }
    }
}

/// Removes a cgroup and those below it; one with a process in it stays.
fn remove(path: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(path)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}
