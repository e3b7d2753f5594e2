//! Loads the object and attaches its programs, one by one: what one kernel refuses, another takes.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, Program, ProgramError};
use aya::{Btf, Ebpf, EbpfLoader};

use super::fmod_ret;
use super::hooks::{Role, SPECS, Spec};
use super::offsets::{self, Resolved};
use super::pin::Shape;
use super::{KernelError, pin, scope, sys};

/// The object that build.rs found; empty if it found none.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lazaret-ebpf.o"));

/// The map of task labels.
pub(super) const LABELS: &str = "LABELS";
/// The kind of program that aya cannot load.
const FMOD_RET: &str = "fmod_ret";
/// The program that judges an argv for user space.
const JUDGE: &str = "judge";

/// Keeps a program attached.
pub(super) enum Link {
    Aya(FdLink),
    /// Of a program that aya cannot load.
    Raw(OwnedFd),
}

impl Link {
    /// Keeps it attached for as long as `path` is there.
    pub(super) fn pin(self, path: &Path) -> Result<(), String> {
        match self {
            Link::Aya(link) => link.pin(path).map(|_| ()).map_err(|e| chain(&e)),
            Link::Raw(fd) => sys::pin(fd.as_fd(), path).map_err(|e| e.to_string()),
        }
    }
}

/// One program and what became of it.
pub(super) struct Attached {
    pub(super) spec: &'static Spec,
    /// The function that was hooked.
    pub(super) target: &'static str,
    pub(super) link: Option<Link>,
    pub(super) pinned: bool,
    pub(super) proven: bool,
    pub(super) reason: Option<String>,
}

pub(super) struct Loaded {
    pub(super) ebpf: Ebpf,
    btf: Btf,
    resolved: Resolved,
    /// Made when the first program needs it.
    fmod_ret: Option<Result<fmod_ret::Loader, String>>,
    pub(super) hooks: Vec<Attached>,
}

/// The shapes of the object's maps; none if there is no object.
pub(super) fn shapes() -> HashMap<String, Shape> {
    let maps = aya_obj::Object::parse(OBJECT).map(|object| object.maps).unwrap_or_default();
    let shape = |map: &aya_obj::Map| Shape {
        kind: map.map_type(),
        key: map.key_size(),
        value: map.value_size(),
        entries: map.max_entries(),
    };
    maps.iter().map(|(name, map)| (name.clone(), shape(map))).collect()
}

/// Makes the maps and takes the programs into memory; nothing is attached yet. The error says in
/// plain words why nothing can be guarded.
pub(super) fn load(pins: Option<&Path>) -> Result<Loaded, String> {
    if OBJECT.is_empty() {
        return Err("built without kernel programs: run `cargo xtask ebpf`, then build again".into());
    }
    let resolved = offsets::resolve().map_err(|e| e.to_string())?;
    let btf = Btf::from_sys_fs().map_err(|e| format!("cannot read the kernel's type information: {e}"))?;
    let words = resolved.offsets.words();
    let mut loader = EbpfLoader::new();
    loader.btf(Some(&btf)).allow_unsupported_maps().override_global("OFFSETS", &words[..], true);
    if let Some(pins) = pins {
        for name in pin::TAKEN_OVER {
            loader.map_pin_path(name, pins.join(name));
        }
    }
    let ebpf = loader.load(OBJECT).map_err(|e| format!("the kernel refused the maps: {}", chain(&e)))?;
    Ok(Loaded { ebpf, btf, resolved, fmod_ret: None, hooks: Vec::new() })
}

impl Loaded {
    /// Loads and attaches every program of a role that is in `roles`.
    pub(super) fn attach(&mut self, roles: &[Role]) {
        let specs: Vec<(&'static Spec, &'static str)> = SPECS
            .iter()
            .filter(|spec| roles.contains(&spec.role))
            .filter_map(|spec| Some((spec, self.target(spec)?)))
            .collect();
        let mut loaded = self.load_all(&specs);
        for (spec, target) in specs {
            let result = match loaded.remove(spec.program) {
                Some(Err(reason)) => Err(reason),
                Some(Ok(())) => attach(&mut self.ebpf, spec).map(Link::Aya),
                None => match offsets::lacks(&self.resolved.missing, spec.needs) {
                    Some(lacks) => Err(lacks),
                    None if spec.kind == FMOD_RET => self.attach_fmod_ret(spec, target),
                    None => self.attach_unix_connect(spec),
                },
            };
            let (link, reason) = match result {
                Ok(link) => (Some(link), None),
                Err(reason) => (None, Some(reason)),
            };
            self.hooks.push(Attached { spec, target, link, pinned: false, proven: false, reason });
        }
    }

    /// Takes the programs that aya can load into memory, by name; on all processors at once, since nearly all of that
    /// is the verifier's work.
    fn load_all(&mut self, specs: &[(&'static Spec, &'static str)]) -> HashMap<&'static str, Result<(), String>> {
        let mut wanted: HashMap<&str, _> = specs
            .iter()
            .filter(|(spec, _)| spec.kind != FMOD_RET && spec.role != Role::UnixByName)
            .filter(|(spec, _)| offsets::lacks(&self.resolved.missing, spec.needs).is_none())
            .map(|(spec, target)| (spec.program, (*spec, *target)))
            .collect();
        let mut results: HashMap<_, _> =
            wanted.keys().map(|name| (*name, Err("the object does not have this program".to_owned()))).collect();
        let jobs: Vec<_> = self
            .ebpf
            .programs_mut()
            .filter_map(|(name, program)| wanted.remove(name).map(|(spec, target)| (spec, target, program)))
            .collect();
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(jobs.len());
        let (jobs, btf) = (Mutex::new(jobs), &self.btf);
        let work = || {
            let mut done = Vec::new();
            // Taken in a statement of its own, or the lock would be held while the program is loaded.
            loop {
                let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).pop();
                let Some((spec, target, program)) = job else { return done };
                let start = Instant::now();
                let result = load_program(program, btf, target).map_err(|e| refused(&e, spec.kind));
                let reason = result.as_ref().err();
                tracing::debug!(program = spec.program, kind = spec.kind, took = ?start.elapsed(), reason, "a kernel program was tried");
                done.push((spec.program, result));
            }
        };
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..workers).map(|_| scope.spawn(work)).collect();
            results.extend(work());
            for other in others {
                // What a worker that panicked had in hand stays not loaded.
                results.extend(other.join().unwrap_or_default());
            }
        });
        results
    }

    fn attach_fmod_ret(&mut self, spec: &Spec, target: &str) -> Result<Link, String> {
        let loader = self.fmod_ret.get_or_insert_with(|| fmod_ret::Loader::new(OBJECT, &self.ebpf));
        match loader {
            Ok(loader) => loader.attach(spec.program, target, &self.btf).map(Link::Raw),
            Err(e) => Err(e.clone()),
        }
    }

    fn attach_unix_connect(&mut self, spec: &Spec) -> Result<Link, String> {
        let root = scope::cgroup_root().ok_or("no cgroup v2 hierarchy is mounted")?;
        let loader = self.fmod_ret.get_or_insert_with(|| fmod_ret::Loader::new(OBJECT, &self.ebpf));
        match loader {
            Ok(loader) => loader.attach_unix_connect(spec.program, &root).map(Link::Raw),
            Err(e) => Err(e.clone()),
        }
    }

    /// Nothing more is attached that aya cannot attach.
    pub(super) fn forget_object(&mut self) {
        self.fmod_ret = None;
    }

    /// `None` if this kernel has nothing to hook there and needs nothing.
    fn target(&self, spec: &Spec) -> Option<&'static str> {
        let functions: &HashSet<&str> = &self.resolved.functions;
        let found = spec.targets.iter().find(|name| functions.contains(*name)).copied();
        if spec.optional { found } else { found.or(spec.targets.first().copied()) }
    }

    /// Takes the program into memory that judges what user space shows it. It is attached nowhere.
    pub(super) fn load_judge(&mut self) -> Result<(), String> {
        let program = self.ebpf.program_mut(JUDGE).ok_or("the object does not have this program")?;
        match program {
            Program::RawTracePoint(program) => program.load().map_err(|e| refused(&e, "raw_tp")),
            _ => Err("it is of another kind".into()),
        }
    }

    pub(super) fn run_judge(&self) -> Result<(), KernelError> {
        let failed = |source| KernelError::Judge { source };
        let program = self.ebpf.program(JUDGE).and_then(|program| program.fd().ok());
        let program = program.ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))?;
        sys::run_program(program.as_fd()).map_err(failed)
    }

    /// Detaches what is attached elsewhere from now on, or not at all.
    pub(super) fn release(&mut self, role: Role) {
        for hook in self.hooks.iter_mut().filter(|hook| hook.spec.role == role) {
            hook.link = None;
        }
    }

    pub(super) fn is_proven(&self, role: Role) -> bool {
        let mut of_role = self.hooks.iter().filter(|hook| hook.spec.role == role).peekable();
        of_role.peek().is_some() && of_role.all(|hook| hook.proven)
    }
}

fn attach(ebpf: &mut Ebpf, spec: &Spec) -> Result<FdLink, String> {
    let program = ebpf.program_mut(spec.program).ok_or("the object does not have this program")?;
    attach_program(program).map_err(|e| refused(&e, spec.kind))
}

/// What a kernel says against a program, in plain words.
fn refused(e: &ProgramError, kind: &str) -> String {
    match e {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            let last = last_words(&log);
            match io_error.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) if last.is_empty() => {
                    format!("the kernel refuses {kind} programs ({io_error})")
                }
                _ => format!("the kernel refused the program: {io_error}: {last}"),
            }
        }
        _ => format!("cannot attach: {}", chain(e)),
    }
}

fn load_program(program: &mut Program, btf: &Btf, target: &str) -> Result<(), ProgramError> {
    match program {
        Program::BtfTracePoint(program) => program.load(target, btf),
        Program::Lsm(program) => program.load(target, btf),
        Program::FEntry(program) => program.load(target, btf),
        Program::FExit(program) => program.load(target, btf),
        Program::CgroupSockAddr(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

fn attach_program(program: &mut Program) -> Result<FdLink, ProgramError> {
    Ok(match program {
        Program::BtfTracePoint(program) => {
            let id = program.attach()?;
            program.take_link(id)?.into()
        }
        Program::Lsm(program) => {
            let id = program.attach()?;
            program.take_link(id)?.into()
        }
        Program::FEntry(program) => {
            let id = program.attach()?;
            program.take_link(id)?.into()
        }
        Program::FExit(program) => {
            let id = program.attach()?;
            program.take_link(id)?.into()
        }
        Program::CgroupSockAddr(program) => {
            // The root cgroup: the scope is checked in the program.
            let root = std::fs::File::open(scope::cgroup_root().unwrap_or_default()).map_err(ProgramError::IOError)?;
            let id = program.attach(root, CgroupAttachMode::Single)?;
            program.take_link(id)?.try_into().map_err(|_| ProgramError::UnexpectedProgramType)?
        }
        _ => return Err(ProgramError::UnexpectedProgramType),
    })
}

/// Why the verifier refused, as it says last of all.
pub(super) fn last_words(log: &str) -> &str {
    log.lines().rev().find(|line| !is_statistics(line)).unwrap_or("")
}

/// What the verifier says at the end of every log.
fn is_statistics(line: &str) -> bool {
    ["processed ", "stack depth ", "verification time "].iter().any(|start| line.starts_with(start)) || line.is_empty()
}

/// An error and its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
