//! Links and labels in a bpffs: enforcement outlives the daemon, and the next one takes over.
//!
//! The invariant is that there is no gap: the old links go when the new programs are attached and know all
//! that the old ones knew. A pinned map is reopened by the kernel without a check of its shape, so that the
//! directory must belong to root alone, and the shape is checked here. A map of another version's shape stays
//! with that version's programs; of the labels in it is carried over what both understand.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::maps::{Array, Map, MapData, MapInfo, MapType};
use lazaret_common::settings::Settings;

use super::hooks::Role;
use super::load::{Attached, LABELS};
use super::{KernelError, maps, sys};

const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
const LINK_PREFIX: &str = "link_";
/// Pinned so that `lazaret daemon --detach` can end all enforcement at once.
const SETTINGS: &str = "SETTINGS";

/// Behind the name of a map of another shape, until its daemon's programs are gone.
const BEFORE: &str = "_before";
/// Behind the name of what stands beside its predecessor.
const FRESH: &str = "_new";

/// What tells one version of a map from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) kind: u32,
    pub(super) key: u32,
    pub(super) value: u32,
    pub(super) entries: u32,
}

/// Maps that the next daemon takes over. Labels, or approvals and shadows would be forgotten; the config
/// entries, which the new daemon knows only after it has read the configs again; the messages that were
/// written and not yet read; and what no daemon has written down yet, with the count of what had no room there.
pub(super) const TAKEN_OVER: &[&str] =
    &[LABELS, "ENTRIES", "ENTRY_LENGTHS", "CHANNELS", "PARTIALS", "NOTED", "EVENTS", "COUNTERS"];

/// Makes `dir` in a bpffs and checks that only root can write there. Says whether maps of an
/// earlier daemon are in it.
///
/// The returned file is the lock on the directory: as long as it is open, no other daemon takes
/// over what this one guards.
pub(super) fn prepare(dir: &Path, shapes: &HashMap<String, Shape>) -> Result<(bool, fs::File), KernelError> {
    let failed = |reason: String| KernelError::Pin { path: dir.into(), reason };
    let parent = existing_parent(dir);
    if sys::file_system(&parent).map_err(|e| failed(e.to_string()))? != BPF_FS_MAGIC {
        let root = Path::new("/sys/fs/bpf");
        if !dir.starts_with(root) || !root.is_dir() {
            return Err(failed(format!("{} is not in a bpffs", parent.display())));
        }
        sys::mount_bpffs(root).map_err(|e| failed(format!("no bpffs is mounted on {}: {e}", root.display())))?;
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| failed(e.to_string()))?;
    let meta = fs::symlink_metadata(dir).map_err(|e| failed(e.to_string()))?;
    if !meta.is_dir() || meta.uid() != 0 || meta.mode() & 0o022 != 0 {
        return Err(failed("others than root can write there".into()));
    }
    let lock = fs::File::open(dir).map_err(|e| failed(e.to_string()))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => return Err(KernelError::InUse { path: dir.into() }),
        Err(fs::TryLockError::Error(e)) => return Err(failed(e.to_string())),
    }
    let mut found = false;
    for name in TAKEN_OVER {
        found |= check(dir, name, shapes.get(*name)).map_err(|e| failed(e.to_string()))?;
    }
    Ok((found, lock))
}

fn existing_parent(dir: &Path) -> PathBuf {
    dir.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/")).into()
}

/// Puts a map of another shape aside: one of another version of Lazaret. Says whether there was a map.
fn check(dir: &Path, name: &str, shape: Option<&Shape>) -> io::Result<bool> {
    let path = dir.join(name);
    if !path.exists() {
        return Ok(false);
    }
    let found = MapInfo::from_pin(&path).ok().and_then(|info| {
        let kind = info.map_type().ok()? as u32;
        Some(Shape { kind, key: info.key_size(), value: info.value_size(), entries: info.max_entries() })
    });
    // The kernel rounds nothing, but a map without elements of its own may say 0 or 1.
    let fits = |found: &Shape, shape: &Shape| {
        (found.kind, found.key, found.value) == (shape.kind, shape.key, shape.value)
            && (found.entries == shape.entries || shape.kind == MapType::TaskStorage as u32)
    };
    if !found.zip(shape).is_some_and(|(found, shape)| fits(&found, shape)) {
        tracing::info!("the kernel map {name} is of another version of Lazaret");
        fs::rename(&path, dir.join(format!("{name}{BEFORE}")))?;
    }
    Ok(true)
}

/// The labels of another version, with the sizes that it gave them.
pub(super) fn labels_before(dir: &Path) -> Option<(MapData, MapInfo)> {
    let path = dir.join(format!("{LABELS}{BEFORE}"));
    let info =
        MapInfo::from_pin(&path).ok().filter(|info| info.map_type().is_ok_and(|kind| kind == MapType::TaskStorage));
    Some((MapData::from_pin(&path).ok()?, info?))
}

/// Where the link of a program is pinned.
pub(super) fn link_path(dir: &Path, program: &str) -> PathBuf {
    dir.join(format!("{LINK_PREFIX}{program}"))
}

/// Pins the links of the proven hooks beside those of the daemon before.
pub(super) fn links(dir: &Path, hooks: &mut [Attached]) -> Result<(), KernelError> {
    let failed = |reason: String| KernelError::Pin { path: dir.into(), reason };
    for hook in hooks.iter_mut() {
        // A candidate must not wait for a daemon that has gone, and a door is closed when its daemon ends.
        if matches!(hook.spec.role, Role::Candidates | Role::DoorEnd) {
            continue;
        }
        let Some(link) = hook.link.take() else { continue };
        let fresh = dir.join(format!("{LINK_PREFIX}{}{FRESH}", hook.spec.program));
        let _ = fs::remove_file(&fresh);
        link.pin(&fresh).map_err(failed)?;
        hook.pinned = true;
    }
    Ok(())
}

/// Puts the links in the place of those of the daemon before, and removes what has no successor.
pub(super) fn settle(dir: &Path, hooks: &[Attached]) -> Result<(), KernelError> {
    let failed = |reason: String| KernelError::Pin { path: dir.into(), reason };
    let mut kept = Vec::new();
    for hook in hooks.iter().filter(|hook| hook.pinned) {
        let name = format!("{LINK_PREFIX}{}", hook.spec.program);
        let fresh = dir.join(format!("{name}{FRESH}"));
        if fresh.exists() {
            fs::rename(fresh, dir.join(&name)).map_err(|e| failed(e.to_string()))?;
        }
        kept.push(name);
    }
    for entry in fs::read_dir(dir).map_err(|e| failed(e.to_string()))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(LINK_PREFIX) && !kept.contains(&name) || name.ends_with(BEFORE) {
            fs::remove_file(entry.path()).map_err(|e| failed(e.to_string()))?;
        }
    }
    Ok(())
}

/// Pins the settings of this daemon in place of those of the one before.
pub(super) fn settings(dir: &Path, ebpf: &Ebpf) -> Result<(), KernelError> {
    let failed = |reason: String| KernelError::Pin { path: dir.into(), reason };
    let map = ebpf.map(SETTINGS).ok_or_else(|| maps::missing(SETTINGS))?;
    let fresh = dir.join(format!("{SETTINGS}{FRESH}"));
    let _ = fs::remove_file(&fresh);
    map.pin(&fresh).map_err(|e| failed(super::load::chain(&e)))?;
    fs::rename(&fresh, dir.join(SETTINGS)).map_err(|e| failed(e.to_string()))
}

/// The kernel frees links in its own time; without a scope they do nothing meanwhile.
fn clear_scope(dir: &Path) -> Result<(), KernelError> {
    let path = dir.join(SETTINGS);
    if !path.exists() {
        return Ok(());
    }
    let mut map = MapData::from_pin(path).and_then(Map::from_map_data).map_err(maps::failed(SETTINGS))?;
    let mut array: Array<_, [u8; size_of::<Settings>()]> = Array::try_from(&mut map).map_err(maps::failed(SETTINGS))?;
    array.set(0, [0; size_of::<Settings>()], 0).map_err(maps::failed(SETTINGS))
}

/// Removes everything that is pinned in `dir`, and the directory. Returns how much that was.
pub fn detach_pinned(dir: &Path) -> Result<usize, KernelError> {
    let failed = |reason: String| KernelError::Pin { path: dir.into(), reason };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(e) => return Err(failed(e.to_string())),
    };
    if sys::file_system(dir).map_err(|e| failed(e.to_string()))? != BPF_FS_MAGIC {
        return Err(failed("this is not in a bpffs; nothing was removed".into()));
    }
    clear_scope(dir)?;
    let mut removed = 0;
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(SETTINGS)
            || TAKEN_OVER.iter().any(|taken| name.strip_suffix(BEFORE).unwrap_or(&name) == *taken)
            || name.starts_with(LINK_PREFIX)
        {
            fs::remove_file(entry.path()).map_err(|e| failed(e.to_string()))?;
            removed += 1;
        }
    }
    fs::remove_dir(dir).map_err(|e| failed(e.to_string()))?;
    Ok(removed)
}
