//! Processes as `/proc` shows them, and how to act on one without ever meaning another.
//!
//! A pid alone names nobody: it is always used with the process's start time, and a signal or a label goes
//! through a pidfd that was compared with both.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use super::sys;

/// One process, for as long as this host runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Process {
    pub pid: u32,
    /// Clock ticks since boot.
    pub started: u64,
}

/// What `/proc/PID/stat` says (proc(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) process: Process,
    pub(crate) parent: u32,
    /// `R`, `S`, `T`, `Z` and so on.
    pub(crate) state: char,
}

pub(crate) fn stat(pid: u32) -> Option<Stat> {
    parse(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse(pid: u32, stat: &str) -> Option<Stat> {
    // The name may hold anything, brackets included; what follows the last one is fixed.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let started = fields.nth(17)?.parse().ok()?;
    Some(Stat { process: Process { pid, started }, parent, state })
}

/// Every process that has not ended.
pub(super) fn all() -> Vec<Stat> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| stat(entry.file_name().to_str()?.parse().ok()?))
        .filter(|stat| !matches!(stat.state, 'Z' | 'X'))
        .collect()
}

/// `roots` and everything that descends from them, among `all`.
pub(super) fn below(all: &[Stat], roots: &[Process]) -> HashSet<Process> {
    let mut tree: HashSet<Process> = all.iter().map(|stat| stat.process).filter(|p| roots.contains(p)).collect();
    let mut pids: HashSet<u32> = tree.iter().map(|process| process.pid).collect();
    loop {
        let before = pids.len();
        for stat in all.iter().filter(|stat| pids.contains(&stat.parent)) {
            tree.insert(stat.process);
        }
        pids.extend(tree.iter().map(|process| process.pid));
        if pids.len() == before {
            return tree;
        }
    }
}

/// A descriptor of exactly this process; `None` if it has ended.
pub(super) fn open(process: Process) -> io::Result<Option<OwnedFd>> {
    let pidfd = match sys::pidfd_open(process.pid) {
        Ok(pidfd) => pidfd,
        Err(e) if is_gone(&e) => return Ok(None),
        Err(e) => return Err(e),
    };
    // The descriptor names whoever had the pid just now; who that was, its start time tells.
    Ok(stat(process.pid).is_some_and(|stat| stat.process == process).then_some(pidfd))
}

/// `false`: it had ended.
pub(super) fn signal(process: Process, signal: i32) -> io::Result<bool> {
    let Some(pidfd) = open(process)? else { return Ok(false) };
    match sys::pidfd_signal(pidfd.as_fd(), signal) {
        Ok(()) => Ok(true),
        Err(e) if is_gone(&e) => Ok(false),
        Err(e) => Err(e),
    }
}

/// `EINVAL` is what pidfd_open says of a thread that leads no group.
fn is_gone(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::ESRCH | libc::EINVAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_process_says_nothing_of_its_parent() {
        let stat = "7 (a) R 1 (b) S 3 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4242 0 0";
        let process = Process { pid: 7, started: 4242 };
        assert_eq!(parse(7, stat), Some(Stat { process, parent: 3, state: 'S' }));
    }

    #[test]
    fn a_tree_has_everybody_below_its_root_and_nobody_else() {
        let stat = |pid, parent| Stat { process: Process { pid, started: 1 }, parent, state: 'S' };
        let all = [stat(1, 0), stat(5, 4), stat(4, 3), stat(3, 1), stat(6, 1)];
        let pids = |roots: &[Process]| {
            let mut pids: Vec<u32> = below(&all, roots).iter().map(|p| p.pid).collect();
            pids.sort_unstable();
            pids
        };
        assert_eq!(pids(&[Process { pid: 3, started: 1 }]), [3, 4, 5]);
        assert_eq!(pids(&[Process { pid: 3, started: 2 }]), [0_u32; 0], "another process had that pid");
    }

    #[test]
    fn a_process_that_started_at_another_time_is_not_opened() {
        let own = stat(std::process::id()).unwrap().process;
        assert!(open(own).unwrap().is_some());
        assert!(open(Process { started: own.started + 1, ..own }).unwrap().is_none());
    }

    proptest::proptest! {
        #[test]
        fn any_name_of_a_process_is_read_over(name in ".{0,20}") {
            let stat = format!("7 ({name}) S 3 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4242 0 0");
            assert_eq!(parse(7, &stat).unwrap().parent, 3);
        }
    }
}
