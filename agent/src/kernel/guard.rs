//! The guard: starts the kernel side, and carries out what the rest of the house asks of it.
//!
//! Nothing is in scope until every hook was proven and every map is filled: the scope is the last
//! thing that is written.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya::maps::{Map, MapData};
use lazaret_common::hook::LOST_AND_TOLD;
use lazaret_common::label::{Label, TRUSTED};
use lazaret_common::plain::Plain as _;
use lazaret_common::settings::{CONTAINER_ID, EntryKey, MAX_ENTRIES, MODE_ENFORCE, MODE_HOLD, MODE_OBSERVE, Settings};
use tokio::sync::mpsc;

use super::candidates::Watcher;
use super::entries::LeftOut;
use super::events::{Batch, Reader};
use super::hooks::Role;
use super::load::Loaded;
use super::trust::Executable;
use super::{
    Backend, ConfigEntry, KernelError, KernelReport, KernelSettings, catalogue, endpoints, entries, events, hold, load,
    maps, pin, prove, report, scope, sys, trust,
};
use crate::config::{Evidence, Mode};

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
    /// Where this binary was when it started.
    own: Option<PathBuf>,
    /// Commands of config entries that the kernel was not told of, and why.
    pub(super) left_out: Vec<(LeftOut, String)>,
    pub(super) took_over: bool,
    /// Why nothing that runs already is judged.
    pub(super) not_judged: Option<String>,
    /// Why nothing was pinned that should have been.
    pub(super) not_pinned: Option<String>,
    /// Lock on the directory of the pins.
    pins: Option<std::fs::File>,
    reader: Option<Reader>,
    pub(super) watcher: Option<Watcher>,
}

impl Guard {
    /// Loads, attaches and proves what this kernel takes. Where it takes nothing, the guard is
    /// there all the same and its report says why; only a scope that cannot be is an error.
    pub fn start(settings: KernelSettings) -> Result<(Self, mpsc::Receiver<Batch>), KernelError> {
        let mut written = Settings::default();
        scope::apply(&settings.scope, &mut written)?;
        modes(&mut written, settings.mode, &settings.evidence);
        written.below_clients =
            if settings.connect_below_clients == Mode::Enforce { MODE_ENFORCE } else { MODE_OBSERVE };
        let (sender, receiver) = mpsc::channel(1);
        let bad_events = Arc::new(AtomicU64::new(0));
        let mut active = Active {
            loaded: None,
            reason: String::new(),
            mode: settings.mode,
            written,
            trusted: Vec::new(),
            own: None,
            left_out: Vec::new(),
            took_over: false,
            not_pinned: None,
            not_judged: None,
            pins: None,
            reader: None,
            watcher: None,
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

    pub(super) fn active(&self) -> MutexGuard<'_, Active> {
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

    /// Looks again which files the trusted executables are: one that is replaced is another file.
    pub fn refresh_trusted(&self) -> Result<(), KernelError> {
        self.active().refresh_trusted(&self.settings.trusted)
    }

    /// Directories in which a trusted executable may be replaced.
    pub fn trusted_paths(&self) -> &[PathBuf] {
        &self.settings.trusted
    }

    /// Replaces the config entries that the kernel knows.
    pub fn set_config_entries(&self, config: &[ConfigEntry]) -> Result<(), KernelError> {
        if config.len() > MAX_ENTRIES as usize {
            return Err(KernelError::TooManyEntries { count: config.len(), max: MAX_ENTRIES as usize });
        }
        let mut active = self.active();
        let mut keys: Vec<(EntryKey, u64)> = Vec::new();
        let mut left_out = Vec::new();
        for entry in config {
            match entries::key(entry) {
                Ok(key) => keys.push((key, entry.id)),
                Err(why) => left_out.push((why, entry.command.clone())),
            }
        }
        active.leave_out(left_out);
        let Some(loaded) = active.loaded.as_mut() else { return Ok(()) };
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

    /// Replaces the remote MCP servers that the kernel knows.
    pub fn set_endpoints(&self, addresses: &[SocketAddr]) -> Result<(), KernelError> {
        let mut active = self.active();
        let Some(loaded) = active.loaded.as_mut() else { return Ok(()) };
        endpoints::write(&mut loaded.ebpf, addresses)
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

    /// Events that are on no record, and how many of them were told of, by whichever daemon.
    pub fn lost_events(&self) -> (u64, u64) {
        let active = self.active();
        active
            .loaded
            .as_ref()
            .map_or((0, 0), |loaded| (maps::lost(&loaded.ebpf), maps::counter(&loaded.ebpf, LOST_AND_TOLD)))
    }

    /// So many lost events were told of.
    pub fn told_of_lost(&self, count: u64) -> Result<(), KernelError> {
        let mut active = self.active();
        let Some(loaded) = active.loaded.as_mut() else { return Ok(()) };
        let map = loaded.ebpf.map_mut(maps::COUNTERS).ok_or_else(|| maps::missing(maps::COUNTERS))?;
        maps::set_counter(map, LOST_AND_TOLD, count)
    }

    pub(super) fn below_clients(&self) -> Mode {
        self.settings.connect_below_clients
    }

    pub(super) fn scope(&self) -> &crate::config::Scope {
        &self.settings.scope
    }

    /// What happens to each kind of evidence, as the kernel was told.
    pub(super) fn modes(&self) -> [u8; 4] {
        self.active().written.modes
    }

    /// Ends what an earlier daemon's programs do: from now on only this one's guard. Until they know what those
    /// knew, both do.
    pub fn settle(&self) -> Result<(), KernelError> {
        let active = self.active();
        let Some(loaded) = active.loaded.as_ref().filter(|_| self.settings.pin && active.not_pinned.is_none()) else {
            return Ok(());
        };
        pin::settle(&self.settings.bpf_dir, &loaded.hooks)?;
        // What is attached on demand went with the links of the daemon before: it bears the same names.
        active.watcher.as_ref().map_or(Ok(()), |watcher| watcher.pin(&self.settings.bpf_dir))
    }

    /// An MCP client was started.
    pub fn expect_servers(&self) {
        if let Some(watcher) = &self.active().watcher {
            watcher.expect();
        }
    }

    /// The daemon ends and the kernel goes on guarding: what is attached on demand is attached for good.
    pub fn leave(&self) {
        let active = self.active();
        if let Some(watcher) = active.watcher.as_ref().filter(|_| active.pins.is_some()) {
            watcher.leave();
        }
    }

    /// Takes everything out of the kernel, what is pinned included.
    pub fn detach(&self) -> Result<(), KernelError> {
        let mut active = self.active();
        if let Some(watcher) = active.watcher.take() {
            watcher.detach();
        }
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
    pub(super) fn loaded(&self, action: &'static str) -> Result<&Loaded, KernelError> {
        self.loaded.as_ref().ok_or_else(|| KernelError::NotLoaded { action, reason: self.reason.clone() })
    }

    /// What another daemon guards is not taken over as long as that one lives.
    fn prepare_pins(&mut self, dir: &Path) -> Result<(), KernelError> {
        match pin::prepare(dir, &load::shapes()) {
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
        sender: mpsc::Sender<Batch>,
        bad: Arc<AtomicU64>,
    ) -> Result<(), String> {
        let pins = self.pins.is_some().then_some(settings.bpf_dir.as_path());
        // Before all that takes its time: what a daemon before has pinned goes on reporting meanwhile.
        let waiting = pins.and_then(events::pinned);
        let read = |map: &MapData| {
            events::start(map, pins, sender, bad).map_err(|e| format!("cannot read the kernel's events: {e}"))
        };
        let mut loaded = match waiting {
            Some(map) => {
                self.reader = Some(read(&map)?);
                load::load(pins)?
            }
            None => {
                let loaded = load::load(pins)?;
                let Some(Map::RingBuf(map)) = loaded.ebpf.map(events::EVENTS) else {
                    return Err("the object has no ring buffer".into());
                };
                self.reader = Some(read(map)?);
                loaded
            }
        };
        loaded.attach(&[Role::Exec, Role::ThreadExec, Role::Tamper, Role::Handshake, Role::DenyConnect, Role::Hold]);
        prove::prove(&mut loaded);
        if !loaded.is_proven(Role::ThreadExec) {
            loaded.attach(&[Role::ThreadExecFunction]);
            prove::prove(&mut loaded);
        }
        if !loaded.is_proven(Role::Hold) {
            loaded.attach(&[Role::HoldBySignals]);
            prove::prove(&mut loaded);
        }
        if loaded.is_proven(Role::Handshake) {
            for role in [Role::OtherChannels, Role::Terminals] {
                let ends =
                    |hook: &load::Attached| hook.spec.hook == lazaret_common::hook::Hook::TerminalEnd && hook.proven;
                if role == Role::OtherChannels || loaded.hooks.iter().any(ends) {
                    loaded.attach(&[role]);
                    prove::prove(&mut loaded);
                }
            }
        }
        if let Err(why) = loaded.load_judge() {
            self.not_judged = Some(why);
        }
        const CONNECT: [Role; 3] = [Role::DenyConnect, Role::ModifyConnect, Role::KillConnect];
        for weaker in [Role::ModifyConnect, Role::KillConnect, Role::CgroupConnect] {
            if !CONNECT.iter().any(|role| loaded.is_proven(*role)) {
                loaded.attach(&[weaker]);
                prove::prove(&mut loaded);
            }
        }
        loaded.attach(&[Role::DenySend]);
        prove::prove(&mut loaded);
        if !loaded.is_proven(Role::DenySend) {
            loaded.attach(&[Role::ModifySend]);
            prove::prove(&mut loaded);
        }
        let sends = loaded.is_proven(Role::DenySend) || loaded.is_proven(Role::ModifySend);
        if sends && settings.connect_below_clients == Mode::Enforce {
            loaded.attach(&[Role::DoorEnd]);
            prove::prove(&mut loaded);
        }
        if !loaded.is_proven(Role::Handshake) {
            self.watch(&mut loaded, &settings.scope);
        }
        loaded.forget_object();
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
        maps::settings(&mut loaded.ebpf, &self.written).map_err(|e| e.to_string())?;
        if let Some(dir) = pins {
            hold::carry_labels(dir, &loaded);
            pin::settings(dir, &loaded.ebpf).map_err(|e| e.to_string())?;
            pin::links(dir, &mut loaded.hooks).map_err(|e| e.to_string())?;
            if let Some(watcher) = &self.watcher {
                watcher.pin(dir).map_err(|e| e.to_string())?;
            }
        }
        self.loaded = Some(loaded);
        Ok(())
    }

    /// Where functions cannot be hooked: tracepoints of sockets, and programs on system calls on demand.
    fn watch(&mut self, loaded: &mut Loaded, scope: &crate::config::Scope) {
        loaded.attach(&[Role::Sockets, Role::UnixByName, Role::Ring, Role::OnDemand, Role::Candidates]);
        prove::prove(loaded);
        loaded.release(Role::OnDemand);
        if !loaded.is_proven(Role::OnDemand) || !loaded.is_proven(Role::Candidates) {
            loaded.release(Role::Candidates);
            return;
        }
        match Watcher::start(loaded, scope) {
            Ok(watcher) => self.watcher = Some(watcher),
            Err(why) => {
                tracing::error!("what goes through pipes is not watched: {why}");
                loaded.release(Role::Candidates);
            }
        }
    }

    /// Fills the maps; nothing is in scope yet.
    fn fill(&mut self, loaded: &mut Loaded, settings: &KernelSettings) -> Result<(), KernelError> {
        let catalogue = catalogue::built_in()?;
        let ebpf = &mut loaded.ebpf;
        catalogue.write(ebpf)?;
        endpoints::protect(ebpf, &catalogue.protected, &settings.engines)?;
        self.own = std::env::current_exe().ok();
        self.trusted = trust::trusted(&settings.trusted, self.own.as_deref());
        trust::write(loaded, &self.trusted, &trust::tools(&catalogue.inert), &trust::tools(&catalogue.rewriting))?;
        label_running(loaded, &self.trusted);
        Ok(())
    }

    fn leave_out(&mut self, mut left_out: Vec<(LeftOut, String)>) {
        left_out.sort_unstable();
        left_out.dedup();
        for (why, command) in left_out.iter().filter(|one| !self.left_out.contains(one)) {
            tracing::warn!("a client config starts a server as {command}: {why}");
        }
        self.left_out = left_out;
    }

    /// Trusts what has taken the place of a trusted executable. What somebody other than root can replace is
    /// trusted as the file that it was at the start, and as no other.
    fn refresh_trusted(&mut self, paths: &[PathBuf]) -> Result<(), KernelError> {
        let Some(loaded) = self.loaded.as_mut() else { return Ok(()) };
        let mut now = trust::trusted(paths, self.own.as_deref());
        now.retain(|executable| !executable.replaceable);
        now.extend(self.trusted.iter().filter(|executable| executable.replaceable).cloned());
        let (new, gone): (Vec<_>, Vec<_>) = (
            now.iter().filter(|executable| !self.trusted.contains(executable)).cloned().collect(),
            self.trusted.iter().filter(|executable| !now.contains(executable)).cloned().collect(),
        );
        if new.is_empty() && gone.is_empty() {
            return Ok(());
        }
        for executable in &new {
            tracing::info!("{} was replaced or installed: it is trusted from now on", executable.path.display());
        }
        trust::forget(loaded, &gone)?;
        trust::write(loaded, &new, &[], &[])?;
        label_running(loaded, &new);
        self.trusted = now;
        Ok(())
    }
}

/// This process is the door whatever started it: what it was started with was root's choice.
fn label_running(loaded: &Loaded, executables: &[Executable]) {
    for pid in trust::running(executables).into_iter().chain([std::process::id()]) {
        // It may have ended meanwhile.
        if let Err(e) = set_flags(loaded, pid, TRUSTED, 0) {
            tracing::debug!("process {pid} was not labelled: {e}");
        }
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

pub(super) fn set_flags(loaded: &Loaded, pid: u32, set: u32, clear: u32) -> Result<(), KernelError> {
    let failed = |source| KernelError::Signal { pid, source };
    let map = maps::labels(&loaded.ebpf).ok_or_else(|| maps::missing(load::LABELS))?;
    let pidfd = sys::pidfd_open(pid).map_err(failed)?;
    let mut label = map.get(pidfd.as_fd()).map_err(failed)?.and_then(|bytes| Label::read(&bytes)).unwrap_or_default();
    label.flags = label.flags & !clear | set;
    let mut bytes = [0; size_of::<Label>()];
    bytes.copy_from_slice(label.bytes());
    map.set(pidfd.as_fd(), bytes).map_err(failed)
}
