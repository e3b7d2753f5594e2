//! Reads and replaces one file below a home directory that its owner may be fighting over.
//!
//! Invariant: whoever controls the home cannot make us (often root) read or write anything
//! outside of it. The directory is opened once and checked; every further step goes through that
//! descriptor (`/proc/self/fd/N/…`), so that renaming or linking on the way changes nothing.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::super::files::MAX_BYTES;
use super::InstallError;

/// One file's place, held fast.
#[derive(Debug)]
pub(super) struct Anchored {
    dir: File,
    name: String,
    /// Where it is, for people.
    pub path: PathBuf,
    home: std::fs::Metadata,
}

/// A file as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Contents {
    pub text: String,
    uid: u32,
    gid: u32,
    mode: u32,
}

impl Anchored {
    /// Finds `name` in `home`. A link is followed only as long as it stays below the home.
    pub fn find(home: &Path, name: &str) -> Result<Self, InstallError> {
        let unreadable = |path: &Path| {
            let path = path.to_path_buf();
            move |e: std::io::Error| InstallError::Read { path, cause: e.to_string() }
        };
        let home_path = std::fs::canonicalize(home).map_err(unreadable(home))?;
        let shown = home_path.join(name);
        let real = match std::fs::symlink_metadata(&shown) {
            Ok(meta) if meta.file_type().is_symlink() => std::fs::canonicalize(&shown).map_err(unreadable(&shown))?,
            _ => shown.clone(),
        };
        let outside = || InstallError::Outside { path: shown.clone(), target: real.clone() };
        let (Some(parent), Some(name)) = (real.parent(), real.file_name().and_then(|name| name.to_str())) else {
            return Err(outside());
        };
        if !real.starts_with(&home_path) {
            return Err(outside());
        }
        let dir = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(parent)
            .map_err(unreadable(parent))?;
        // What was opened must be what was checked.
        let opened = std::fs::read_link(format!("/proc/self/fd/{}", dir.as_raw_fd())).map_err(unreadable(parent))?;
        if opened != parent {
            return Err(outside());
        }
        let meta = std::fs::metadata(&home_path).map_err(unreadable(home))?;
        Ok(Self { name: name.to_owned(), path: real.clone(), dir, home: meta })
    }

    fn at(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.dir.as_raw_fd()))
    }

    /// `None` where there is no such file yet.
    pub fn read(&self) -> Result<Option<Contents>, InstallError> {
        let failed = |cause: String| InstallError::Read { path: self.path.clone(), cause };
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC)
            .open(self.at(&self.name));
        let file = match opened {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(e.to_string())),
        };
        let meta = file.metadata().map_err(|e| failed(e.to_string()))?;
        if !meta.is_file() || meta.len() > MAX_BYTES {
            return Err(failed(format!("it is no regular file of at most {MAX_BYTES} bytes")));
        }
        // A hard link to a file of somebody else's.
        if meta.uid() != self.home.uid() && (meta.uid() != 0 || meta.nlink() > 1) {
            return Err(failed(format!("it belongs to uid {}, and the home to uid {}", meta.uid(), self.home.uid())));
        }
        let mut text = String::new();
        file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(|e| failed(e.to_string()))?;
        Ok(Some(Contents { text, uid: meta.uid(), gid: meta.gid(), mode: meta.mode() & 0o777 }))
    }

    /// Writes `text` in the place of `before`, if that still stands there. Owner and mode stay.
    pub fn replace(&self, before: Option<&Contents>, text: &str) -> Result<(), InstallError> {
        let (uid, gid, mode) = before.map_or((self.home.uid(), self.home.gid(), 0o600), |b| (b.uid, b.gid, b.mode));
        let temporary = self.create("tmp", text, uid, gid, mode)?;
        let done = self.unchanged(before).and_then(|()| {
            std::fs::rename(self.at(&temporary), self.at(&self.name)).map_err(|e| self.write_error(e))?;
            self.dir.sync_all().map_err(|e| self.write_error(e))
        });
        if done.is_err() {
            // Where the rename was done there is nothing left to remove.
            let _ = std::fs::remove_file(self.at(&temporary));
        }
        done
    }

    /// A copy of `before` beside the file that only its owner can read. Returns its path.
    pub fn back_up(&self, before: &Contents, stamp: &str) -> Result<PathBuf, InstallError> {
        let name = self.create(&format!("{stamp}.bak"), &before.text, before.uid, before.gid, 0o600)?;
        Ok(self.path.with_file_name(name))
    }

    fn unchanged(&self, before: Option<&Contents>) -> Result<(), InstallError> {
        if self.read()?.as_ref() == before { Ok(()) } else { Err(InstallError::Changed { path: self.path.clone() }) }
    }

    /// A new file named after this one; an existing one is never opened.
    fn create(&self, suffix: &str, text: &str, uid: u32, gid: u32, mode: u32) -> Result<String, InstallError> {
        let mut n = 0;
        let (name, mut file) = loop {
            let number = if n == 0 { String::new() } else { format!("-{n}") };
            let name = match suffix.strip_suffix(".bak") {
                Some(stamp) => format!("{}.lazaret-{stamp}{number}.bak", self.name),
                None => format!("{}.lazaret{number}.{suffix}", self.name),
            };
            let mut options = OpenOptions::new();
            options.write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC);
            match options.open(self.at(&name)) {
                Ok(file) => break (name, file),
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && n < 100 => n += 1,
                Err(e) => return Err(self.write_error(e)),
            }
        };
        let filled = (|| {
            file.write_all(text.as_bytes())?;
            let meta = file.metadata()?;
            if (meta.uid(), meta.gid()) != (uid, gid) {
                std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
            }
            file.set_permissions(std::fs::Permissions::from_mode(mode))?;
            file.sync_all()
        })();
        match filled {
            Ok(()) => Ok(name),
            Err(e) => {
                // Half a file is of use to nobody.
                let _ = std::fs::remove_file(self.at(&name));
                Err(self.write_error(e))
            }
        }
    }

    fn write_error(&self, e: std::io::Error) -> InstallError {
        InstallError::Write { path: self.path.clone(), cause: e.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        std::fs::create_dir(&home).unwrap();
        (dir, home)
    }

    #[test]
    fn a_link_out_of_the_home_is_refused_and_one_inside_is_followed() {
        let (dir, home) = home();
        let secret = dir.path().join("secret");
        std::fs::write(&secret, "{}").unwrap();
        std::os::unix::fs::symlink(&secret, home.join("a")).unwrap();
        assert!(matches!(Anchored::find(&home, "a"), Err(InstallError::Outside { .. })));
        std::fs::create_dir(home.join("dotfiles")).unwrap();
        std::fs::write(home.join("dotfiles/b"), "{}").unwrap();
        std::os::unix::fs::symlink("dotfiles/b", home.join("b")).unwrap();
        let file = Anchored::find(&home, "b").unwrap();
        let before = file.read().unwrap();
        file.replace(before.as_ref(), "{ }").unwrap();
        assert!(home.join("b").is_symlink());
        assert_eq!(std::fs::read_to_string(home.join("dotfiles/b")).unwrap(), "{ }");
    }

    #[test]
    fn a_link_that_appears_after_the_look_is_not_followed() {
        let (dir, home) = home();
        let secret = dir.path().join("secret");
        std::fs::write(&secret, "secret").unwrap();
        let file = Anchored::find(&home, "a").unwrap();
        assert_eq!(file.read().unwrap(), None);
        std::os::unix::fs::symlink(&secret, home.join("a")).unwrap();
        assert!(file.read().is_err());
        assert!(file.replace(None, "{}").is_err());
        assert_eq!(std::fs::read_to_string(&secret).unwrap(), "secret");
    }

    #[test]
    fn what_changed_meanwhile_is_not_overwritten_and_nothing_is_left_behind() {
        let (_dir, home) = home();
        std::fs::write(home.join("a"), "1").unwrap();
        let file = Anchored::find(&home, "a").unwrap();
        let before = file.read().unwrap();
        std::fs::write(home.join("a"), "2").unwrap();
        assert!(matches!(file.replace(before.as_ref(), "3"), Err(InstallError::Changed { .. })));
        assert_eq!(std::fs::read_dir(&home).unwrap().count(), 1);
        assert_eq!(std::fs::read_to_string(home.join("a")).unwrap(), "2");
    }

    #[test]
    fn owner_and_mode_stay_and_the_backup_is_private() {
        let (_dir, home) = home();
        let path = home.join("a");
        std::fs::write(&path, "1").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        if std::fs::metadata("/proc/self").unwrap().uid() == 0 {
            std::os::unix::fs::chown(&home, Some(1234), Some(1234)).unwrap();
            std::os::unix::fs::chown(&path, Some(1234), Some(1234)).unwrap();
        }
        let owner = std::fs::metadata(&path).unwrap().uid();
        let file = Anchored::find(&home, "a").unwrap();
        let before = file.read().unwrap().unwrap();
        let backup = file.back_up(&before, "20260102T030405Z").unwrap();
        let second = file.back_up(&before, "20260102T030405Z").unwrap();
        file.replace(Some(&before), "2").unwrap();
        let meta = std::fs::metadata(&path).unwrap();
        assert_eq!((meta.mode() & 0o777, meta.uid()), (0o644, owner));
        assert!(
            backup.ends_with("a.lazaret-20260102T030405Z.bak") && second.ends_with("a.lazaret-20260102T030405Z-1.bak")
        );
        let meta = std::fs::metadata(&backup).unwrap();
        assert_eq!((meta.mode() & 0o777, meta.uid()), (0o600, owner));
        assert_eq!(std::fs::read_to_string(&backup).unwrap(), "1");
    }
}
