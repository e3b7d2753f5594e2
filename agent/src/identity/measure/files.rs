//! Reads files of a user on the user's behalf, as root.
//!
//! Invariants: a file of another user is never read, whatever links lead to it: only the user's own files and root's
//! that everybody may read; nothing but a regular file is opened for reading, so that nobody is waited for; what is
//! not read for such a reason, or not as a whole, says so in place of a digest.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstatfs, openat, openat2};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::select::Selection;

/// Of a larger file this much is measured, and its size.
pub(super) const MAX_FILE: u64 = 16 << 20;
/// The same for executables.
pub(super) const MAX_EXECUTABLE: u64 = 2 << 30;
/// Digests that are remembered.
const MAX_DIGESTS: usize = 8192;
/// A file that was changed so recently may change again within the same tick of its clock.
const RACY: Duration = Duration::from_millis(50);

/// Tells one content of a file from the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Stamp {
    dev: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(super) fn of(meta: &Metadata) -> Self {
        Self {
            dev: meta.dev(),
            inode: meta.ino(),
            size: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    fn is_racy(&self) -> bool {
        let changed = u64::try_from(self.changed.0).unwrap_or(0);
        let changed = UNIX_EPOCH + Duration::new(changed, u32::try_from(self.changed.1).unwrap_or(0));
        // A time in the future is not to be trusted either.
        SystemTime::now().duration_since(changed).map_or(true, |age| age < RACY)
    }
}

/// Digests of contents by what tells one from the next; shared by all sessions.
#[derive(Debug, Default)]
pub struct Digests(Mutex<HashMap<(Stamp, String), String>>);

impl Digests {
    /// The digest of a regular file, in `way`: the whole of it, or some members.
    fn of(&self, file: &mut File, limit: u64, selection: Option<&Selection<'_>>) -> std::io::Result<String> {
        let stamp = Stamp::of(&file.metadata()?);
        let key = (stamp, selection.map(Selection::key).unwrap_or_default());
        if let Some(digest) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(digest.clone());
        }
        let digest = match selection.filter(|_| stamp.size <= limit) {
            Some(selection) => {
                let mut bytes = Vec::new();
                file.take(limit).read_to_end(&mut bytes)?;
                selection.digest(&bytes)
            }
            None => whole(file, stamp.size, limit)?,
        };
        if Stamp::of(&file.metadata()?) == stamp && !stamp.is_racy() {
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() >= MAX_DIGESTS {
                known.clear();
            }
            known.insert(key, digest.clone());
        }
        Ok(digest)
    }

    /// Path, digest and stamp of an executable, whoever owns it.
    pub(super) fn executable(&self, executable: Executable) -> (PathBuf, String, Stamp) {
        let Executable { path, mut file, stamp } = executable;
        let digest = self.of(&mut file, MAX_EXECUTABLE, None).unwrap_or_else(|e| unmeasured(&e.to_string()));
        (path, digest, stamp)
    }
}

/// The executable that a process runs.
pub(super) struct Executable {
    path: PathBuf,
    file: File,
    stamp: Stamp,
}

impl Executable {
    pub(super) fn of(pid: u32) -> Option<Self> {
        let link = format!("/proc/{pid}/exe");
        let path = std::fs::read_link(&link).ok()?;
        let file = File::open(&link).ok()?;
        let stamp = Stamp::of(&file.metadata().ok()?);
        // An upgrade takes the file's name away while it runs; what runs is the same.
        let path = path.to_str().and_then(|path| path.strip_suffix(" (deleted)")).map_or(path.clone(), PathBuf::from);
        Some(Self { path, file, stamp })
    }
}

fn whole(file: &mut File, size: u64, limit: u64) -> std::io::Result<String> {
    let mut hash = Sha256::new();
    let mut chunk = vec![0; 256 << 10];
    let mut source = file.take(limit);
    loop {
        match source.read(&mut chunk)? {
            0 => break,
            read => hash.update(&chunk[..read]),
        }
    }
    if size > limit {
        hash.update(size.to_le_bytes());
        return Ok(format!("sha256-of-first-{limit}-bytes-and-size:{}", hex::encode(hash.finalize())));
    }
    Ok(format!("sha256:{}", hex::encode(hash.finalize())))
}

/// What stands in place of a digest.
pub(super) fn unmeasured(why: &str) -> String {
    format!("unmeasured: {why}")
}

/// What a look at a path found.
#[derive(Debug, PartialEq)]
pub(super) enum Found {
    Nothing,
    Measured(String, Stamp),
    Unmeasured(String),
}

/// What is in a directory.
pub(super) struct Listing {
    /// Sorted, with whether each is a directory, or a link to one.
    pub(super) names: Vec<(OsString, bool)>,
    /// Those are all.
    pub(super) whole: bool,
    pub(super) stamp: Stamp,
}

/// Whether reading would wait for a user's own program (FUSE), which may never answer.
fn waits_for_a_process(file: &File) -> bool {
    const FUSE: i64 = 0x6573_5546;
    fstatfs(file).is_ok_and(|fs| fs.f_type == FUSE)
}

/// Files as one process sees them, for one user.
pub(super) struct Files<'a> {
    root: OwnedFd,
    /// Where that root is for this process, for a plain stat.
    prefix: PathBuf,
    uid: u32,
    digests: &'a Digests,
}

impl<'a> Files<'a> {
    /// Through the eyes of `pid`, which may live in another mount namespace or below another root.
    pub(super) fn of(pid: u32, uid: u32, digests: &'a Digests) -> Option<Self> {
        let theirs = PathBuf::from(format!("/proc/{pid}/root"));
        let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
        let same = namespace(&pid.to_string()) == namespace("self")
            && std::fs::read_link(&theirs).ok() == std::fs::read_link("/proc/self/root").ok();
        let prefix = if same { PathBuf::new() } else { theirs };
        let at: &Path = if same { Path::new("/") } else { &prefix };
        let root = openat(CWD, at, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        Some(Self { root, prefix, uid, digests })
    }

    /// A path as it is to be given to `stat`.
    pub(super) fn seen_from_here(&self, path: &Path) -> PathBuf {
        if self.prefix.as_os_str().is_empty() {
            return path.into();
        }
        self.prefix.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// A descriptor that can be looked at and not read; links are followed below the process's own root, those of
    /// `/proc` are not.
    fn look(&self, path: &Path) -> rustix::io::Result<File> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        openat2(&self.root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve).map(File::from)
    }

    pub(super) fn measure(&self, path: &Path, selection: Option<&Selection<'_>>) -> Found {
        let looked = match self.look(path) {
            Ok(looked) => looked,
            Err(Errno::NOENT | Errno::NOTDIR) => return Found::Nothing,
            Err(Errno::LOOP) => return Found::Unmeasured(unmeasured("too many links")),
            Err(e) => return Found::Unmeasured(unmeasured(&e.to_string())),
        };
        self.read(&looked, selection).unwrap_or_else(|e| Found::Unmeasured(unmeasured(&e.to_string())))
    }

    fn read(&self, looked: &File, selection: Option<&Selection<'_>>) -> std::io::Result<Found> {
        let meta = looked.metadata()?;
        if meta.is_dir() {
            return Ok(Found::Nothing);
        }
        if !meta.is_file() {
            return Ok(Found::Unmeasured(unmeasured("not a regular file")));
        }
        if waits_for_a_process(looked) {
            return Ok(Found::Unmeasured(unmeasured("on a file system that a process serves")));
        }
        if !self.may_read(&meta) {
            return Ok(Found::Unmeasured(unmeasured(&format!("a file of uid {}", meta.uid()))));
        }
        let mut file = File::open(format!("/proc/self/fd/{}", looked.as_raw_fd()))?;
        let digest = self.digests.of(&mut file, MAX_FILE, selection)?;
        Ok(Found::Measured(digest, Stamp::of(&meta)))
    }

    /// The first bytes of a file that may be measured.
    pub(super) fn head(&self, path: &Path, most: u64) -> Option<Vec<u8>> {
        let looked = self.look(path).ok()?;
        let meta = looked.metadata().ok()?;
        if !meta.is_file() || waits_for_a_process(&looked) || !self.may_read(&meta) {
            return None;
        }
        let file = File::open(format!("/proc/self/fd/{}", looked.as_raw_fd())).ok()?;
        let mut bytes = Vec::new();
        file.take(most).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    fn may_read(&self, meta: &Metadata) -> bool {
        meta.uid() == self.uid || (meta.uid() == 0 && meta.mode() & 0o004 != 0)
    }

    /// A directory of the user's or root's; at most `limit` names.
    pub(super) fn list(&self, dir: &Path, limit: usize) -> Option<Listing> {
        let looked = self.look(dir).ok()?;
        let meta = looked.metadata().ok()?;
        if !meta.is_dir() || waits_for_a_process(&looked) || (meta.uid() != self.uid && meta.uid() != 0) {
            return None;
        }
        let mut names = Vec::new();
        let mut whole = true;
        for entry in std::fs::read_dir(format!("/proc/self/fd/{}", looked.as_raw_fd())).ok()?.flatten() {
            if names.len() == limit {
                whole = false;
                break;
            }
            let leads_to_dir = || self.look(&dir.join(entry.file_name())).ok()?.metadata().ok();
            let is_dir = entry.file_type().is_ok_and(|kind| {
                kind.is_dir() || (kind.is_symlink() && leads_to_dir().is_some_and(|meta| meta.is_dir()))
            });
            names.push((entry.file_name(), is_dir));
        }
        names.sort();
        Some(Listing { names, whole, stamp: Stamp::of(&meta) })
    }

    /// Where a path leads in the end.
    pub(super) fn resolve(&self, path: &Path) -> Option<PathBuf> {
        let looked = self.look(path).ok()?;
        let real = std::fs::read_link(format!("/proc/self/fd/{}", looked.as_raw_fd())).ok()?;
        // In another mount namespace the name that the kernel gives may be none of ours: the link's own is kept.
        if self.prefix.as_os_str().is_empty() { Some(real) } else { Some(path.into()) }
    }
}

#[cfg(test)]
mod tests;
