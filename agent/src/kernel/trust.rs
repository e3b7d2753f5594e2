//! Which executables are the door, and which tools pass messages on without serving them.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use lazaret_common::settings::ExecutableKey;

use super::sys;

/// An executable and how the kernel numbers it.
pub(super) struct Executable {
    pub(super) path: PathBuf,
    pub(super) key: ExecutableKey,
    /// As `stat` shows them, to find processes that already run it.
    stat: (u64, u64),
    pub(super) uid: u32,
    /// Somebody other than root can put another program in its place.
    pub(super) replaceable: bool,
}

/// `None` if there is no such file.
pub(super) fn identify(path: &Path) -> Option<Executable> {
    let file = fs::File::open(path).ok()?;
    let meta = file.metadata().ok().filter(fs::Metadata::is_file)?;
    let (dev, inode) = sys::kernel_identity(&file).ok()?;
    Some(Executable {
        path: path.into(),
        key: ExecutableKey { inode, dev, reserved: 0 },
        stat: (meta.dev(), meta.ino()),
        uid: meta.uid(),
        replaceable: meta.uid() != 0 || meta.mode() & 0o022 != 0,
    })
}

/// The root-owned tools of these names in the usual directories. On a system where one program
/// stands for many names, being inert would excuse all of them: such are left out.
pub(super) fn inert(names: &[String]) -> Vec<Executable> {
    let mut found: Vec<Executable> = ["/usr/bin", "/bin", "/usr/local/bin"]
        .iter()
        .flat_map(|dir| names.iter().map(move |name| (Path::new(dir).join(name), name)))
        .filter(|(path, name)| fs::canonicalize(path).is_ok_and(|real| real.ends_with(name)))
        .filter_map(|(path, _)| identify(&path))
        .filter(|executable| !executable.replaceable && links(&executable.path) == 1)
        .collect();
    found.dedup_by(|a, b| a.key == b.key);
    found
}

fn links(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |meta| meta.nlink())
}

/// Processes that run one of the executables now.
pub(super) fn running(executables: &[Executable]) -> Vec<u32> {
    processes()
        .filter(|pid| {
            fs::metadata(format!("/proc/{pid}/exe"))
                .is_ok_and(|meta| executables.iter().any(|e| e.stat == (meta.dev(), meta.ino())))
        })
        .collect()
}

pub(super) fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The parent's pid.
pub(super) fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, brackets included; what follows the last one is fixed.
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}
