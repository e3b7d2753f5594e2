//! Attaches and detaches the programs on system calls.
//!
//! Invariant: the kernel is told that they are attached after they are, and that they are not before.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use aya::Ebpf;
use aya::maps::{Array, MapData};
use aya::programs::Program;
use lazaret_common::plain::Plain as _;
use lazaret_common::watch::{Gate, PIPE, SOCKET, TERMINAL, Watch};

use super::super::hooks::Role;
use super::super::load::{self, Loaded};
use super::super::{KernelError, sys};
use super::OnDemand;

/// Names of the programs; the one that catches readers comes first.
const PROGRAMS: [&str; 2] = ["sys_exit", "sys_enter"];
/// Fifty times what attaching takes: on a busy machine the daemon has to come to a processor first.
const GATE_NS: u64 = 20_000_000;

pub(super) struct Switch {
    programs: Vec<(&'static str, OwnedFd)>,
    links: Vec<OwnedFd>,
    watch: Array<MapData, [u8; size_of::<Watch>()]>,
    gate: Array<MapData, [u8; size_of::<Gate>()]>,
    settings: Watch,
    pins: Option<PathBuf>,
    /// Nothing is attached or detached any more.
    settled: bool,
    attachments: u64,
    longest_us: u64,
}

impl Switch {
    pub(super) fn new(loaded: &mut Loaded) -> Result<Self, String> {
        let programs = PROGRAMS
            .iter()
            .map(|name| Ok((*name, descriptor(&loaded.ebpf, name)?)))
            .collect::<Result<Vec<_>, String>>()?;
        // Node gives its servers sockets. Where those are watched always, they make no candidates.
        let sockets = if loaded.is_proven(Role::Sockets) { 0 } else { SOCKET };
        let settings = Watch {
            attached: 0,
            kinds: PIPE | sockets,
            kinds_below: TERMINAL,
            looks: PIPE | TERMINAL | sockets,
            gate_ns: GATE_NS,
        };
        let mut switch = Self {
            programs,
            links: Vec::new(),
            watch: array(&mut loaded.ebpf, "WATCH")?,
            gate: array(&mut loaded.ebpf, "GATE")?,
            settings,
            pins: None,
            settled: false,
            attachments: 0,
            longest_us: 0,
        };
        switch.tell(0)?;
        Ok(switch)
    }

    pub(super) fn report(&self) -> OnDemand {
        let gate = self.gate.get(&0, 0).ok().and_then(|bytes| Gate::read(&bytes)).unwrap_or_default();
        OnDemand {
            attached: !self.links.is_empty(),
            attachments: self.attachments,
            longest_us: self.longest_us,
            waited: gate.waited,
            late: gate.late,
            ..OnDemand::default()
        }
    }

    pub(super) fn attach(&mut self) {
        if self.settled || !self.links.is_empty() {
            return;
        }
        let start = Instant::now();
        let links: std::io::Result<Vec<OwnedFd>> =
            self.programs.iter().map(|(_, program)| sys::attach_tracing(program.as_fd())).collect();
        match links.map_err(|e| e.to_string()).and_then(|links| {
            self.links = links;
            self.tell(1)
        }) {
            Ok(()) => {
                self.attachments += 1;
                self.longest_us = self.longest_us.max(start.elapsed().as_micros() as u64);
            }
            Err(e) => tracing::error!("the programs on system calls cannot be attached: {e}; handshakes go unseen"),
        }
        if let Err(e) = self.pin_links() {
            tracing::error!("{e}");
        }
    }

    pub(super) fn detach(&mut self) {
        if self.settled || self.links.is_empty() {
            return;
        }
        if let Err(e) = self.tell(0) {
            tracing::error!("{e}; the programs on system calls stay attached");
            return;
        }
        self.unpin();
        self.links.clear();
    }

    /// Attached from now on, with or without a daemon.
    pub(super) fn leave(&mut self) {
        self.attach();
        self.settled = true;
    }

    pub(super) fn detach_for_good(&mut self) {
        self.settled = false;
        self.detach();
        self.settled = true;
    }

    pub(super) fn pin(&mut self, dir: &Path) -> Result<(), KernelError> {
        self.pins = Some(dir.into());
        self.pin_links()
    }

    fn paths(&self) -> Vec<PathBuf> {
        self.pins.iter().flat_map(|dir| PROGRAMS.map(|name| super::super::pin::link_path(dir, name))).collect()
    }

    fn pin_links(&self) -> Result<(), KernelError> {
        for (path, link) in self.paths().iter().zip(&self.links) {
            let _ = std::fs::remove_file(path); // of the daemon before; there may be none
            sys::pin(link.as_fd(), path).map_err(|e| KernelError::Pin { path: path.clone(), reason: e.to_string() })?;
        }
        Ok(())
    }

    fn unpin(&self) {
        for path in self.paths() {
            if let Err(e) = std::fs::remove_file(&path)
                && e.kind() != std::io::ErrorKind::NotFound
            {
                tracing::error!("cannot remove {}: {e}; the programs on system calls stay attached", path.display());
            }
        }
    }

    fn tell(&mut self, attached: u32) -> Result<(), String> {
        let mut bytes = [0; size_of::<Watch>()];
        bytes.copy_from_slice(Watch { attached, ..self.settings }.bytes());
        self.watch.set(0, bytes, 0).map_err(|e| format!("cannot write the kernel map WATCH: {}", load::chain(&e)))
    }
}

fn descriptor(ebpf: &Ebpf, name: &str) -> Result<OwnedFd, String> {
    match ebpf.program(name) {
        Some(Program::BtfTracePoint(program)) => {
            let fd = program.fd().map_err(|e| load::chain(&e))?;
            fd.as_fd().try_clone_to_owned().map_err(|e| e.to_string())
        }
        _ => Err(format!("the object does not have the program {name}")),
    }
}

fn array<const N: usize>(ebpf: &mut Ebpf, name: &str) -> Result<Array<MapData, [u8; N]>, String> {
    let map = ebpf.take_map(name).ok_or_else(|| format!("the object does not have the map {name}"))?;
    Array::try_from(map).map_err(|e| load::chain(&e))
}
