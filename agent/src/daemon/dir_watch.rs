//! Hears of changes in directories.
//!
//! Invariant: reading wakes nobody. Opens and reads are not asked for: the kernel would tell of each program start in
//! `/usr/bin`, and a look at a directory after each event would be the next event.

use std::ffi::OsString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

/// Where names come, go or get other contents or rights, and where the directory itself goes.
const CHANGES: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);

pub(super) struct DirWatch {
    inotify: AsyncFd<OwnedFd>,
}

/// The name of what changed; `None` where the directory itself did, or events were lost.
pub(super) type Changed = Option<OsString>;

impl DirWatch {
    /// Within a runtime only. Fails where the user has no inotify instance left (`fs.inotify.max_user_instances`).
    pub(super) fn new() -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe; an OwnedFd that nobody else has stays open while registered"
        )]
        let inotify = AsyncFd::new(inotify)?;
        Ok(Self { inotify })
    }

    /// Adding a directory again changes nothing, unless another one has come to its place.
    pub(super) fn add(&self, dir: &Path) -> io::Result<()> {
        inotify::add_watch(self.inotify.get_ref(), dir, CHANGES)?;
        Ok(())
    }

    /// Waits for changes, at least one. Dropping the future loses none.
    pub(super) async fn changed(&self) -> io::Result<Vec<Changed>> {
        loop {
            let mut ready = self.inotify.readable().await?;
            if let Ok(changes) = ready.try_io(|inotify| Ok(read(inotify.get_ref())?)) {
                return changes;
            }
        }
    }
}

fn read(inotify: &OwnedFd) -> Result<Vec<Changed>, Errno> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(inotify, &mut buffer);
    let mut changes = Vec::new();
    loop {
        match events.next() {
            Ok(event) => changes.push(event.file_name().map(|name| OsString::from_vec(name.to_bytes().to_vec()))),
            Err(Errno::AGAIN) if !changes.is_empty() => return Ok(changes),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
        // The rest stays in the kernel's queue.
        if events.is_buffer_empty() && !changes.is_empty() {
            return Ok(changes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_change_is_heard_and_reading_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.cedar");
        std::fs::write(&file, "x").unwrap();
        let watch = DirWatch::new().unwrap();
        watch.add(dir.path()).unwrap();

        std::fs::read(&file).unwrap();
        std::fs::read_dir(dir.path()).unwrap().count();
        // What happens now is queued behind all that came before it.
        std::fs::write(dir.path().join("b.cedar"), "y").unwrap();
        let heard = tokio::time::timeout(Duration::from_secs(30), watch.changed()).await.unwrap().unwrap();
        assert!(heard.iter().all(|name| name.as_deref() == Some("b.cedar".as_ref())), "{heard:?}");

        std::fs::rename(&file, dir.path().join("c.cedar")).unwrap();
        let mut heard = Vec::new();
        while heard.len() < 2 {
            let changes = tokio::time::timeout(Duration::from_secs(30), watch.changed()).await.unwrap().unwrap();
            heard.extend(changes.into_iter().flatten().filter(|name| name != "b.cedar"));
        }
        assert_eq!(heard, ["a.cedar", "c.cedar"]);
    }

    #[tokio::test]
    async fn a_directory_that_goes_is_heard_of() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("policy.d");
        std::fs::create_dir(&dir).unwrap();
        let watch = DirWatch::new().unwrap();
        watch.add(&dir).unwrap();
        std::fs::remove_dir(&dir).unwrap();
        let heard = tokio::time::timeout(Duration::from_secs(30), watch.changed()).await.unwrap().unwrap();
        assert_eq!(heard[0], None);
        assert!(watch.add(&dir).is_err(), "it is not there");
    }
}
