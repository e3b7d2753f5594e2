//! Copies a directory or a file of the host into a builder, and says exactly what was copied.
//!
//! The daemon reads with more rights than whoever owns the directory, who may change it
//! meanwhile. So links are copied as links and must stay inside, and each opened file is checked
//! to lie where it was listed: no swap makes the daemon read something else. The path itself may
//! be made to lead elsewhere: nothing is copied that the path's owner could not read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, oneshot};

use super::builder::{Tar, header};

const MAX_BYTES: u64 = 512 << 20;
const MAX_FILES: usize = 100_000;
/// Longest part of a file that is read for what it declares.
const MAX_TEXT: u64 = 1 << 20;
const CHUNK: usize = 64 << 10;
/// Of the host only: history, caches, and Python environments whose interpreter is not in the image.
const SKIPPED: [&str; 3] = [".git", "__pycache__", ".mypy_cache"];

#[derive(Debug)]
enum Entry {
    Directory,
    File { size: u64, executable: bool },
    Link(PathBuf),
}

/// What is to be copied, by path relative to the root.
#[derive(Debug)]
pub(super) struct Tree {
    root: PathBuf,
    /// Who owns what the path names, before any link in it is followed.
    owner: u32,
    single_file: bool,
    entries: BTreeMap<PathBuf, Entry>,
    bytes: u64,
}

/// What was copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Summary {
    /// `sha256:…` over every path, kind, mode bit and content.
    pub digest: String,
    pub files: usize,
    pub bytes: u64,
    pub single_file: bool,
}

impl Tree {
    pub fn scan(path: &Path) -> Result<Self, String> {
        if !path.is_absolute() {
            return Err(format!("{} is not an absolute path", path.display()));
        }
        let named = path.symlink_metadata().map_err(|e| format!("{}: {e}", path.display()))?;
        let root = path.canonicalize().map_err(|e| format!("{}: {e}", path.display()))?;
        let owner = named.uid();
        for above in root.ancestors().skip(1) {
            let meta = above.metadata().map_err(|e| format!("{}: {e}", above.display()))?;
            permitted(&meta, owner, 0o001).map_err(|e| format!("{}: {e}", above.display()))?;
        }
        let meta = root.metadata().map_err(|e| format!("{}: {e}", root.display()))?;
        let mut tree =
            Self { root: root.clone(), owner, single_file: !meta.is_dir(), entries: BTreeMap::new(), bytes: 0 };
        if meta.is_dir() {
            tree.walk(Path::new(""))?;
        } else {
            // Kept under the name that was given: the command refers to it.
            let name = path.file_name().map(PathBuf::from).ok_or_else(|| format!("{} has no name", path.display()))?;
            tree.root = root;
            tree.add(name, &meta)?;
        }
        Ok(tree)
    }

    fn walk(&mut self, relative: &Path) -> Result<(), String> {
        let dir = self.root.join(relative);
        let failed = |e: io::Error| format!("{}: {e}", dir.display());
        dir.metadata().and_then(|meta| permitted(&meta, self.owner, 0o005)).map_err(failed)?;
        for item in std::fs::read_dir(&dir).map_err(failed)? {
            let item = item.map_err(failed)?;
            let name = item.file_name();
            let path = relative.join(&name);
            let meta = item.metadata().map_err(failed)?;
            if meta.is_dir() {
                let environment = item.path().join("pyvenv.cfg").exists();
                if environment || SKIPPED.iter().any(|skipped| name == *skipped) {
                    continue;
                }
                self.add(path.clone(), &meta)?;
                self.walk(&path)?;
            } else {
                self.add(path, &meta)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, path: PathBuf, meta: &std::fs::Metadata) -> Result<(), String> {
        let entry = if meta.is_dir() {
            Entry::Directory
        } else if meta.is_symlink() {
            let link = self.root.join(&path);
            let target = std::fs::read_link(&link).map_err(|e| format!("{}: {e}", link.display()))?;
            if !stays_inside(&path, &target) {
                return Err(format!("the link {} leads out of the directory, to {}", link.display(), target.display()));
            }
            Entry::Link(target)
        } else if meta.is_file() {
            self.bytes += meta.len();
            Entry::File { size: meta.len(), executable: meta.permissions().mode() & 0o111 != 0 }
        } else {
            // Sockets, FIFOs and devices are no source.
            return Ok(());
        };
        self.entries.insert(path, entry);
        if self.bytes > MAX_BYTES || self.entries.len() > MAX_FILES {
            return Err(format!(
                "{} holds more than {} MiB or {MAX_FILES} files; name the server's own directory",
                self.root.display(),
                MAX_BYTES >> 20
            ));
        }
        Ok(())
    }

    pub fn files(&self) -> usize {
        self.entries.values().filter(|entry| matches!(entry, Entry::File { .. })).count()
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether a directory has `name` directly below it.
    pub fn has(&self, name: &str) -> bool {
        !self.single_file && self.entries.contains_key(Path::new(name))
    }

    pub fn is_file(&self) -> bool {
        self.single_file
    }

    /// The text of a small file directly below the directory; `shown` is the directory as people know it.
    pub fn read(&self, shown: &Path, name: &str) -> Result<String, String> {
        self.text(Path::new(name)).map_err(|e| format!("{}: {e}", shown.join(name).display()))
    }

    /// The text of the one file.
    pub fn read_file(&self) -> Result<String, String> {
        self.text(&self.root).map_err(|e| format!("{}: {e}", self.root.display()))
    }

    fn text(&self, relative: &Path) -> io::Result<String> {
        let mut bytes = Vec::new();
        self.open(relative)?.take(MAX_TEXT).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn open(&self, relative: &Path) -> io::Result<File> {
        let path = if self.single_file { self.root.clone() } else { self.root.join(relative) };
        let file = File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path)?;
        let opened = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        if opened != path || !file.metadata()?.is_file() {
            return Err(io::Error::other(format!("it changed into {} while it was read", opened.display())));
        }
        permitted(&file.metadata()?, self.owner, 0o004)?;
        Ok(file)
    }

    fn write(&self, out: impl Write) -> Result<Summary, String> {
        let mut tar = tar::Builder::new(out);
        let mut digest = Sha256::new_with_prefix(b"lazaret-tree-v1\n");
        let place = |path: &Path| Path::new("app/src").join(path);
        let failed = |path: &Path, e: io::Error| format!("{}: {e}", self.root.join(path).display());
        tar.append_data(&mut header(tar::EntryType::Directory, 0o755, 0), "app/src/", io::empty())
            .map_err(|e| failed(Path::new(""), e))?;
        for (path, entry) in &self.entries {
            let mut part = |kind: u8, length: u64| {
                let name = path.as_os_str().as_encoded_bytes();
                digest.update([kind]);
                digest.update((name.len() as u64).to_be_bytes());
                digest.update(name);
                digest.update(length.to_be_bytes());
            };
            match entry {
                Entry::Directory => {
                    part(b'd', 0);
                    tar.append_data(&mut header(tar::EntryType::Directory, 0o755, 0), place(path), io::empty())
                }
                Entry::Link(target) => {
                    let bytes = target.as_os_str().as_encoded_bytes();
                    part(b'l', bytes.len() as u64);
                    digest.update(bytes);
                    tar.append_link(&mut header(tar::EntryType::Symlink, 0o777, 0), place(path), target)
                }
                Entry::File { size, executable } => {
                    part(if *executable { b'x' } else { b'f' }, *size);
                    let mode = if *executable { 0o755 } else { 0o644 };
                    let exact =
                        Exact { file: self.open(path).map_err(|e| failed(path, e))?, left: *size, digest: &mut digest };
                    tar.append_data(&mut header(tar::EntryType::Regular, mode, *size), place(path), exact)
                }
            }
            .map_err(|e| failed(path, e))?;
        }
        tar.into_inner().and_then(|mut out| out.flush()).map_err(|e| failed(Path::new(""), e))?;
        Ok(Summary {
            digest: format!("sha256:{}", hex::encode(digest.finalize())),
            files: self.files(),
            bytes: self.bytes,
            single_file: self.single_file,
        })
    }
}

/// Refuses what `owner` could not reach by the bits that everybody has. Groups are not asked.
fn permitted(meta: &std::fs::Metadata, owner: u32, bits: u32) -> io::Result<()> {
    if owner == 0 || meta.uid() == owner || meta.mode() & bits == bits {
        return Ok(());
    }
    let of = meta.uid();
    Err(io::Error::other(format!("it belongs to uid {of}, and uid {owner}, who owns the source, may not read it")))
}

/// Reads as many bytes as the header promised, and feeds the digest with the same bytes.
struct Exact<'a> {
    file: File,
    left: u64,
    digest: &'a mut Sha256,
}

impl Read for Exact<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = buf.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let n = self.file.read(&mut buf[..want])?;
        if n == 0 && want > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it became shorter while it was read"));
        }
        self.digest.update(&buf[..n]);
        self.left -= n as u64;
        Ok(n)
    }
}

fn stays_inside(link: &Path, target: &Path) -> bool {
    let mut depth = link.components().count() - 1;
    for part in target.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            _ => return false,
        }
    }
    true
}

/// A tar stream of the tree, and what was in it once the stream has ended.
pub(super) fn stream(tree: Tree) -> (Tar, oneshot::Receiver<Result<Summary, String>>) {
    let (send, receive) = mpsc::channel::<io::Result<Bytes>>(4);
    let (done, summary) = oneshot::channel();
    tokio::task::spawn_blocking(move || {
        let result = tree.write(io::BufWriter::with_capacity(CHUNK, Sink(send.clone())));
        if result.is_err() {
            // Docker must not take a part for the whole.
            let _ = send.blocking_send(Err(io::Error::other("the source could not be read")));
        }
        let _ = done.send(result);
    });
    let chunks =
        futures_util::stream::unfold(receive, |mut receive| async move { Some((receive.recv().await?, receive)) });
    (Tar::Stream(Box::pin(chunks)), summary)
}

struct Sink(mpsc::Sender<io::Result<Bytes>>);

impl Write for Sink {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(buf)));
        sent.map(|()| buf.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(path: &Path) -> (Summary, Vec<String>) {
        let mut out = Vec::new();
        let summary = Tree::scan(path).unwrap().write(&mut out).unwrap();
        let mut archive = tar::Archive::new(out.as_slice());
        let names = archive.entries().unwrap().map(|e| e.unwrap().path().unwrap().display().to_string()).collect();
        (summary, names)
    }

    #[test]
    fn the_digest_changes_with_any_path_mode_or_byte() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a");
        let mut seen = std::collections::BTreeSet::new();
        std::fs::write(&file, "one").unwrap();
        assert!(seen.insert(written(dir.path()).0.digest));
        assert!(!seen.insert(written(dir.path()).0.digest), "equal trees have equal digests");
        std::fs::write(&file, "two").unwrap();
        assert!(seen.insert(written(dir.path()).0.digest));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(seen.insert(written(dir.path()).0.digest));
        std::fs::rename(&file, dir.path().join("b")).unwrap();
        assert!(seen.insert(written(dir.path()).0.digest));
        std::fs::create_dir(dir.path().join("c")).unwrap();
        assert!(seen.insert(written(dir.path()).0.digest));
    }

    #[test]
    fn history_and_host_environments_stay_on_the_host() {
        let dir = tempfile::tempdir().unwrap();
        for sub in [".git", "env", "src"] {
            std::fs::create_dir(dir.path().join(sub)).unwrap();
        }
        std::fs::write(dir.path().join("env/pyvenv.cfg"), "").unwrap();
        std::fs::write(dir.path().join("src/s.py"), "").unwrap();
        let (summary, names) = written(dir.path());
        assert_eq!(names, ["app/src/", "app/src/src", "app/src/src/s.py"]);
        assert_eq!((summary.files, summary.single_file), (1, false));
        let (summary, names) = written(&dir.path().join("src/s.py"));
        assert_eq!(names, ["app/src/", "app/src/s.py"]);
        assert!(summary.single_file);
    }

    #[test]
    fn a_link_that_leaves_the_tree_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        std::os::unix::fs::symlink("../d", dir.path().join("d/ok")).unwrap();
        assert_eq!(written(dir.path()).1, ["app/src/", "app/src/d", "app/src/d/ok"]);
        for target in ["../../x", "/etc/shadow", "../d/../../x"] {
            let link = dir.path().join("d/bad");
            std::os::unix::fs::symlink(target, &link).unwrap();
            assert!(Tree::scan(dir.path()).unwrap_err().contains("leads out"), "{target}");
            std::fs::remove_file(link).unwrap();
        }
    }

    #[test]
    fn nothing_is_copied_that_the_owner_of_the_path_could_not_read() {
        let dir = tempfile::tempdir().unwrap();
        if std::fs::metadata(dir.path()).unwrap().uid() != 0 {
            eprintln!("skipped: only root can give files to others");
            return;
        }
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let (private, link) = (dir.path().join("private"), dir.path().join("link"));
        std::fs::create_dir(&private).unwrap();
        std::fs::write(private.join("key"), "secret").unwrap();
        std::os::unix::fs::symlink(&private, &link).unwrap();
        std::os::unix::fs::lchown(&link, Some(1000), Some(1000)).unwrap();
        let mode = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        let refusal = || match Tree::scan(&link) {
            Ok(tree) => tree.write(io::sink()).err(),
            Err(e) => Some(e),
        };
        mode(&private.join("key"), 0o600);
        assert!(refusal().unwrap().contains("uid 1000"), "a file");
        mode(&private.join("key"), 0o644);
        mode(&private, 0o700);
        assert!(refusal().unwrap().contains("uid 1000"), "a directory");
        mode(&private, 0o755);
        assert_eq!(refusal(), None);
        mode(dir.path(), 0o700);
        assert!(refusal().unwrap().contains("uid 1000"), "a directory above");
    }

    #[test]
    fn a_file_that_becomes_a_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a");
        std::fs::write(&file, "harmless").unwrap();
        let tree = Tree::scan(dir.path()).unwrap();
        std::fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &file).unwrap();
        assert!(tree.write(io::sink()).is_err());
    }

    #[test]
    fn a_directory_that_becomes_a_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        std::fs::write(dir.path().join("d/passwd"), vec![b'x'; 10]).unwrap();
        let tree = Tree::scan(dir.path()).unwrap();
        std::fs::rename(dir.path().join("d"), dir.path().join("e")).unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("d")).unwrap();
        assert!(tree.write(io::sink()).unwrap_err().contains("changed into /etc/passwd"));
    }
}
