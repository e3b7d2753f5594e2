//! Keeps the scan of client configs current, so that the kernel knows an entry before its client
//! first starts it.
//!
//! Directories are watched, not files: a file that appears later, or is replaced by a rename, is
//! seen. A scan is published only when it says something new.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::watch;

use super::AdmissionError;
use super::clients::{Cache, Scan, homes_of_host, scan_with};

/// Homes and projects that are learned while running; whoever starts more has something else in mind.
const MAX_LEARNED: usize = 512;
/// Events within this time are one change: an editor's write is three or four.
const TOGETHER: Duration = Duration::from_millis(4);

/// Events that may wait while a rescan runs. Whoever owns a home can make more of them than a
/// rescan takes: further ones are not kept, it is only remembered that there were some.
const WAITING: usize = 4096;

struct Events {
    queue: Receiver<notify::Result<notify::Event>>,
    lost: Arc<AtomicBool>,
}

/// The current scan, and who watches it.
pub struct ClientWatch {
    state: Arc<Mutex<State>>,
    scans: watch::Receiver<Arc<Scan>>,
}

struct State {
    homes: Vec<PathBuf>,
    projects: Vec<PathBuf>,
    /// Where this instance's sockets are.
    run_dir: PathBuf,
    learned: usize,
    cache: Cache,
    /// `None` where this host has no inotify left; then only starts and requests rescan.
    watcher: Option<RecommendedWatcher>,
    watched: HashSet<PathBuf>,
    /// Paths whose change matters: configs, where their links lead, and the directories on the way.
    relevant: HashSet<PathBuf>,
    /// Directories that could not be watched, with the cause.
    failures: Vec<String>,
    scans: watch::Sender<Arc<Scan>>,
}

impl ClientWatch {
    /// Reads all configs of this host's users, of the homes `extra` and of `projects`, then watches
    /// them. `run_dir` is where this instance's sockets are.
    pub fn start(extra: &[PathBuf], projects: &[PathBuf], run_dir: &Path) -> Result<Self, AdmissionError> {
        Self::of(homes_of_host(extra), projects.to_vec(), run_dir)
    }

    /// Exactly these homes and projects, and the host's managed files.
    pub fn of(homes: Vec<PathBuf>, projects: Vec<PathBuf>, run_dir: &Path) -> Result<Self, AdmissionError> {
        let (sender, queue) = sync_channel(WAITING);
        let events = Events { queue, lost: Arc::default() };
        let (scans, receiver) = watch::channel(Arc::new(Scan::default()));
        let (watcher, failures) = match watcher(sender, events.lost.clone()) {
            Ok(watcher) => (Some(watcher), Vec::new()),
            Err(e) => (None, vec![format!("client configs are not watched: {e}; raise fs.inotify.max_user_instances")]),
        };
        let mut state = State {
            homes,
            projects,
            run_dir: run_dir.into(),
            learned: 0,
            cache: Cache::default(),
            watcher,
            watched: HashSet::new(),
            relevant: HashSet::new(),
            failures,
            scans,
        };
        state.rescan();
        let state = Arc::new(Mutex::new(state));
        let weak = Arc::downgrade(&state);
        std::thread::Builder::new()
            .name("client-watch".into())
            .spawn(move || follow(&events, &weak))
            .map_err(AdmissionError::Watch)?;
        Ok(Self { state, scans: receiver })
    }

    pub fn current(&self) -> Arc<Scan> {
        self.scans.borrow().clone()
    }

    /// Gets each new scan. The current one counts as seen.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Scan>> {
        let mut scans = self.scans.clone();
        scans.mark_unchanged();
        scans
    }

    /// Adds a home directory; its configs are known when this returns.
    pub fn add_home(&self, home: &Path) {
        let mut state = lock(&self.state);
        if home.is_absolute() && !state.homes.iter().any(|known| known == home) && state.room() {
            state.homes.push(home.into());
            state.rescan();
        }
    }

    /// Adds a project directory; its configs are known when this returns.
    pub fn add_project(&self, project: &Path) {
        let mut state = lock(&self.state);
        if project.is_absolute() && !state.projects.iter().any(|known| known == project) && state.room() {
            state.projects.push(project.into());
            state.rescan();
        }
    }

    /// Looks at everything again, now.
    pub fn rescan(&self) -> Arc<Scan> {
        lock(&self.state).rescan();
        self.current()
    }

    /// The homes that are watched.
    pub fn homes(&self) -> Vec<PathBuf> {
        lock(&self.state).homes.clone()
    }
}

/// A rescan that panicked left a whole state behind, if not the newest.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn watcher(
    sender: SyncSender<notify::Result<notify::Event>>,
    lost: Arc<AtomicBool>,
) -> notify::Result<RecommendedWatcher> {
    notify::recommended_watcher(move |event| {
        // Full, or the receiver has gone, and so has the watch.
        if sender.try_send(event).is_err() {
            lost.store(true, Ordering::Release);
        }
    })
}

/// Ends when the watch is dropped: the watcher goes with it, and with that the sender.
fn follow(events: &Events, state: &Weak<Mutex<State>>) {
    while let Ok(event) = events.queue.recv() {
        let Some(state) = state.upgrade() else { return };
        let mut matters = lock(&state).matters(&event);
        // The queue was full at some time, so that there is an event in it to come here with.
        if events.lost.swap(false, Ordering::AcqRel) {
            lock(&state).watched.clear();
            matters = true;
        }
        if !matters {
            continue;
        }
        // What follows within moments belongs to it. A stream of events delays nothing: the
        // moments are counted from the first.
        let end = Instant::now() + TOGETHER;
        while let Some(left) = end.checked_duration_since(Instant::now())
            && let Ok(event) = events.queue.recv_timeout(left)
        {
            lock(&state).matters(&event);
        }
        if events.lost.swap(false, Ordering::AcqRel) {
            lock(&state).watched.clear();
        }
        lock(&state).rescan();
    }
}

impl State {
    fn room(&mut self) -> bool {
        self.learned += 1;
        if self.learned == MAX_LEARNED {
            self.failures.push(format!("{MAX_LEARNED} homes and projects were learned; further ones are not watched"));
        }
        self.learned <= MAX_LEARNED
    }

    /// Whether an event may change what the configs say. A directory that went away took its
    /// watch with it, and is watched anew when it is made again.
    fn matters(&mut self, event: &notify::Result<notify::Event>) -> bool {
        match event {
            // Events were lost, and with them perhaps such a directory.
            Err(_) => self.watched.clear(),
            Ok(event) if event.need_rescan() => self.watched.clear(),
            Ok(event) if matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))) => {
                self.watched.retain(|dir| !event.paths.iter().any(|gone| dir.starts_with(gone)));
            }
            Ok(_) => {}
        }
        match event {
            Err(_) => true,
            Ok(event) if event.need_rescan() => true,
            // Reading is no change, and we read ourselves.
            Ok(event) if matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write)) => {
                false
            }
            Ok(event) => event.paths.iter().any(|path| self.relevant.contains(path)),
        }
    }

    /// Reads, watches what the reading brought up, and reads again if a directory became
    /// watched in between: what was written into it before is not missed.
    fn rescan(&mut self) {
        for _ in 0..3 {
            let (scan, found) = scan_with(&mut self.cache, &self.homes, &self.projects, &self.run_dir);
            let existing: HashSet<PathBuf> = scan.files.iter().map(|file| file.path.clone()).collect();
            self.publish(scan);
            if !self.watch(&found, &existing) {
                return;
            }
        }
    }

    fn publish(&mut self, mut scan: Scan) {
        scan.warnings.extend(self.failures.iter().cloned());
        self.scans.send_if_modified(|current| {
            scan.generation = current.generation;
            if current.generation > 0 && **current == scan {
                return false;
            }
            scan.generation += 1;
            *current = Arc::new(scan);
            true
        });
    }

    /// Watches the nearest existing directory above each place. Returns whether there is a new one.
    fn watch(&mut self, found: &[(PathBuf, PathBuf)], existing: &HashSet<PathBuf>) -> bool {
        let Some(watcher) = &mut self.watcher else { return false };
        let mut wanted = HashSet::new();
        self.relevant.clear();
        for (path, base) in found {
            for above in path.ancestors().take_while(|above| *above != base.as_path()) {
                self.relevant.insert(above.into());
            }
            wanted.extend(
                path.ancestors()
                    .skip(1)
                    .take_while(|above| above.starts_with(base))
                    .find(|above| above.is_dir())
                    .map(Path::to_path_buf),
            );
            // A config that is a link changes where the link leads.
            if existing.contains(path)
                && let Ok(real) = std::fs::canonicalize(path)
                && real != *path
            {
                wanted.extend(real.parent().map(Path::to_path_buf));
                self.relevant.insert(real);
            }
        }
        for gone in self.watched.extract_if(|dir| !wanted.contains(dir)) {
            // It may be gone with its directory already.
            let _ = watcher.unwatch(&gone);
        }
        let mut more = false;
        for dir in wanted {
            if self.watched.contains(&dir) {
                continue;
            }
            match watcher.watch(&dir, RecursiveMode::NonRecursive) {
                Ok(()) => more |= self.watched.insert(dir),
                Err(e) if dir.is_dir() => {
                    let failure = format!("{} is not watched: {e}; raise fs.inotify.max_user_watches", dir.display());
                    if self.failures.len() < 20 && !self.failures.contains(&failure) {
                        self.failures.push(failure);
                    }
                }
                Err(_) => {}
            }
        }
        more
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: &str = r#"{"mcpServers":{"time":{"command":"uvx","args":["mcp-server-time"]}}}"#;

    /// Waits for a scan that satisfies `want`, with a deadline.
    fn wait_for(watch: &ClientWatch, want: impl Fn(&Scan) -> bool) -> Arc<Scan> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let mut scans = watch.scans.clone();
        runtime.block_on(async {
            let found = tokio::time::timeout(Duration::from_secs(10), scans.wait_for(|scan| want(scan))).await;
            found.expect("the change was not seen").unwrap().clone()
        })
    }

    fn count(scan: &Scan, under: &Path) -> usize {
        scan.files.iter().filter(|file| file.path.starts_with(under)).map(|file| file.servers.len()).sum()
    }

    #[test]
    fn a_storm_of_events_is_not_kept_and_its_last_change_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".claude.json");
        std::fs::write(&path, "{}").unwrap();
        let watch = watch(dir.path());
        for _ in 0..2 * WAITING {
            std::fs::write(&path, "{ }").unwrap();
        }
        std::fs::write(&path, ENTRY).unwrap();
        wait_for(&watch, |scan| count(scan, dir.path()) == 1);
    }

    fn watch(home: &Path) -> ClientWatch {
        ClientWatch::of(vec![home.into()], vec![], Path::new("/run/lazaret")).unwrap()
    }

    #[test]
    fn a_config_that_appears_is_renamed_over_changed_and_removed_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path();
        let watch = watch(home);
        assert_eq!(count(&watch.current(), home), 0);

        let path = home.join(".claude.json");
        std::fs::write(&path, ENTRY).unwrap();
        let first = wait_for(&watch, |scan| count(scan, home) == 1);

        std::fs::write(home.join("new"), ENTRY.replace("}}}", "},\"b\":{\"command\":\"b\"}}}")).unwrap();
        std::fs::rename(home.join("new"), &path).unwrap();
        let second = wait_for(&watch, |scan| count(scan, home) == 2);
        assert!(second.generation > first.generation);

        std::fs::remove_file(&path).unwrap();
        wait_for(&watch, |scan| count(scan, home) == 0);
    }

    #[test]
    fn a_config_in_directories_that_do_not_exist_yet_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let watch = watch(dir.path());
        let deep = dir.path().join(".config/Claude");
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("claude_desktop_config.json"), ENTRY).unwrap();
        wait_for(&watch, |scan| count(scan, dir.path()) == 1);
        std::fs::remove_dir_all(dir.path().join(".config")).unwrap();
        wait_for(&watch, |scan| count(scan, dir.path()) == 0);
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("claude_desktop_config.json"), ENTRY).unwrap();
        wait_for(&watch, |scan| count(scan, dir.path()) == 1);
    }

    #[test]
    fn a_config_behind_a_link_is_seen_to_change() {
        let dir = tempfile::tempdir().unwrap();
        let (home, dotfiles) = (dir.path().join("home"), dir.path().join("dotfiles"));
        std::fs::create_dir_all(&home).unwrap();
        std::fs::create_dir_all(&dotfiles).unwrap();
        std::fs::write(dotfiles.join("c.json"), "{}").unwrap();
        std::os::unix::fs::symlink(dotfiles.join("c.json"), home.join(".claude.json")).unwrap();
        let watch = watch(&home);
        std::fs::write(dotfiles.join("c.json"), ENTRY).unwrap();
        wait_for(&watch, |scan| count(scan, &home) == 1);
    }

    #[test]
    fn a_broken_config_does_not_make_its_servers_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".claude.json");
        std::fs::write(&path, ENTRY).unwrap();
        let watch = watch(dir.path());
        std::fs::write(&path, "{\n  \"mcpServers\": {,").unwrap();
        let scan = wait_for(&watch, |scan| scan.files.iter().any(|file| file.error.is_some()));
        assert_eq!(count(&scan, dir.path()), 1);
        let error = scan.files.iter().find_map(|file| file.error.clone()).unwrap();
        assert!(error.contains(".claude.json: line 2, column 18"), "{error}");
    }

    #[test]
    fn homes_and_projects_that_are_added_are_known_at_once_and_watched() {
        let dir = tempfile::tempdir().unwrap();
        let (home, project) = (dir.path().join("h"), dir.path().join("p"));
        std::fs::create_dir_all(&home).unwrap();
        std::fs::create_dir_all(&project).unwrap();
        std::fs::write(home.join(".claude.json"), ENTRY).unwrap();
        std::fs::write(project.join(".mcp.json"), ENTRY).unwrap();
        let watch = ClientWatch::of(vec![], vec![], Path::new("/run/lazaret")).unwrap();
        let mut scans = watch.subscribe();
        watch.add_home(&home);
        assert_eq!(count(&watch.current(), &home), 1);
        watch.add_project(&project);
        assert_eq!(count(&watch.current(), &project), 1);
        assert!(scans.has_changed().unwrap());
        scans.mark_unchanged();
        watch.add_project(&project);
        assert!(!scans.has_changed().unwrap(), "nothing new was said");
        std::fs::remove_file(project.join(".mcp.json")).unwrap();
        wait_for(&watch, |scan| count(scan, &project) == 0);
    }
}
