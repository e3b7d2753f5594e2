//! What the guard does to processes that were convicted: find them wherever they went, release, kill.
//!
//! A shadow's processes are found by the kernel's own label, which follows them over fork, a new session and
//! a new parent, and which a restart of the daemon does not lose. None is signalled by its pid alone.

use std::collections::HashSet;
use std::os::fd::AsFd as _;
use std::path::Path;

use lazaret_common::label::{FLAGGED, HELD, Label, RELEASED};
use lazaret_common::plain::Plain as _;

use super::load::Loaded;
use super::sys::TaskMap;
use super::tree::{self, Process, Stat};
use super::{Guard, KernelError, load, maps, pin};

/// Rounds in which everything of a tree is found and stopped, however it forks meanwhile.
const ROUNDS: usize = 64;

/// A process that carries the label of a shadow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flagged {
    pub process: Process,
    /// The kernel's number of the shadow.
    pub shadow: u64,
    /// Bits of the evidence against it.
    pub(super) told: u32,
    /// It waits for a human's decision.
    pub held: bool,
    /// It stands still.
    pub stopped: bool,
}

/// Labels longer than this are of no version that this one knows.
const LONGEST_LABEL: usize = 256;
/// Times that all processes are gone through: what forked meanwhile is found in the next.
const PASSES: usize = 8;

/// Gives processes the labels that another version's programs gave them. A label only ever grows at its end.
pub(super) fn carry_labels(dir: &Path, loaded: &Loaded) {
    let Some((data, info)) = pin::labels_before(dir) else { return };
    let before = TaskMap::<LONGEST_LABEL>::up_to(data.fd().as_fd(), info.key_size(), info.value_size());
    let (Some(before), Some(now)) = (before, maps::labels(&loaded.ebpf)) else {
        tracing::error!("the labels of the version before cannot be read: approvals and held processes of it are lost");
        return;
    };
    let mut done = HashSet::new();
    for _ in 0..PASSES {
        let known = done.len();
        for stat in tree::all() {
            if !done.insert(stat.process) {
                continue;
            }
            let Ok(Some(pidfd)) = tree::open(stat.process) else { continue };
            let old = before.get(pidfd.as_fd()).ok().flatten().and_then(|bytes| Label::read(&bytes));
            let new = now.get(pidfd.as_fd()).ok().flatten().and_then(|bytes| Label::read(&bytes)).unwrap_or_default();
            if let Some(mut label) = old {
                label.flags |= new.flags;
                label.shadow = if new.shadow == 0 { label.shadow } else { new.shadow };
                let mut bytes = [0; size_of::<Label>()];
                bytes.copy_from_slice(label.bytes());
                if let Err(e) = now.set(pidfd.as_fd(), bytes) {
                    tracing::error!("process {} lost its label: {e}", stat.process.pid);
                }
            }
        }
        if done.len() == known {
            return;
        }
    }
}

impl Guard {
    /// Every living process that evidence has convicted. Without kernel programs there is none.
    pub fn flagged(&self) -> Vec<Flagged> {
        tree::all().into_iter().filter_map(|stat| self.flagged_as(&stat)).collect()
    }

    fn flagged_as(&self, stat: &Stat) -> Option<Flagged> {
        let label = self.label_of(stat.process)?;
        (label.flags & FLAGGED != 0).then_some(Flagged {
            process: stat.process,
            shadow: label.shadow,
            told: label.told,
            held: label.flags & (HELD | RELEASED) == HELD,
            stopped: matches!(stat.state, 'T' | 't'),
        })
    }

    /// `None`: it has ended, or has no label.
    pub(super) fn label_of(&self, process: Process) -> Option<Label> {
        let active = self.active();
        let map = maps::labels(&active.loaded.as_ref()?.ebpf)?;
        let pidfd = tree::open(process).ok()??;
        map.get(pidfd.as_fd()).ok()?.and_then(|bytes| Label::read(&bytes))
    }

    /// Changes a label. `false`: the process has ended.
    pub(super) fn relabel(&self, process: Process, change: impl FnOnce(&mut Label)) -> Result<bool, KernelError> {
        let failed = |source| KernelError::Signal { pid: process.pid, source };
        let active = self.active();
        let loaded = active.loaded("label a process")?;
        let map = maps::labels(&loaded.ebpf).ok_or_else(|| maps::missing(load::LABELS))?;
        let Some(pidfd) = tree::open(process).map_err(failed)? else { return Ok(false) };
        let mut label =
            map.get(pidfd.as_fd()).map_err(failed)?.and_then(|bytes| Label::read(&bytes)).unwrap_or_default();
        change(&mut label);
        let mut bytes = [0; size_of::<Label>()];
        bytes.copy_from_slice(label.bytes());
        map.set(pidfd.as_fd(), bytes).map_err(failed)?;
        Ok(true)
    }

    /// Lets a held process go on; nothing convicts it or its children any more. `false`: it has ended.
    pub fn release(&self, process: Process) -> Result<bool, KernelError> {
        // The label first: it is what stops whoever is only continued.
        if !self.relabel(process, |label| label.flags = label.flags & !HELD | RELEASED)? {
            return Ok(false);
        }
        tree::signal(process, libc::SIGCONT).map_err(|source| KernelError::Signal { pid: process.pid, source })
    }

    /// Stops a held process that runs all the same.
    pub fn stop(&self, process: Process) -> Result<bool, KernelError> {
        tree::signal(process, libc::SIGSTOP).map_err(|source| KernelError::Signal { pid: process.pid, source })
    }

    /// Ends these processes, everything below them, and every process of these shadows, wherever it went.
    /// Returns how many were ended.
    pub fn kill(&self, roots: &[Process], shadows: &HashSet<u64>) -> Result<usize, KernelError> {
        let doomed = self.stop_all(roots, shadows, |_| Ok(()))?;
        for process in &doomed {
            tree::signal(*process, libc::SIGKILL).map_err(|source| KernelError::Signal { pid: process.pid, source })?;
        }
        Ok(doomed.len())
    }

    /// Stops them until nothing new is found: what stands still forks nothing, and keeps its parent.
    pub(super) fn stop_all(
        &self,
        roots: &[Process],
        shadows: &HashSet<u64>,
        mut before: impl FnMut(Process) -> Result<(), KernelError>,
    ) -> Result<HashSet<Process>, KernelError> {
        let mut stopped: HashSet<Process> = HashSet::new();
        for _ in 0..ROUNDS {
            let known = stopped.len();
            for process in self.tree(roots, shadows) {
                if stopped.insert(process) {
                    before(process)?;
                    self.stop(process)?;
                }
            }
            if stopped.len() == known {
                break;
            }
        }
        Ok(stopped)
    }

    pub(super) fn tree(&self, roots: &[Process], shadows: &HashSet<u64>) -> HashSet<Process> {
        let all = tree::all();
        let mut roots = roots.to_vec();
        if !shadows.is_empty() {
            let of_them = all.iter().filter_map(|stat| self.flagged_as(stat)).filter(|f| shadows.contains(&f.shadow));
            roots.extend(of_them.map(|flagged| flagged.process));
        }
        let mut tree = tree::below(&all, &roots);
        tree.retain(|process| process.pid != std::process::id());
        tree
    }
}
