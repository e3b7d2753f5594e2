//! Shadow records: what the kernel caught outside the door, kept until a human has looked at it.
//!
//! One record stands for one way of starting a server (who, with which argv), however often it is
//! tried. The verdict was taken in the kernel before any of this runs; a record that cannot be
//! written loses evidence, never enforcement.

mod clients;
mod entries;
mod process;
mod record;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use lazaret_common::settings::MAX_ENTRIES;
use sha2::{Digest as _, Sha256};

use super::hold::Flagged;
use super::tree::Process;
use super::{Action, ConfigEntry, EventKind, Guard, KernelEvent};
use crate::admission::clients::{EntryError, Scan, all_secret};
use crate::admission::{Admission, AdmissionError, LaunchDefinition, Server, launch, valid_name};
use crate::audit::{AuditError, AuditLog, Entry, Kind, Outcome};
use crate::config::Evidence;
use crate::store::{Store, StoreError};

pub use clients::ConfigSource;
use clients::{Known, NamedRemote};
pub use record::{SeenProcess, ShadowSpawn, ShadowState};
use record::{merge, new_record, to_forget};

/// Process trees of one user that are told apart; forgetting one costs a second record, no verdict.
const MAX_TREES: usize = 1 << 14;
/// Records that are kept; beyond that the oldest that nobody has decided on make room, first those of the user
/// who has the most.
const MAX_RECORDS: usize = 10_000;

#[derive(Debug, thiserror::Error)]
pub enum ShadowError {
    #[error("there is no shadow record {0}; `lazaret shadow list` shows them")]
    NotFound(String),
    #[error("{0:?} stands for several shadow records; write more of its characters")]
    Ambiguous(String),
    #[error("shadow record {id} has no process that is held; it was {action} and can only be adopted or denied")]
    NothingHeld { id: String, action: &'static str },
    #[error("shadow record {id} has no living process to kill; nothing was done")]
    NothingAlive { id: String },
    #[error(
        "shadow record {id} was denied for good; to let that server in after all, add it by hand with `lazaret server add`"
    )]
    Denied { id: String },
    #[error("shadow record {id} is the server {server} already; `lazaret server show {server}` shows it")]
    Adopted { id: String, server: String },
    #[error("cannot make a server of shadow record {id}: {source}")]
    Launch { id: String, source: launch::LaunchError },
    #[error(
        "cannot make a server of shadow record {id}: {source}; `lazaret server add NAME --from-config ENTRY` takes what more it needs"
    )]
    Entry { id: String, source: EntryError },
    #[error("cannot adopt shadow record {id}: {source}")]
    Admission { id: String, source: AdmissionError },
    #[error("cannot reach the processes of shadow record {id}: {source}")]
    Kernel { id: String, source: super::KernelError },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Audit(#[from] AuditError),
}

/// An event, and what is known of its process beside it.
struct Seen<'e> {
    event: &'e KernelEvent,
    process: SeenProcess,
    source: Option<ConfigSource>,
}

pub struct Shadows {
    store: Arc<Store>,
    audit: Arc<AuditLog>,
    admission: Arc<Admission>,
    guard: Arc<Guard>,
    known: RwLock<Known>,
    /// Record of what was denied for good, by the kernel's number for it and the user.
    denied: RwLock<HashMap<(u64, u32), String>>,
    /// By user, the kernel's number for a process tree -> the record that it belongs to.
    trees: Mutex<HashMap<u32, HashMap<u64, String>>>,
    /// Something is held, as far as is known.
    holding: AtomicBool,
    /// An event was lost that nobody has looked for.
    lost: AtomicBool,
    digests: process::Digests,
    /// Records made since the start.
    created: AtomicUsize,
}

impl Shadows {
    pub fn new(store: Arc<Store>, audit: Arc<AuditLog>, admission: Arc<Admission>, guard: Arc<Guard>) -> Self {
        Self {
            store,
            audit,
            admission,
            guard,
            known: RwLock::default(),
            denied: RwLock::default(),
            trees: Mutex::default(),
            holding: AtomicBool::new(true),
            lost: AtomicBool::new(false),
            digests: process::Digests::default(),
            created: AtomicUsize::new(0),
        }
    }

    /// Tells the kernel what was denied for good, and the stdio entries of the client configs.
    /// Returns how many entries it now knows.
    pub fn learn(&self, scan: &Scan) -> Result<usize, ShadowError> {
        // What only its handshake convicted is convicted by it again. Its argv says nothing: as
        // evidence it would end every `bash` on the host because one of them was an MCP server.
        let by_argv = |shadow: &ShadowSpawn| {
            shadow.evidence.iter().any(|evidence| matches!(evidence, Evidence::Config | Evidence::Catalogue))
        };
        let denied: Vec<ShadowSpawn> =
            self.list()?.into_iter().filter(|shadow| shadow.state == ShadowState::Denied && by_argv(shadow)).collect();
        let mut entries: Vec<ConfigEntry> = Vec::new();
        let mut records = HashMap::new();
        for shadow in denied {
            match shadow.argv.split_first() {
                Some((command, args)) if !shadow.argv_truncated => {
                    let mut entry = clients::entry(command, args, Some(shadow.uid));
                    // Under the number of the config entry, if it had one: it stays the same record.
                    entry.id = shadow.config_entry.unwrap_or(entry.id);
                    records.insert((entry.id, shadow.uid), shadow.id);
                    entries.push(entry);
                }
                _ => tracing::warn!("shadow record {} is denied, but its argv is too long to be recognised", shadow.id),
            }
        }
        let known = Known::of(scan, (MAX_ENTRIES as usize).saturating_sub(entries.len()));
        entries.extend(known.entries());
        entries.truncate(MAX_ENTRIES as usize);
        self.guard.set_config_entries(&entries).map_err(|source| ShadowError::Kernel { id: "(all)".into(), source })?;
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = known;
        *self.denied.write().unwrap_or_else(PoisonError::into_inner) = records;
        Ok(entries.len())
    }

    pub fn list(&self) -> Result<Vec<ShadowSpawn>, ShadowError> {
        let mut all: Vec<ShadowSpawn> = self.store.list()?;
        all.sort_by_key(|shadow| std::cmp::Reverse(shadow.last_seen));
        Ok(all)
    }

    /// Finds a record by its id or by the beginning of it.
    pub fn get(&self, id: &str) -> Result<ShadowSpawn, ShadowError> {
        if let Some(shadow) = self.store.get(id)? {
            return Ok(shadow);
        }
        let mut found =
            self.store.list::<ShadowSpawn>()?.into_iter().filter(|s| s.id.starts_with(id) && !id.is_empty());
        match (found.next(), found.next()) {
            (Some(shadow), None) => Ok(shadow),
            (Some(_), Some(_)) => Err(ShadowError::Ambiguous(id.into())),
            (None, _) => Err(ShadowError::NotFound(id.into())),
        }
    }

    /// Writes down what the kernel saw, however much it is, in a few transactions. Returns the records of what convicts
    /// something, each with the last event of it.
    pub fn record_all<'e>(
        &self,
        events: &'e [KernelEvent],
    ) -> Result<Vec<(ShadowSpawn, &'e KernelEvent)>, ShadowError> {
        let mut ids: Vec<String> = Vec::new();
        let mut seen: Vec<Vec<Seen<'e>>> = Vec::new();
        for event in events.iter().filter(|event| event.kind != EventKind::Client) {
            let source = event.config_entry.and_then(|id| {
                let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
                known.named_by(id, event.uid).map(|named| named.source.clone())
            });
            let id = self.record_id(event, source.as_ref());
            let one = Seen { event, process: process::seen(event), source };
            match ids.iter().position(|known| *known == id) {
                Some(at) => seen[at].push(one),
                None => {
                    ids.push(id);
                    seen.push(vec![one]);
                }
            }
        }
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut shadows: Vec<ShadowSpawn> = Vec::new();
        self.store.update_all(&ids, |at, before: Option<ShadowSpawn>| {
            let mut shadow = before.unwrap_or_else(|| new_record(&ids[at], seen[at][0].event));
            for one in &seen[at] {
                merge(&mut shadow, one.event, one.process, one.source.clone());
            }
            shadows.push(shadow.clone());
            Ok::<_, ShadowError>(shadow)
        })?;
        let mut recorded = Vec::new();
        for (shadow, seen) in shadows.into_iter().zip(seen) {
            if shadow.first_seen == seen[0].event.at {
                self.make_room()?;
            }
            for entry in entries::of(&shadow, &seen) {
                self.audit.record(entry)?;
            }
            for one in seen.iter().filter(|one| one.event.action == Action::Held) {
                self.look_after(&shadow, one)?;
            }
            let last = seen.last().map(|one| one.event);
            recorded.extend(last.map(|event| (shadow, event)));
        }
        Ok(recorded)
    }

    /// A denial needs no second look: what the kernel only holds ends, not an instruction of it ran.
    /// One that is gone by now has no start time, and its pid may be somebody else's.
    fn look_after(&self, shadow: &ShadowSpawn, held: &Seen<'_>) -> Result<(), ShadowError> {
        self.holding.store(true, Ordering::Relaxed);
        if shadow.state == ShadowState::Denied
            && let Some(process) = held.process.process()
        {
            self.kill_all(shadow, &[process], &HashSet::from([held.event.shadow]))?;
        }
        Ok(())
    }

    /// Whoever starts things with ever new arguments fills no disk.
    fn make_room(&self) -> Result<(), ShadowError> {
        if !self.created.fetch_add(1, Ordering::Relaxed).is_multiple_of(MAX_RECORDS / 10) {
            return Ok(());
        }
        let all = self.list()?;
        for id in to_forget(&all, all.len().saturating_sub(MAX_RECORDS)) {
            self.store.delete::<ShadowSpawn>(id)?;
        }
        Ok(())
    }

    /// Adds the executable's digest to a record. Apart from [`Shadows::record`], since hashing a
    /// large executable takes longer than a person waits for the record.
    pub fn measure(&self, id: &str, event: &KernelEvent) -> Result<(), ShadowError> {
        let Some(digest) = self.digests.of(event) else { return Ok(()) };
        self.store.update(id, |before: Option<ShadowSpawn>| {
            let changed =
                before.filter(|shadow| shadow.exe == event.exe && shadow.exe_digest.is_none()).map(|mut shadow| {
                    shadow.exe_digest = Some(digest);
                    shadow
                });
            Ok((changed, ()))
        })
    }

    /// Makes a quarantined server of what was caught.
    pub fn adopt(&self, id: &str, name: Option<&str>, by: &str) -> Result<Server, ShadowError> {
        let shadow = self.get(id)?;
        if shadow.state == ShadowState::Denied {
            return Err(ShadowError::Denied { id: shadow.id });
        }
        self.check_not_adopted(&shadow)?;
        let remote = self.remote_of(&shadow);
        let definition = match &remote {
            Some(named) => named.definition().map_err(|source| ShadowError::Entry { id: shadow.id.clone(), source })?,
            None => self.launch_of(&shadow).map_err(|source| ShadowError::Launch { id: shadow.id.clone(), source })?,
        };
        let source = remote.map(|named| named.source).or_else(|| shadow.config_source.clone());
        let name = match name {
            Some(name) => name.to_owned(),
            None => self.free_name(&shadow, source.as_ref(), &launch::suggest_name(&definition))?,
        };
        let server = self
            .admission
            .add(&name, definition, &format!("shadow:{}", shadow.id), by)
            .map_err(|source| ShadowError::Admission { id: shadow.id.clone(), source })?;
        self.transition(&shadow.id, ShadowState::Adopted, by, Some(&server.name))?;
        Ok(server)
    }

    fn check_not_adopted(&self, shadow: &ShadowSpawn) -> Result<(), ShadowError> {
        let Some(server) = &shadow.server else { return Ok(()) };
        let id = || shadow.id.clone();
        match self.admission.get(server).map_err(|source| ShadowError::Admission { id: id(), source })? {
            Some(_) => Err(ShadowError::Adopted { id: id(), server: server.clone() }),
            None => Ok(()),
        }
    }

    /// Lets what is held run, this once.
    pub fn release(&self, id: &str, by: &str) -> Result<ShadowSpawn, ShadowError> {
        let shadow = self.get(id)?;
        if shadow.state == ShadowState::Denied {
            return Err(ShadowError::Denied { id: shadow.id });
        }
        let ids = self.numbers(&shadow);
        let mut held: HashSet<Process> =
            process::alive(&shadow).filter(|p| p.held).filter_map(SeenProcess::process).collect();
        held.extend(self.guard.flagged().iter().filter(|f| f.held && ids.contains(&f.shadow)).map(|f| f.process));
        let mut released = 0;
        for process in held {
            let result = self.guard.release(process);
            released += usize::from(result.map_err(|source| ShadowError::Kernel { id: shadow.id.clone(), source })?);
        }
        if released == 0 {
            return Err(ShadowError::NothingHeld { id: shadow.id, action: action_name(shadow.action) });
        }
        self.transition(&shadow.id, ShadowState::Released, by, None)
    }

    /// Processes that are stopped and wait for a decision.
    pub fn held(&self) -> Result<Vec<u32>, ShadowError> {
        let all = self.list()?;
        let recorded = all.iter().flat_map(|shadow| process::alive(shadow).filter(|p| p.held).map(|p| p.pid));
        let labelled = self.guard.flagged().into_iter().filter(|f| f.held).map(|f| f.process.pid);
        let held: BTreeSet<u32> = recorded.chain(labelled).collect();
        Ok(held.into_iter().collect())
    }

    /// Looks after what the kernel holds: stops again what somebody made run, and returns an event for each
    /// process that no record knows: its event was lost, or the records were. After a loss, also for each other
    /// convicted one that lives.
    pub fn forgotten(&self) -> Result<Vec<KernelEvent>, ShadowError> {
        let lost = self.lost.swap(false, Ordering::Relaxed);
        if !lost && !self.holding.load(Ordering::Relaxed) {
            return Ok(Vec::new());
        }
        let (held, mut running): (Vec<Flagged>, Vec<Flagged>) = self.guard.flagged().into_iter().partition(|f| f.held);
        self.holding.store(!held.is_empty(), Ordering::Relaxed);
        if held.is_empty() && (running.is_empty() || !lost) {
            return Ok(Vec::new());
        }
        for flagged in held.iter().filter(|flagged| !flagged.stopped) {
            self.guard
                .stop(flagged.process)
                .map_err(|source| ShadowError::Kernel { id: format!("(process {})", flagged.process.pid), source })?;
        }
        let all = self.list()?;
        let known: HashSet<Process> =
            all.iter().flat_map(|s| s.processes.iter().filter(|p| p.held).filter_map(SeenProcess::process)).collect();
        let mut unknown: Vec<&Flagged> = held.iter().filter(|flagged| !known.contains(&flagged.process)).collect();
        if lost {
            // A tree has one number: who began it stands for all.
            let mut numbers: HashSet<u64> = all.iter().flat_map(|s| s.processes.iter().map(|p| p.shadow)).collect();
            running.sort_by_key(|flagged| flagged.process.started);
            unknown.extend(running.iter().filter(|flagged| numbers.insert(flagged.shadow)));
        }
        Ok(unknown.into_iter().filter_map(|flagged| self.guard.describe_flagged(flagged)).collect())
    }

    /// An event was lost: perhaps one of a process that is held, or that runs.
    pub fn look_again(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }

    /// The kernel's numbers for the process trees of a record.
    fn numbers(&self, shadow: &ShadowSpawn) -> HashSet<u64> {
        let mut numbers: HashSet<u64> = shadow.processes.iter().map(|p| p.shadow).collect();
        let trees = self.trees.lock().unwrap_or_else(PoisonError::into_inner);
        let of_user = trees.get(&shadow.uid).into_iter().flatten();
        numbers.extend(of_user.filter(|(_, id)| **id == shadow.id).map(|(number, _)| *number));
        numbers.remove(&0);
        numbers
    }

    /// Ends every living process of the record, and their children.
    pub fn kill(&self, id: &str, by: &str) -> Result<ShadowSpawn, ShadowError> {
        let shadow = self.get(id)?;
        if self.kill_tree(&shadow)? == 0 {
            return Err(ShadowError::NothingAlive { id: shadow.id });
        }
        self.transition(&shadow.id, ShadowState::Killed, by, None)
    }

    /// Denies it for good: what still runs ends, and what convicted it convicts it again: an argv of
    /// a config or of the catalogue stays known to the kernel when the config changes.
    pub fn deny(&self, id: &str, by: &str) -> Result<ShadowSpawn, ShadowError> {
        let shadow = self.get(id)?;
        self.kill_tree(&shadow)?;
        self.transition(&shadow.id, ShadowState::Denied, by, None)
    }

    /// Ends every process of the record, and whatever descends from one. Returns how many that were.
    fn kill_tree(&self, shadow: &ShadowSpawn) -> Result<usize, ShadowError> {
        let roots: Vec<Process> = process::alive(shadow).filter_map(SeenProcess::process).collect();
        self.kill_all(shadow, &roots, &self.numbers(shadow))
    }

    fn kill_all(&self, shadow: &ShadowSpawn, roots: &[Process], numbers: &HashSet<u64>) -> Result<usize, ShadowError> {
        self.guard.kill(roots, numbers).map_err(|source| ShadowError::Kernel { id: shadow.id.clone(), source })
    }

    fn transition(
        &self,
        id: &str,
        to: ShadowState,
        by: &str,
        server: Option<&str>,
    ) -> Result<ShadowSpawn, ShadowError> {
        let shadow = self.store.update(id, |before: Option<ShadowSpawn>| {
            let mut shadow = before.ok_or_else(|| ShadowError::NotFound(id.into()))?;
            shadow.state = to;
            if to != ShadowState::Adopted {
                shadow.processes.iter_mut().for_each(|p| p.held = false);
            }
            if let Some(server) = server {
                shadow.server = Some(server.into());
            }
            Ok::<_, ShadowError>((Some(shadow.clone()), shadow))
        })?;
        let outcome = match to {
            ShadowState::Released => Outcome::Released,
            ShadowState::Killed => Outcome::Killed,
            ShadowState::Denied => Outcome::Deny,
            _ => Outcome::Ok,
        };
        let mut entry = Entry::new(Kind::Kernel, outcome, by)
            .detail(serde_json::json!({"shadow": id, "state": to}))
            .reason(format!("shadow record {id} is now {}", to.as_str()));
        if let Some(server) = server {
            entry = entry.server(server);
        }
        self.audit.record(entry)?;
        Ok(shadow)
    }

    /// The entry of that user's configs that leads to where a process reached which nothing else convicts: such a one
    /// is no server itself.
    fn remote_of(&self, shadow: &ShadowSpawn) -> Option<NamedRemote> {
        if shadow.evidence.iter().any(|evidence| *evidence != Evidence::Connect) {
            return None;
        }
        let named = self.known.read().unwrap_or_else(PoisonError::into_inner).remotes_of(shadow.uid);
        named.into_iter().find(|named| named.is_at(&shadow.addresses))
    }

    /// The config entry that the kernel matched says it best, if that user's config still has it;
    /// otherwise what the kernel saw.
    fn launch_of(&self, shadow: &ShadowSpawn) -> Result<LaunchDefinition, launch::LaunchError> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let named = shadow.config_entry.and_then(|id| Some((known.entry(id)?, known.named_by(id, shadow.uid)?)));
        if let Some((entry, named)) = named.filter(|(_, named)| shadow.config_source.as_ref() == Some(&named.source)) {
            let argv: Vec<String> = std::iter::once(&entry.command).chain(&entry.args).cloned().collect();
            let launch = launch::from_argv(&argv, &named.env, named.cwd.as_deref().unwrap_or(&shadow.cwd));
            return launch.map(all_secret);
        }
        let mut argv = shadow.argv.clone();
        // A bare name was looked up in a PATH that is gone; the kernel knows what it found.
        if let Some(program) = argv.first_mut()
            && !program.contains('/')
            && let Some(exe) = shadow.exe.to_str().filter(|exe| exe.starts_with('/'))
        {
            *program = exe.to_owned();
        }
        launch::from_argv(&argv, &BTreeMap::new(), &shadow.cwd)
    }

    /// The name in the client's config, else the suggested one; with a number if it is taken.
    fn free_name(
        &self,
        shadow: &ShadowSpawn,
        source: Option<&ConfigSource>,
        suggested: &str,
    ) -> Result<String, ShadowError> {
        let wish = source.map_or(suggested, |source| &source.name);
        let wish = if valid_name(wish) { wish } else { suggested };
        self.admission.free_name(wish).map_err(|source| ShadowError::Admission { id: shadow.id.clone(), source })
    }

    /// A tree keeps its record; otherwise the config entry or the argv names it.
    fn record_id(&self, event: &KernelEvent, source: Option<&ConfigSource>) -> String {
        let denied = self.denied.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = event.config_entry.and_then(|entry| denied.get(&(entry, event.uid))) {
            return id.clone();
        }
        let mut trees = self.trees.lock().unwrap_or_else(PoisonError::into_inner);
        let trees = trees.entry(event.uid).or_default();
        if event.shadow != 0
            && let Some(id) = trees.get(&event.shadow)
        {
            return id.clone();
        }
        let mut hash = Sha256::new();
        hash.update(event.uid.to_le_bytes());
        let parts: Vec<&str> = match source {
            Some(source) => vec!["config", &source.client, source.path.to_str().unwrap_or_default(), &source.name],
            None => std::iter::once("argv").chain(event.argv.iter().map(String::as_str)).collect(),
        };
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let id = hex::encode(&hash.finalize()[..5]);
        if event.shadow != 0 {
            if trees.len() >= MAX_TREES {
                trees.clear();
            }
            trees.insert(event.shadow, id.clone());
        }
        id
    }
}

fn action_name(action: Action) -> &'static str {
    match action {
        Action::Observed => "only observed",
        Action::Held => "held, but has ended",
        Action::Killed => "killed before it ran",
        Action::Denied => "denied",
    }
}
