//! The guard: starts the kernel side, and carries out what the rest of the house asks of it.
//!
//! Nothing is in scope until every hook was proven and every map is filled: the scope is the last
//! thing that is written.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya::maps::RingBuf;
use lazaret_common::label::{HELD, INERT, Label, RELEASED, TRUSTED};
use lazaret_common::plain::Plain as _;
use lazaret_common::settings::{
    CONTAINER_ID, EntryKey, ExecutableKey, MAX_ENTRIES, MODE_ENFORCE, MODE_HOLD, MODE_OBSERVE, Settings,
};
use tokio::sync::mpsc;

use super::events::Reader;
use super::hooks::Role;
use super::load::Loaded;
use super::trust::Executable;
use super::{
    Backend, ConfigEntry, KernelError, KernelEvent, KernelReport, KernelSettings, catalogue, entries, events, load,
    maps, pin, prove, report, scope, sys, trust,
};
use crate::config::{Evidence, Mode};

/// Events that wait for the daemon; behind them the ring buffer fills.
const QUEUE: usize = 4096;
/// Seconds after which a launch grant that no container took is void.
const GRANT_SECONDS: i64 = 120;

pub struct Guard {
    settings: KernelSettings,
    active: Mutex<Active>,
    bad_events: Arc<AtomicU64>,
}

pub(super) struct Active {
    pub(super) loaded: Option<Loaded>,
    /// Why nothing is loaded.
    pub(super) reason: String,
    pub(super) mode: Mode,
    pub(super) written: Settings,
    pub(super) trusted: Vec<Executable>,
    pub(super) took_over: bool,
    /// Why nothing was pinned that should have been.
    pub(super) not_pinned: Option<String>,
    /// Lock on the directory of the pins.
    pins: Option<std::fs::File>,
    reader: Option<Reader>,
}

impl Guard {
    /// Loads, attaches and proves what this kernel takes. Where it takes nothing, the guard is
    /// there all the same and its report says why; only a scope that cannot be is an error.
    pub fn start(settings: KernelSettings) -> Result<(Self, mpsc::Receiver<KernelEvent>), KernelError> {
        let mut written = Settings::default();
        scope::apply(&settings.scope, &mut written)?;
        modes(&mut written, settings.mode, &settings.evidence);
        let (sender, receiver) = mpsc::channel(QUEUE);
        let bad_events = Arc::new(AtomicU64::new(0));
        let mut active = Active {
            loaded: None,
            reason: String::new(),
            mode: settings.mode,
            written,
            trusted: Vec::new(),
            took_over: false,
            not_pinned: None,
            pins: None,
            reader: None,
        };
        if settings.pin {
            active.prepare_pins(&settings.bpf_dir)?;
        }
        if let Err(reason) = active.start(&settings, sender, bad_events.clone()) {
            tracing::error!("the kernel guards nothing: {reason}");
            active.loaded = None;
            active.reason = reason;
        }
        Ok((Self { settings, active: Mutex::new(active), bad_events }, receiver))
    }

    fn active(&self) -> MutexGuard<'_, Active> {
        // Nothing is left half done where a panic could happen.
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn report(&self) -> KernelReport {
        let active = self.active();
        report::of(&active, &self.settings, self.bad_events.load(Ordering::Relaxed))
    }

    pub fn backend(&self) -> Backend {
        report::backend(self.active().loaded.as_ref())
    }

    /// Replaces the config entries that the kernel knows.
    pub fn set_config_entries(&self, config: &[ConfigEntry]) -> Result<(), KernelError> {
        if config.len() > MAX_ENTRIES as usize {
            return Err(KernelError::TooManyEntries { count: config.len(), max: MAX_ENTRIES as usize });
        }
        let mut active = self.active();
        let Some(loaded) = active.loaded.as_mut() else { return Ok(()) };
        let keys: Vec<(EntryKey, u64)> = config.iter().map(|entry| (entries::key(entry), entry.id)).collect();
        // Lengths first, or an entry would be there that nothing looks up.
        let mut lengths = maps::table::<4, 4>(&mut loaded.ebpf, "ENTRY_LENGTHS")?;
        for (key, _) in &keys {
            lengths.put_bytes(key.length.to_ne_bytes(), [1, 0, 0, 0])?;
        }
        let wanted: HashSet<u32> = keys.iter().map(|(key, _)| key.length).collect();
        for (length, _) in lengths.all() {
            if !wanted.contains(&u32::from_ne_bytes(length)) {
                lengths.remove(length);
            }
        }
        let mut table = maps::table::<{ size_of::<EntryKey>() }, 8>(&mut loaded.ebpf, "ENTRIES")?;
        for (key, _) in table.all() {
            if !keys.iter().any(|(wanted, _)| wanted.bytes() == key) {
                table.remove(key);
            }
        }
        for (key, id) in &keys {
            let mut bytes = [0; size_of::<EntryKey>()];
            bytes.copy_from_slice(key.bytes());
            table.put_bytes(bytes, id.to_ne_bytes())?;
        }
        Ok(())
    }

    /// Changes what happens to what is convicted from now on.
    pub fn set_mode(&self, mode: Mode, evidence: &BTreeMap<Evidence, Mode>) -> Result<(), KernelError> {
        let mut active = self.active();
        let mut written = active.written;
        modes(&mut written, mode, evidence);
        if let Some(loaded) = active.loaded.as_mut() {
            maps::settings(&mut loaded.ebpf, &written)?;
        }
        active.written = written;
        active.mode = mode;
        Ok(())
    }

    /// Approves the next process that starts in the cgroup of this container, once. `id` has 64 hex digits.
    pub fn grant_container(&self, id: &str) -> Result<(), KernelError> {
        let Ok(key) = <[u8; CONTAINER_ID]>::try_from(id.as_bytes()) else {
            let source =
                io::Error::new(io::ErrorKind::InvalidInput, format!("{id:?} is not a container id of 64 digits"));
            return Err(KernelError::Map { map: "GRANTS", source });
        };
        let mut active = self.active();
        let mut written = active.written;
        let Some(loaded) = active.loaded.as_mut() else { return Ok(()) };
        let now = sys::boot_clock();
        let mut grants = maps::table::<CONTAINER_ID, 8>(&mut loaded.ebpf, "GRANTS")?;
        for (id, at) in grants.all() {
            if now - i64::from_ne_bytes(at) > GRANT_SECONDS * 1_000_000_000 {
                grants.remove(id);
            }
        }
        grants.put_bytes(key, now.to_ne_bytes())?;
        written.grants = grants.all().len() as u32;
        maps::settings(&mut loaded.ebpf, &written)?;
        active.written = written;
        Ok(())
    }

    /// The label of a process: flags of [`lazaret_common::label`] and its shadow. `None`: it has none.
    pub fn label(&self, pid: u32) -> Result<Option<Label>, KernelError> {
        let active = self.active();
        let loaded = active.loaded("read a label")?;
        let map = maps::labels(&loaded.ebpf).ok_or_else(|| maps::missing(load::LABELS))?;
        let failed = |source| KernelError::Signal { pid, source };
        let pidfd = sys::pidfd_open(pid).map_err(failed)?;
        Ok(map.get(pidfd.as_fd()).map_err(failed)?.and_then(|bytes| Label::read(&bytes)))
    }

    /// Lets a held process go on; nothing convicts it or its children any more.
    pub fn release(&self, pid: u32) -> Result<(), KernelError> {
        let failed = |source| KernelError::Signal { pid, source };
        let pidfd = sys::pidfd_open(pid).map_err(failed)?;
        let active = self.active();
        let loaded = active.loaded("release a process")?;
        set_flags(loaded, pid, RELEASED, HELD)?;
        sys::pidfd_signal(pidfd.as_fd(), libc::SIGCONT).map_err(failed)
    }

    /// Ends a process, everything below it, and every process of the same shadow, wherever it went.
    /// Returns how many were ended.
    pub fn kill_tree(&self, pid: u32) -> Result<usize, KernelError> {
        let shadow = self.label(pid).ok().flatten().map_or(0, |label| label.shadow);
        let mut ended = HashSet::new();
        // What forks meanwhile is found in the next round.
        for _ in 0..16 {
            let doomed: Vec<u32> = self.tree(pid, shadow).into_iter().filter(|pid| !ended.contains(pid)).collect();
            if doomed.is_empty() {
                break;
            }
            for pid in doomed {
                ended.insert(pid);
                match sys::pidfd_open(pid).and_then(|pidfd| sys::pidfd_signal(pidfd.as_fd(), libc::SIGKILL)) {
                    Ok(()) => {}
                    Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {}
                    Err(source) => return Err(KernelError::Signal { pid, source }),
                }
            }
        }
        Ok(ended.len())
    }

    fn tree(&self, root: u32, shadow: u64) -> Vec<u32> {
        let parents: Vec<(u32, u32)> =
            trust::processes().filter_map(|pid| trust::parent(pid).map(|parent| (pid, parent))).collect();
        let mut tree: HashSet<u32> = parents.iter().filter(|(pid, _)| *pid == root).map(|(pid, _)| *pid).collect();
        loop {
            let before = tree.len();
            let below: Vec<u32> =
                parents.iter().filter(|(_, parent)| tree.contains(parent)).map(|(pid, _)| *pid).collect();
            tree.extend(below);
            if tree.len() == before {
                break;
            }
        }
        if shadow != 0 {
            let same = |pid: &u32| matches!(self.label(*pid), Ok(Some(label)) if label.shadow == shadow);
            tree.extend(parents.iter().map(|(pid, _)| *pid).filter(same));
        }
        tree.remove(&std::process::id());
        tree.into_iter().collect()
    }

    /// Takes everything out of the kernel, what is pinned included.
    pub fn detach(&self) -> Result<(), KernelError> {
        let mut active = self.active();
        if let Some(mut loaded) = active.loaded.take() {
            maps::settings(&mut loaded.ebpf, &Settings::default())?;
        }
        active.reader = None;
        active.reason = "it was detached".into();
        if self.settings.pin && active.not_pinned.is_none() {
            pin::detach_pinned(&self.settings.bpf_dir)?;
        }
        Ok(())
    }
}

impl crate::sandbox::LaunchGrant for Guard {
    fn grant(&self, container_id: &str) {
        if let Err(e) = self.grant_container(container_id) {
            tracing::error!("the kernel will not know the container {container_id}: {e}");
        }
    }
}

impl Active {
    fn loaded(&self, action: &'static str) -> Result<&Loaded, KernelError> {
        self.loaded.as_ref().ok_or_else(|| KernelError::NotLoaded { action, reason: self.reason.clone() })
    }

    /// What another daemon guards is not taken over as long as that one lives.
    fn prepare_pins(&mut self, dir: &Path) -> Result<(), KernelError> {
        match pin::prepare(dir) {
            Ok((found, lock)) => {
                self.took_over = found;
                self.pins = Some(lock);
                Ok(())
            }
            Err(e @ KernelError::InUse { .. }) => Err(e),
            // Better guarded as long as the daemon lives than not at all.
            Err(e) => {
                self.not_pinned = Some(e.to_string());
                Ok(())
            }
        }
    }

    fn start(
        &mut self,
        settings: &KernelSettings,
        sender: mpsc::Sender<KernelEvent>,
        bad: Arc<AtomicU64>,
    ) -> Result<(), String> {
        let pins = self.pins.is_some().then_some(settings.bpf_dir.as_path());
        let mut loaded = load::load(pins)?;
        loaded.attach(&[Role::Exec, Role::ExtraFork, Role::Handshake, Role::DenyConnect]);
        prove::prove(&mut loaded);
        for weaker in [Role::KillConnect, Role::CgroupConnect] {
            if !loaded.is_proven(Role::DenyConnect) && !loaded.is_proven(Role::KillConnect) {
                loaded.attach(&[weaker]);
                prove::prove(&mut loaded);
            }
        }
        if !loaded.is_proven(Role::Exec) {
            let why: Vec<String> = loaded
                .hooks
                .iter()
                .filter(|hook| hook.spec.role == Role::Exec && !hook.proven)
                .map(|hook| format!("{}: {}", hook.target, hook.reason.as_deref().unwrap_or("not proven")))
                .collect();
            return Err(format!("exec cannot be guarded: {}", why.join("; ")));
        }
        self.fill(&mut loaded, settings).map_err(|e| e.to_string())?;
        let ring = loaded.ebpf.take_map("EVENTS").ok_or("the object has no ring buffer")?;
        let ring = RingBuf::try_from(ring).map_err(|e| load::chain(&e))?;
        self.reader =
            Some(events::start(ring, sender, bad).map_err(|e| format!("cannot start the event thread: {e}"))?);
        maps::settings(&mut loaded.ebpf, &self.written).map_err(|e| e.to_string())?;
        if let Some(dir) = pins {
            pin::settings(dir, &loaded.ebpf).map_err(|e| e.to_string())?;
            pin::links(dir, &mut loaded.hooks).map_err(|e| e.to_string())?;
        }
        self.loaded = Some(loaded);
        Ok(())
    }

    /// Fills the maps; nothing is in scope yet.
    fn fill(&mut self, loaded: &mut Loaded, settings: &KernelSettings) -> Result<(), KernelError> {
        let catalogue = catalogue::built_in()?;
        let ebpf = &mut loaded.ebpf;
        let mut steps = maps::table::<42, 2>(ebpf, "STEPS")?;
        for (key, step) in &catalogue.steps {
            steps.put(key, step)?;
        }
        for (index, state) in catalogue.states.iter().enumerate() {
            maps::set_at::<2>(ebpf, "STATE_RULES", index as u32, state)?;
        }
        maps::packages(ebpf, &catalogue.packages)?;
        let mut protected = maps::table::<108, 4>(ebpf, "PROTECTED")?;
        for path in &catalogue.protected {
            protected.put_bytes(*path, [1, 0, 0, 0])?;
        }
        self.trusted = settings.trusted.iter().filter_map(|path| trust::identify(path)).collect();
        let own = std::env::current_exe().ok();
        // Somebody else could put another program there: trusted only where it is this very binary.
        self.trusted.retain(|e| !e.replaceable || Some(&e.path) == own.as_ref());
        let inert = trust::inert(&catalogue.inert);
        let mut executables = maps::table::<{ size_of::<ExecutableKey>() }, 4>(ebpf, "EXECUTABLES")?;
        for (executables_of, flags) in [(&inert, INERT), (&self.trusted, TRUSTED)] {
            for executable in executables_of {
                let mut key = [0; size_of::<ExecutableKey>()];
                key.copy_from_slice(executable.key.bytes());
                executables.put_bytes(key, flags.to_ne_bytes())?;
            }
        }
        for pid in trust::running(&self.trusted) {
            // It may have ended meanwhile.
            if let Err(e) = set_flags(loaded, pid, TRUSTED, 0) {
                tracing::debug!("process {pid} was not labelled: {e}");
            }
        }
        Ok(())
    }
}

fn modes(settings: &mut Settings, mode: Mode, evidence: &BTreeMap<Evidence, Mode>) {
    let of = |kind| match evidence.get(&kind).copied().unwrap_or(mode) {
        Mode::Observe => MODE_OBSERVE,
        Mode::Hold => MODE_HOLD,
        Mode::Enforce => MODE_ENFORCE,
    };
    settings.modes = [of(Evidence::Config), of(Evidence::Catalogue), of(Evidence::Handshake), of(Evidence::Connect)];
}

fn set_flags(loaded: &Loaded, pid: u32, set: u32, clear: u32) -> Result<(), KernelError> {
    let failed = |source| KernelError::Signal { pid, source };
    let map = maps::labels(&loaded.ebpf).ok_or_else(|| maps::missing(load::LABELS))?;
    let pidfd = sys::pidfd_open(pid).map_err(failed)?;
    let mut label = map.get(pidfd.as_fd()).map_err(failed)?.and_then(|bytes| Label::read(&bytes)).unwrap_or_default();
    label.flags = label.flags & !clear | set;
    let mut bytes = [0; size_of::<Label>()];
    bytes.copy_from_slice(label.bytes());
    map.set(pidfd.as_fd(), bytes).map_err(failed)
}
