//! Links and labels in a bpffs: enforcement outlives the daemon, and the next one takes over.
//!
//! The invariant is that there is no gap: new programs are attached before the old links go.
//! A pinned map is reopened by the kernel without a check of its shape, so that the directory must
//! belong to root alone, and the shape is checked here.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::maps::{Array, Map, MapData, MapInfo, MapType};
use lazaret_common::label::Label;
use lazaret_common::settings::{EntryKey, Settings};

use super::load::{Attached, LABELS};
use super::{KernelError, maps, sys};

const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
const LINK_PREFIX: &str = "link_";
/// Pinned so that `lazaret daemon --detach` can end all enforcement at once.
const SETTINGS: &str = "SETTINGS";

/// A map that the next daemon takes over.
pub(super) struct Shape {
    pub(super) name: &'static str,
    kind: MapType,
    key: u32,
    value: u32,
}

/// Labels, or approvals and shadows would be forgotten; and the config entries, which the new
/// daemon knows only after it has read the configs again.
pub(super) const TAKEN_OVER: &[Shape] = &[
    Shape { name: LABELS, kind: MapType::TaskStorage, key: 4, value: size_of::<Label>() as u32 },
    Shape { name: "ENTRIES", kind: MapType::Hash, key: size_of::<EntryKey>() as u32, value: 8 },
    Shape { name: "ENTRY_LENGTHS", kind: MapType::Hash, key: 4, value: 4 },
];

/// Makes `dir` in a bpffs and checks that only root can write there. Says whether maps of an
/// earlier daemon are in it.
///
/// The returned file is the lock on the directory: as long as it is open, no other daemon takes
/// over what this one guards.
pub(super) fn prepare(dir: &Path) -> Result<(bool, fs::File), KernelError> {
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
    for shape in TAKEN_OVER {
        found |= check(&dir.join(shape.name), shape).map_err(|e| failed(e.to_string()))?;
    }
    Ok((found, lock))
}

fn existing_parent(dir: &Path) -> PathBuf {
    dir.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/")).into()
}

/// Removes a map of another shape: one of another version of Lazaret. Says whether one is left.
fn check(path: &Path, shape: &Shape) -> io::Result<bool> {
    if !path.exists() {
        return Ok(false);
    }
    let fits = MapInfo::from_pin(path).is_ok_and(|info| {
        info.map_type().is_ok_and(|kind| kind == shape.kind)
            && (info.key_size(), info.value_size()) == (shape.key, shape.value)
    });
    if !fits {
        fs::remove_file(path)?;
    }
    Ok(fits)
}

/// Pins the links of the proven hooks over those of the daemon before, and removes the ones that
/// have no successor.
pub(super) fn links(dir: &Path, hooks: &mut [Attached]) -> Result<(), KernelError> {
    let failed = |reason: String| KernelError::Pin { path: dir.into(), reason };
    let mut kept = Vec::new();
    for hook in hooks.iter_mut() {
        let Some(link) = hook.link.take() else { continue };
        let name = format!("{LINK_PREFIX}{}", hook.spec.program);
        let fresh = dir.join(format!("{name}_new"));
        let _ = fs::remove_file(&fresh);
        link.pin(&fresh).map_err(|e| failed(super::load::chain(&e)))?;
        fs::rename(&fresh, dir.join(&name)).map_err(|e| failed(e.to_string()))?;
        hook.pinned = true;
        kept.push(name);
    }
    for entry in fs::read_dir(dir).map_err(|e| failed(e.to_string()))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(LINK_PREFIX) && !kept.contains(&name) {
            fs::remove_file(entry.path()).map_err(|e| failed(e.to_string()))?;
        }
    }
    Ok(())
}

/// Pins the settings of this daemon in place of those of the one before.
pub(super) fn settings(dir: &Path, ebpf: &Ebpf) -> Result<(), KernelError> {
    let failed = |reason: String| KernelError::Pin { path: dir.into(), reason };
    let map = ebpf.map(SETTINGS).ok_or_else(|| maps::missing(SETTINGS))?;
    let fresh = dir.join(format!("{SETTINGS}_new"));
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
            || TAKEN_OVER.iter().any(|shape| shape.name == name)
            || name.starts_with(LINK_PREFIX)
        {
            fs::remove_file(entry.path()).map_err(|e| failed(e.to_string()))?;
            removed += 1;
        }
    }
    fs::remove_dir(dir).map_err(|e| failed(e.to_string()))?;
    Ok(removed)
}
