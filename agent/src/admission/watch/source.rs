//! Where the watch hears of changes: fanotify, which names the process, and inotify where that is refused.
//!
//! Whoever owns a home can make more events than are handled in time. Further ones are not kept; it is only
//! remembered that there were some.

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

use super::sys::{self, DirId, Group, Raw, Read};
use super::writer::{Writer, Writers, borrowed};

/// Signals that may wait while a rescan runs.
const WAITING: usize = 4096;

pub(super) enum Signal {
    Changed(Notice),
    /// Somebody wants the configs read now.
    Look,
}

/// Something happened to a path.
#[derive(Debug)]
pub(super) struct Notice {
    pub path: PathBuf,
    pub kind: Kind,
    /// `None` where only inotify saw it.
    pub writer: Option<Writer>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Something was written, and more may follow.
    Writing,
    /// It stands there whole: closed, moved there, linked.
    Done,
    /// It is not there any more, or another is.
    Gone,
}

/// What comes out of a [`Source`].
pub(super) struct Signals {
    pub queue: Receiver<Signal>,
    pub lost: Arc<AtomicBool>,
}

/// What the thread that reads events must know.
#[derive(Default)]
pub(super) struct Watched {
    /// A directory may be known under several paths.
    dirs: HashMap<DirId, Vec<PathBuf>>,
    relevant: HashSet<PathBuf>,
}

pub(super) type Shared = Arc<Mutex<Watched>>;
pub(super) type Lost = Arc<AtomicBool>;
/// The group, and what ends its thread.
pub(super) type Fanotify = std::io::Result<(Arc<Group>, UnixStream)>;
/// A source, what comes out of it, and what could not be had.
pub(super) type Parts = (Source, Signals, Vec<String>);

pub(super) struct Source {
    group: Option<Arc<Group>>,
    /// `None` where this host has none left; then only starts and requests rescan.
    inotify: Option<RecommendedWatcher>,
    by_inotify: HashSet<PathBuf>,
    watched: Shared,
    signals: SyncSender<Signal>,
    /// Its end ends the thread that reads events.
    _stop: Option<UnixStream>,
}

impl Source {
    /// Returns what could not be had as well.
    pub(super) fn start() -> Parts {
        Self::start_with(fanotify)
    }

    /// As [`Source::start`], where fanotify is had by `open`.
    pub(super) fn start_with(open: impl FnOnce(&Shared, &SyncSender<Signal>, &Lost) -> Fanotify) -> Parts {
        let (sender, queue) = sync_channel(WAITING);
        let signals = Signals { queue, lost: Arc::default() };
        let watched = Shared::default();
        let mut failures = Vec::new();
        let (group, stop) = match open(&watched, &sender, &signals.lost) {
            Ok((group, stop)) => (Some(group), Some(stop)),
            Err(e) => {
                failures.push(format!(
                    "whoever changes a client config is not named: fanotify is refused ({e}); run the daemon as root, outside of a container"
                ));
                (None, None)
            }
        };
        let inotify = match inotify(sender.clone(), signals.lost.clone()) {
            Ok(watcher) => Some(watcher),
            Err(e) if group.is_none() => {
                failures.push(format!("client configs are not watched: {e}; raise fs.inotify.max_user_instances"));
                None
            }
            Err(_) => None,
        };
        let source = Self { group, inotify, by_inotify: HashSet::new(), watched, signals: sender, _stop: stop };
        (source, signals, failures)
    }

    /// Whether anything can be watched at all.
    pub(super) fn works(&self) -> bool {
        self.group.is_some() || self.inotify.is_some()
    }

    /// Watches a directory. `Ok` may carry what is lacking.
    pub(super) fn watch(&mut self, dir: &Path) -> Result<Option<String>, String> {
        let mut lacks = None;
        if let Some(group) = &self.group {
            match group.add(dir) {
                Ok(id) => {
                    let mut watched = lock(&self.watched);
                    let paths = watched.dirs.entry(id).or_default();
                    if !paths.iter().any(|path| path == dir) {
                        paths.push(dir.into());
                    }
                    return Ok(None);
                }
                Err(e) => {
                    lacks = Some(format!("whoever changes a config in {} is not named: {e}", dir.display()));
                }
            }
        }
        let Some(inotify) = &mut self.inotify else { return Err("there is no inotify instance left".into()) };
        inotify.watch(dir, RecursiveMode::NonRecursive).map_err(|e| e.to_string())?;
        self.by_inotify.insert(dir.into());
        Ok(lacks)
    }

    /// The directory is not wanted any more.
    pub(super) fn unwatch(&mut self, dir: &Path) {
        let by_inotify = self.by_inotify.contains(dir);
        self.forget(dir);
        // It may be gone, and its watch with it.
        if let Some(group) = self.group.as_ref().filter(|_| !by_inotify) {
            let _ = group.remove(dir);
        }
    }

    /// The directory went away; what stands under its path later is another.
    pub(super) fn forget(&mut self, dir: &Path) {
        if self.by_inotify.remove(dir)
            && let Some(inotify) = &mut self.inotify
        {
            let _ = inotify.unwatch(dir);
        }
        lock(&self.watched).dirs.retain(|_, paths| {
            paths.retain(|path| path != dir);
            !paths.is_empty()
        });
    }

    /// The paths whose changes are told.
    pub(super) fn tell_of(&self, relevant: &HashSet<PathBuf>) {
        lock(&self.watched).relevant.clone_from(relevant);
    }

    /// Asks whoever follows to read the configs now. A full queue has one such request in it, or as good.
    pub(super) fn look(&self) {
        let _ = self.signals.try_send(Signal::Look);
    }
}

fn lock(watched: &Shared) -> MutexGuard<'_, Watched> {
    watched.lock().unwrap_or_else(PoisonError::into_inner)
}

fn fanotify(watched: &Shared, sender: &SyncSender<Signal>, lost: &Lost) -> Fanotify {
    let group = Arc::new(Group::open()?);
    let (stop, stopped) = UnixStream::pair()?;
    let (watched, sender, lost) = (watched.clone(), sender.clone(), lost.clone());
    let reader = group.clone();
    std::thread::Builder::new()
        .name("config-events".into())
        .spawn(move || read_events(&reader, &stopped, &watched, &sender, &lost))?;
    Ok((group, stop))
}

/// Names the writer of each event at once, before it can end. Nothing here waits for anything else.
fn read_events(group: &Group, stop: &UnixStream, watched: &Shared, sender: &SyncSender<Signal>, lost: &AtomicBool) {
    sys::hurry();
    let mut buffer = vec![0; 64 << 10];
    let mut writers = Writers::default();
    let tell = |signal| {
        if sender.try_send(signal).is_err() {
            lost.store(true, Ordering::Release);
        }
    };
    loop {
        let events = match group.read(stop.as_fd(), &mut buffer) {
            Ok(Read::Events(events)) => events,
            Ok(Read::Lost) => {
                lost.store(true, Ordering::Release);
                tell(Signal::Look);
                continue;
            }
            Ok(Read::Stopped) => return,
            Err(e) => {
                tracing::error!("client configs are not watched any more: cannot read fanotify events: {e}");
                return;
            }
        };
        for event in events {
            for (path, concerns) in places(watched, &event) {
                // Also of a file that will be renamed into a config's place: its writer may not live that long.
                let writer = writers.look(event.pid, borrowed(&event.pidfd));
                if concerns {
                    tell(Signal::Changed(Notice { path, kind: kind_of(event.mask), writer }));
                }
            }
        }
    }
}

/// The paths that an event is about, and whether their change matters.
fn places(watched: &Shared, event: &Raw) -> Vec<(PathBuf, bool)> {
    let watched = lock(watched);
    let dirs = watched.dirs.get(&event.dir).map(Vec::as_slice).unwrap_or_default();
    let path = |dir: &PathBuf| if event.name == "." { dir.clone() } else { dir.join(&event.name) };
    let told = |path: PathBuf| match watched.relevant.contains(&path) {
        true => Some((path, true)),
        false => resembles(&watched.relevant, &path).then_some((path, false)),
    };
    dirs.iter().map(path).filter_map(told).collect()
}

/// `.claude.json.tmp.1234` beside `.claude.json`.
fn resembles(relevant: &HashSet<PathBuf>, path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return false };
    let dir = path.parent();
    let ends = name.char_indices().skip(1).map(|(at, _)| &name[..at]);
    let inner = ends.flat_map(|end| [end, end.trim_start_matches('.')]);
    inner.filter(|part| part.len() > 2).any(|part| dir.is_some_and(|dir| relevant.contains(&dir.join(part))))
}

fn kind_of(mask: u64) -> Kind {
    let done = libc::FAN_CLOSE_WRITE | libc::FAN_MOVED_TO;
    let gone = libc::FAN_DELETE | libc::FAN_MOVED_FROM | libc::FAN_DELETE_SELF | libc::FAN_MOVE_SELF;
    match mask {
        mask if mask & gone != 0 => Kind::Gone,
        mask if mask & done != 0 => Kind::Done,
        mask if mask & libc::FAN_MODIFY != 0 => Kind::Writing,
        _ => Kind::Done,
    }
}

fn inotify(sender: SyncSender<Signal>, lost: Arc<AtomicBool>) -> notify::Result<RecommendedWatcher> {
    notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let signals: Vec<Signal> = match event {
            Ok(event) if !event.need_rescan() => match kind_of_inotify(event.kind) {
                Some(kind) => {
                    event.paths.into_iter().map(|path| Signal::Changed(Notice { path, kind, writer: None })).collect()
                }
                // Reading is no change, and we read ourselves.
                None => Vec::new(),
            },
            _ => {
                lost.store(true, Ordering::Release);
                vec![Signal::Look]
            }
        };
        for signal in signals {
            // Full, or the receiver has gone, and so has the watch.
            if sender.try_send(signal).is_err() {
                lost.store(true, Ordering::Release);
            }
        }
    })
}

fn kind_of_inotify(kind: EventKind) -> Option<Kind> {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(Kind::Done),
        EventKind::Access(_) => None,
        EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) => Some(Kind::Gone),
        EventKind::Modify(ModifyKind::Data(_)) => Some(Kind::Writing),
        _ => Some(Kind::Done),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_to_take_a_configs_place_resembles_it() {
        let relevant =
            HashSet::from([PathBuf::from("/home/ann/.claude.json"), PathBuf::from("/home/ann/.cursor/mcp.json")]);
        for path in ["/home/ann/.claude.json.tmp.12", "/home/ann/.claude.json~", "/home/ann/.cursor/mcp.json.new"] {
            assert!(resembles(&relevant, Path::new(path)), "{path}");
        }
        for path in ["/home/ann/.bash_history", "/home/ann/x", "/home/ann/mcp.json.new"] {
            assert!(!resembles(&relevant, Path::new(path)), "{path}");
        }
    }
}
