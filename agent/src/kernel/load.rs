//! Loads the object and attaches its programs, one by one: what one kernel refuses, another takes.

use std::collections::HashSet;
use std::path::Path;

use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, Program, ProgramError};
use aya::{Btf, Ebpf, EbpfLoader};

use super::hooks::{Role, SPECS, Spec};
use super::offsets::{self, Resolved};
use super::{pin, scope};

/// The object that build.rs found; empty if it found none.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lazaret-ebpf.o"));

/// The map of task labels.
pub(super) const LABELS: &str = "LABELS";

/// One program and what became of it.
pub(super) struct Attached {
    pub(super) spec: &'static Spec,
    /// The function that was hooked.
    pub(super) target: &'static str,
    pub(super) link: Option<FdLink>,
    pub(super) pinned: bool,
    pub(super) proven: bool,
    pub(super) reason: Option<String>,
}

pub(super) struct Loaded {
    pub(super) ebpf: Ebpf,
    btf: Btf,
    resolved: Resolved,
    pub(super) hooks: Vec<Attached>,
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
        for shape in pin::TAKEN_OVER {
            loader.map_pin_path(shape.name, pins.join(shape.name));
        }
    }
    let ebpf = loader.load(OBJECT).map_err(|e| format!("the kernel refused the maps: {}", chain(&e)))?;
    Ok(Loaded { ebpf, btf, resolved, hooks: Vec::new() })
}

impl Loaded {
    /// Loads and attaches every program of a role that is in `roles`.
    pub(super) fn attach(&mut self, roles: &[Role]) {
        for spec in SPECS.iter().filter(|spec| roles.contains(&spec.role)) {
            let Some(target) = self.target(spec) else { continue };
            let result = match offsets::lacks(&self.resolved.missing, spec.needs) {
                Some(lacks) => Err(lacks),
                None => attach(&mut self.ebpf, &self.btf, spec, target),
            };
            let (link, reason) = match result {
                Ok(link) => (Some(link), None),
                Err(reason) => (None, Some(reason)),
            };
            self.hooks.push(Attached { spec, target, link, pinned: false, proven: false, reason });
        }
    }

    /// `None` if this kernel has nothing to hook there and needs nothing.
    fn target(&self, spec: &Spec) -> Option<&'static str> {
        let functions: &HashSet<&str> = &self.resolved.functions;
        let found = spec.targets.iter().find(|name| functions.contains(*name)).copied();
        if spec.optional { found } else { found.or(spec.targets.first().copied()) }
    }

    pub(super) fn is_proven(&self, role: Role) -> bool {
        let mut of_role = self.hooks.iter().filter(|hook| hook.spec.role == role).peekable();
        of_role.peek().is_some() && of_role.all(|hook| hook.proven)
    }
}

fn attach(ebpf: &mut Ebpf, btf: &Btf, spec: &Spec, target: &str) -> Result<FdLink, String> {
    let program = ebpf.program_mut(spec.program).ok_or("the object does not have this program")?;
    attach_program(program, btf, target).map_err(|e| match &e {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            let last = log.lines().rev().find(|line| !is_statistics(line)).unwrap_or("");
            match io_error.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) if last.is_empty() => {
                    format!("the kernel refuses {} programs ({io_error})", spec.kind)
                }
                _ => format!("the kernel refused the program: {io_error}: {last}"),
            }
        }
        _ => format!("cannot attach: {}", chain(&e)),
    })
}

fn attach_program(program: &mut Program, btf: &Btf, target: &str) -> Result<FdLink, ProgramError> {
    Ok(match program {
        Program::BtfTracePoint(program) => {
            program.load(target, btf)?;
            let id = program.attach()?;
            program.take_link(id)?.into()
        }
        Program::Lsm(program) => {
            program.load(target, btf)?;
            let id = program.attach()?;
            program.take_link(id)?.into()
        }
        Program::FEntry(program) => {
            program.load(target, btf)?;
            let id = program.attach()?;
            program.take_link(id)?.into()
        }
        Program::FExit(program) => {
            program.load(target, btf)?;
            let id = program.attach()?;
            program.take_link(id)?.into()
        }
        Program::CgroupSockAddr(program) => {
            program.load()?;
            // The root cgroup: the scope is checked in the program.
            let root = std::fs::File::open(scope::cgroup_root().unwrap_or_default()).map_err(ProgramError::IOError)?;
            let id = program.attach(root, CgroupAttachMode::Single)?;
            program.take_link(id)?.try_into().map_err(|_| ProgramError::UnexpectedProgramType)?
        }
        _ => return Err(ProgramError::UnexpectedProgramType),
    })
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
