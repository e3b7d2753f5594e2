//! A cgroup of its own, so that a test's daemon judges the test's processes and nobody else's.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

pub struct Scope {
    path: PathBuf,
}

/// Where the cgroup v2 hierarchy is mounted: `/sys/fs/cgroup`, or below it on a hybrid host.
pub fn hierarchy() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/mounts").ok()?;
    let v2 = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&"cgroup2"))?;
    v2.get(1).map(PathBuf::from)
}

impl Scope {
    #[expect(clippy::new_without_default, reason = "making one changes the host")]
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("lazaret-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = hierarchy().expect("a cgroup v2 hierarchy is mounted").join(name);
        std::fs::create_dir(&path).unwrap_or_else(|e| panic!("cannot make the cgroup {}: {e}", path.display()));
        Self { path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `program`, whose image is executed after the process has moved into the scope.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", r#"echo $$ > "$0/cgroup.procs" && exec "$@""#]).arg(&self.path).arg(program);
        command
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        // Linux 5.14; without it the processes end one by one when their pipes close.
        let _ = std::fs::write(self.path.join("cgroup.kill"), "1");
        let removed = crate::poll(super::PATIENCE, || std::fs::remove_dir(&self.path).ok());
        if removed.is_none() {
            eprintln!("cannot remove the cgroup {}: processes in it do not end", self.path.display());
        }
    }
}
