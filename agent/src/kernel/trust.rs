//! Which executables are the door, and which tools pass messages on without serving them.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use lazaret_common::environment;
use lazaret_common::label::{FOR_ROOT, INERT, REWRITES, TRUSTED};
use lazaret_common::plain::Plain as _;
use lazaret_common::settings::ExecutableKey;

use super::load::Loaded;
use super::{KernelError, maps, sys};

/// An executable and how the kernel numbers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Executable {
    pub(super) path: PathBuf,
    pub(super) key: ExecutableKey,
    /// As `stat` shows them, to find processes that already run it.
    stat: (u64, u64),
    pub(super) uid: u32,
    /// Somebody other than root can put another program in its place.
    pub(super) replaceable: bool,
    /// Trusted where root runs it, and nowhere else.
    for_root: bool,
}

/// `None` if there is no such file.
pub(super) fn identify(path: &Path) -> Option<Executable> {
    let file = fs::File::open(path).ok()?;
    let meta = file.metadata().ok().filter(fs::Metadata::is_file)?;
    let (dev, inode) = sys::kernel_identity(&file).ok()?;
    Some(Executable {
        path: path.into(),
        key: ExecutableKey { inode, dev, uid: meta.uid() },
        stat: (meta.dev(), meta.ino()),
        uid: meta.uid(),
        replaceable: meta.uid() != 0 || meta.mode() & 0o022 != 0,
        for_root: false,
    })
}

/// The executables at `paths` that are trusted: `own` is the door itself, for everybody; all others carry its
/// messages, as root's services.
pub(super) fn trusted(paths: &[PathBuf], own: Option<&Path>) -> Vec<Executable> {
    let mut found: Vec<Executable> = paths.iter().filter_map(|path| identify(path)).collect();
    for executable in &mut found {
        executable.for_root = Some(executable.path.as_path()) != own;
    }
    // Somebody else could put another program there: trusted only where it is this very binary.
    found.retain(|executable| !executable.replaceable || !executable.for_root);
    found.dedup_by(|a, b| a.key == b.key);
    found
}

/// Tells the kernel of trusted executables and of text tools.
pub(super) fn write(
    loaded: &mut Loaded,
    trusted: &[Executable],
    inert: &[Executable],
    rewriting: &[Executable],
) -> Result<(), KernelError> {
    const KEY: usize = size_of::<ExecutableKey>();
    let mut table = maps::table::<KEY, 4>(&mut loaded.ebpf, "EXECUTABLES")?;
    let trusted =
        trusted.iter().map(|executable| (executable, TRUSTED | if executable.for_root { FOR_ROOT } else { 0 }));
    let inert = inert.iter().map(|executable| (executable, INERT));
    let rewriting = rewriting.iter().map(|executable| (executable, REWRITES));
    for (executable, flags) in inert.chain(rewriting).chain(trusted) {
        table.put_bytes(bytes(executable), flags.to_ne_bytes())?;
    }
    Ok(())
}

/// What was replaced is trusted no more: its number may come to be another file's.
pub(super) fn forget(loaded: &mut Loaded, gone: &[Executable]) -> Result<(), KernelError> {
    const KEY: usize = size_of::<ExecutableKey>();
    let mut table = maps::table::<KEY, 4>(&mut loaded.ebpf, "EXECUTABLES")?;
    gone.iter().for_each(|executable| table.remove(bytes(executable)));
    Ok(())
}

fn bytes(executable: &Executable) -> [u8; size_of::<ExecutableKey>()] {
    let mut key = [0; size_of::<ExecutableKey>()];
    key.copy_from_slice(executable.key.bytes());
    key
}

/// The root-owned tools of these names in the usual directories. On a system where one program
/// stands for many names, what excuses one would excuse all of them: such are left out.
pub(super) fn tools(names: &[String]) -> Vec<Executable> {
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

/// Processes that run one of the executables now, and nothing else in the same memory.
pub(super) fn running(executables: &[Executable]) -> Vec<u32> {
    let runs = |pid: &u32| {
        let stat = fs::metadata(format!("/proc/{pid}/exe")).map(|meta| (meta.dev(), meta.ino())).ok()?;
        executables.iter().find(|executable| executable.stat == stat)
    };
    processes().filter(|pid| runs(pid).is_some_and(|executable| deserves(*pid, executable))).collect()
}

/// As the kernel judges a new image, as far as that can be seen afterwards.
fn deserves(pid: u32, executable: &Executable) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)?.split_ascii_whitespace().next()?.parse::<u32>().ok())
    };
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/user")).ok();
    if namespace(&pid.to_string()).is_none_or(|theirs| Some(theirs) != namespace("self")) {
        return false;
    }
    if executable.for_root {
        return field("Uid:") == Some(0);
    }
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let name = |variable: &[u8]| variable.split(|byte| *byte == b'=').next().unwrap_or_default().to_vec();
    field("TracerPid:") == Some(0)
        && !environment.split(|byte| *byte == 0).any(|variable| environment::loads_code(&name(variable)))
        && fs::read_to_string(format!("/proc/{pid}/maps")).is_ok_and(|maps| only_roots_code(pid, &maps, executable))
}

/// Whether every executable mapping is of the executable itself or of a file that only root can change.
fn only_roots_code(pid: u32, maps: &str, executable: &Executable) -> bool {
    maps.lines().all(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (Some(range), Some(rights)) = (fields.next(), fields.next()) else { return false };
        let name = fields.nth(3).unwrap_or_default();
        if !rights.contains('x') || matches!(name, "[vdso]" | "[vsyscall]") {
            return true;
        }
        fs::metadata(format!("/proc/{pid}/map_files/{range}")).is_ok_and(|meta| {
            (meta.dev(), meta.ino()) == executable.stat || meta.uid() == 0 && meta.mode() & 0o022 == 0
        })
    })
}

pub(super) fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_door_itself_is_trusted_for_everybody() {
        let own = std::env::current_exe().unwrap();
        let found = trusted(&[own.clone(), "/proc/self/exe/none".into(), "/bin/sh".into()], Some(&own));
        assert!(found.iter().all(|executable| executable.for_root != (executable.path == own)));
        assert!(found.iter().any(|executable| executable.path == own), "{found:?}");
    }

    #[test]
    fn a_process_with_strange_code_in_it_is_not_the_door() {
        let own = identify(&std::env::current_exe().unwrap()).unwrap();
        let pid = std::process::id();
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        if sys::kernel_release().is_empty() || fs::metadata("/proc/self/map_files").is_err() {
            return;
        }
        assert!(only_roots_code(pid, "", &own));
        assert!(!only_roots_code(pid, "7f0000000000-7f0000001000 r-xp 00000000 00:00 0 \n", &own), "anonymous code");
        assert!(maps.lines().any(|line| line.contains("r-xp")));
    }
}
