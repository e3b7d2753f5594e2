//! Keeps the scan of client configs current, so that the kernel knows an entry before its client
//! first starts it, and tells who changed an entry.
//!
//! Directories are watched, not files: a file that appears later, or is replaced by a rename, is
//! seen. A scan is published only when it says something new, and handed on before anything else is done.
//! An entry that was known stays known while its file is being written or cannot be read.

mod changes;
mod source;
mod sys;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{broadcast, watch};

use self::source::{Kind, Notice, Parts, Signal, Signals, Source};
use super::AdmissionError;
use super::clients::{Cache, ClientFile, Scan, homes_of_host, scan_with};

pub use changes::{ConfigChange, Definition, EntryChange, What};
pub use writer::{Writer, WriterParent};

/// Homes and projects that are learned while running; whoever starts more has something else in mind.
const MAX_LEARNED: usize = 512;
/// Events within this time are one change: an editor's write is three or four.
const TOGETHER: Duration = Duration::from_millis(4);
/// A file that nobody has closed after this time is taken as it stands.
const STILL_WRITING: Duration = Duration::from_secs(1);
/// Without an event the configs are read again all the same.
const NOTHING_HAPPENS: Duration = Duration::from_secs(600);
/// Events that are kept until their change is told, and writers that one change names.
const MAX_NOTICES: usize = 1024;
const MAX_WRITERS: usize = 8;
/// Changes that are kept for whoever asks, and that a slow subscriber may be behind.
const RECENT: usize = 100;

type OnScan = Box<dyn Fn(&Scan) + Send>;

/// The current scan, and who watches it.
pub struct ClientWatch {
    state: Arc<Mutex<State>>,
    scans: watch::Receiver<Arc<Scan>>,
    changes: broadcast::Sender<Arc<ConfigChange>>,
}

struct State {
    homes: Vec<PathBuf>,
    projects: Vec<PathBuf>,
    /// Where this instance's sockets are.
    run_dir: PathBuf,
    learned: usize,
    cache: Cache,
    source: Source,
    watched: HashSet<PathBuf>,
    /// Paths whose change matters: configs, where their links lead, and the directories on the way.
    relevant: HashSet<PathBuf>,
    /// Where the links of configs lead, and the configs.
    links: HashMap<PathBuf, PathBuf>,
    /// Files that somebody writes to and has not closed.
    writing: HashSet<PathBuf>,
    /// What happened since changes were last told.
    notices: Vec<Notice>,
    /// The files as they were last told, and the places that were looked at then: what is seen for the
    /// first time is no change.
    told: HashMap<PathBuf, ClientFile>,
    places: HashSet<PathBuf>,
    recent: VecDeque<Arc<ConfigChange>>,
    /// What could not be watched, with the cause.
    failures: Vec<String>,
    scans: watch::Sender<Arc<Scan>>,
    changes: broadcast::Sender<Arc<ConfigChange>>,
    on_scan: Option<OnScan>,
}

impl ClientWatch {
    /// Reads all configs of this host's users, of the homes `extra` and of `projects`, then watches
    /// them. `run_dir` is where this instance's sockets are.
    pub fn start(extra: &[PathBuf], projects: &[PathBuf], run_dir: &Path) -> Result<Self, AdmissionError> {
        Self::of(homes_of_host(extra), projects.to_vec(), run_dir)
    }

    /// Exactly these homes and projects, and the host's managed files.
    pub fn of(homes: Vec<PathBuf>, projects: Vec<PathBuf>, run_dir: &Path) -> Result<Self, AdmissionError> {
        Self::with(Source::start(), homes, projects, run_dir)
    }

    fn with(
        (source, signals, failures): Parts,
        homes: Vec<PathBuf>,
        projects: Vec<PathBuf>,
        run_dir: &Path,
    ) -> Result<Self, AdmissionError> {
        for failure in &failures {
            tracing::warn!("{failure}");
        }
        let (scans, receiver) = watch::channel(Arc::new(Scan::default()));
        let changes = broadcast::Sender::new(RECENT);
        let mut state = State {
            homes,
            projects,
            run_dir: run_dir.into(),
            learned: 0,
            cache: Cache::default(),
            source,
            watched: HashSet::new(),
            relevant: HashSet::new(),
            links: HashMap::new(),
            writing: HashSet::new(),
            notices: Vec::new(),
            told: HashMap::new(),
            places: HashSet::new(),
            recent: VecDeque::new(),
            failures,
            scans,
            changes: changes.clone(),
            on_scan: None,
        };
        state.rescan();
        let state = Arc::new(Mutex::new(state));
        let weak = Arc::downgrade(&state);
        std::thread::Builder::new()
            .name("client-watch".into())
            .spawn(move || follow(&signals, &weak))
            .map_err(AdmissionError::Watch)?;
        Ok(Self { state, scans: receiver, changes })
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

    /// Gives `take` the current scan, and from now on each new one before anything else is done with it.
    pub fn on_scan(&self, take: impl Fn(&Scan) + Send + 'static) {
        let mut state = lock(&self.state);
        take(&self.current());
        state.on_scan = Some(Box::new(take));
    }

    /// Gets each change from now on.
    pub fn changes(&self) -> broadcast::Receiver<Arc<ConfigChange>> {
        self.changes.subscribe()
    }

    /// The last changes, oldest first.
    pub fn recent_changes(&self) -> Vec<Arc<ConfigChange>> {
        lock(&self.state).recent.iter().cloned().collect()
    }

    /// A client was started that has these homes and works in this directory: what was not known of them is
    /// known when this returns, and what was known is looked at again.
    pub fn client_started(&self, homes: &[PathBuf], project: Option<&Path>) {
        let mut state = lock(&self.state);
        let mut new = false;
        for home in homes {
            new |= state.add_home(home);
        }
        new |= project.is_some_and(|project| state.add_project(project));
        if new { state.rescan() } else { state.source.look() }
    }

    /// Adds a home directory; its configs are known when this returns.
    pub fn add_home(&self, home: &Path) {
        let mut state = lock(&self.state);
        if state.add_home(home) {
            state.rescan();
        }
    }

    /// Adds a project directory; its configs are known when this returns.
    pub fn add_project(&self, project: &Path) {
        let mut state = lock(&self.state);
        if state.add_project(project) {
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

/// Ends when the watch is dropped: the source goes with it, and with that the sender.
fn follow(signals: &Signals, state: &Weak<Mutex<State>>) {
    let mut patience = NOTHING_HAPPENS;
    loop {
        let first = match signals.queue.recv_timeout(patience) {
            Ok(signal) => Some(signal),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let Some(state) = state.upgrade() else { return };
        // At once, for the kernel. What follows within moments belongs to it; only then is told what changed.
        // A stream of events delays nothing: the moments are counted from the first.
        if !lock(&state).takes(first, signals) {
            continue;
        }
        lock(&state).rescan();
        let end = Instant::now() + TOGETHER;
        let mut more = false;
        while let Some(left) = end.checked_duration_since(Instant::now())
            && let Ok(signal) = signals.queue.recv_timeout(left)
        {
            more |= lock(&state).takes(Some(signal), signals);
        }
        let mut state = lock(&state);
        if more {
            state.rescan();
        }
        state.tell();
        patience = if state.writing.is_empty() { NOTHING_HAPPENS } else { STILL_WRITING };
    }
}

impl State {
    fn add_home(&mut self, home: &Path) -> bool {
        let new = home.is_absolute() && !self.homes.iter().any(|known| known == home) && self.room();
        if new {
            self.homes.push(home.into());
        }
        new
    }

    fn add_project(&mut self, project: &Path) -> bool {
        let new = project.is_absolute() && !self.projects.iter().any(|known| known == project) && self.room();
        if new {
            self.projects.push(project.into());
        }
        new
    }

    fn room(&mut self) -> bool {
        self.learned += 1;
        if self.learned == MAX_LEARNED {
            self.failures.push(format!("{MAX_LEARNED} homes and projects were learned; further ones are not watched"));
        }
        self.learned <= MAX_LEARNED
    }

    /// Takes one signal (`None`: there was none for a while). Whether the configs may say something else now.
    fn takes(&mut self, signal: Option<Signal>, signals: &Signals) -> bool {
        // Events were lost, and with them perhaps that of a directory that went away.
        let lost = signals.lost.swap(false, Ordering::AcqRel);
        if lost {
            self.watched.clear();
        }
        match signal {
            None => self.writing.clear(),
            Some(Signal::Look) => {}
            Some(Signal::Changed(notice)) => return self.takes_notice(notice) || lost,
        }
        true
    }

    fn takes_notice(&mut self, notice: Notice) -> bool {
        // A directory that went away is watched anew when it is made again.
        if notice.kind == Kind::Gone {
            for gone in self.watched.extract_if(|dir| dir.starts_with(&notice.path)) {
                self.source.forget(&gone);
            }
        }
        if !self.relevant.contains(&notice.path) {
            return false;
        }
        if notice.kind == Kind::Writing {
            self.writing.insert(notice.path.clone());
        } else {
            self.writing.remove(&notice.path);
        }
        if self.notices.len() < MAX_NOTICES {
            self.notices.push(notice);
        }
        true
    }

    /// Reads, watches what the reading brought up, and reads again if a directory became
    /// watched in between: what was written into it before is not missed.
    fn rescan(&mut self) {
        for _ in 0..3 {
            let (mut scan, found) = scan_with(&mut self.cache, &self.homes, &self.projects, &self.run_dir);
            let existing: HashSet<PathBuf> = scan.files.iter().map(|file| file.path.clone()).collect();
            self.keep_what_is_written(&mut scan);
            self.publish(scan);
            let more = self.watch(&found, &existing);
            self.adopt(found);
            if !more {
                return;
            }
        }
    }

    /// Half a file may be whole to its parser: nothing of it is forgotten until it is closed.
    fn keep_what_is_written(&self, scan: &mut Scan) {
        if self.writing.is_empty() {
            return;
        }
        let current = self.scans.borrow().clone();
        for file in scan.files.iter_mut().filter(|file| self.is_written(&file.path)) {
            let before = current.files.iter().find(|before| before.path == file.path);
            for server in before.map(|before| before.servers.as_slice()).unwrap_or_default() {
                if !file.servers.contains(server) {
                    file.servers.push(server.clone());
                }
            }
        }
    }

    fn is_written(&self, path: &Path) -> bool {
        self.writing.contains(path)
            || self.writing.iter().any(|real| self.links.get(real).is_some_and(|link| link == path))
    }

    fn publish(&mut self, mut scan: Scan) {
        scan.warnings.extend(self.failures.iter().cloned());
        let current = self.scans.borrow().clone();
        scan.generation = current.generation;
        if current.generation > 0 && *current == scan {
            return;
        }
        scan.generation += 1;
        // The kernel first: a client may be reading the same file just now.
        if let Some(take) = &self.on_scan {
            take(&scan);
        }
        self.scans.send_replace(Arc::new(scan));
    }

    /// What is looked at for the first time is known from now on, and no change.
    fn adopt(&mut self, found: Vec<(PathBuf, PathBuf)>) {
        let places: HashSet<PathBuf> = found.into_iter().map(|(path, _)| path).collect();
        let current = self.scans.borrow().clone();
        for file in current.files.iter().filter(|file| !self.places.contains(&file.path)) {
            self.told.insert(file.path.clone(), file.clone());
        }
        self.told.retain(|path, _| places.contains(path));
        self.places = places;
    }

    /// Tells what changed since it was last told, but for files that are still being written.
    fn tell(&mut self) {
        let scan = self.scans.borrow().clone();
        let now: HashMap<&PathBuf, &ClientFile> = scan.files.iter().map(|file| (&file.path, file)).collect();
        let mut paths: Vec<PathBuf> = self.told.keys().chain(now.keys().copied()).cloned().collect();
        paths.sort();
        paths.dedup();
        for path in paths {
            if self.is_written(&path) || self.told.get(&path) == now.get(&path).copied() {
                continue;
            }
            let change = changes::between(self.told.get(&path), now.get(&path).copied());
            match now.get(&path) {
                Some(file) => self.told.insert(path.clone(), (*file).clone()),
                None => self.told.remove(&path),
            };
            let Some(mut change) = change else { continue };
            change.writers = self.writers_of(&path);
            let change = Arc::new(change);
            self.recent.push_back(change.clone());
            if self.recent.len() > RECENT {
                self.recent.pop_front();
            }
            // Without a subscriber it is among the recent ones all the same.
            let _ = self.changes.send(change);
        }
        let writing = &self.writing;
        self.notices.retain(|notice| writing.contains(&notice.path));
    }

    /// Whoever wrote to `path`, to where it leads, or moved a directory above it.
    fn writers_of(&self, path: &Path) -> Vec<Writer> {
        let mut writers: Vec<Writer> = Vec::new();
        let concerns = |notice: &&Notice| {
            path.starts_with(&notice.path) || self.links.get(&notice.path).is_some_and(|link| link == path)
        };
        for writer in self.notices.iter().filter(concerns).filter_map(|notice| notice.writer.as_ref()) {
            match writers.iter().position(|known| known.pid == writer.pid) {
                Some(at) if writers[at].knows_less_than(writer) => writers[at] = writer.clone(),
                Some(_) => {}
                None if writers.len() < MAX_WRITERS => writers.push(writer.clone()),
                None => {}
            }
        }
        writers
    }

    /// Watches the nearest existing directory above each place. Returns whether there is a new one.
    fn watch(&mut self, found: &[(PathBuf, PathBuf)], existing: &HashSet<PathBuf>) -> bool {
        if !self.source.works() {
            return false;
        }
        let mut wanted = HashSet::new();
        self.relevant.clear();
        self.links.clear();
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
                self.relevant.insert(real.clone());
                self.links.insert(real, path.clone());
            }
        }
        self.source.tell_of(&self.relevant);
        for gone in self.watched.extract_if(|dir| !wanted.contains(dir)) {
            self.source.unwatch(&gone);
        }
        let mut more = false;
        for dir in wanted {
            if self.watched.contains(&dir) {
                continue;
            }
            let failure = match self.source.watch(&dir) {
                Ok(lacks) => {
                    more |= self.watched.insert(dir);
                    lacks
                }
                Err(e) if dir.is_dir() => {
                    Some(format!("{} is not watched: {e}; raise fs.inotify.max_user_watches", dir.display()))
                }
                Err(_) => None,
            };
            if let Some(failure) = failure
                && self.failures.len() < 20
                && !self.failures.contains(&failure)
            {
                tracing::warn!("{failure}");
                self.failures.push(failure);
            }
        }
        more
    }
}
