//! Who wrote: a process as the kernel names it at the moment of its write, and its parents.

use std::collections::VecDeque;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::sys;

/// Parents that are told; a chain has seldom half as many.
const MAX_PARENTS: usize = 16;
/// Processes that are remembered between two of their events.
const REMEMBERED: usize = 32;
const LATELY: Duration = Duration::from_secs(2);

/// A process that changed a client config.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Writer {
    pub pid: u32,
    /// `None`: it had ended before it could be looked at, and so for what follows.
    pub comm: Option<String>,
    pub exe: Option<PathBuf>,
    pub uid: Option<u32>,
    /// Nearest first.
    pub parents: Vec<WriterParent>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WriterParent {
    pub pid: u32,
    pub comm: String,
    pub exe: Option<PathBuf>,
}

impl Writer {
    /// Reads the process at once. What the kernel gave is the pid alone: all else is in /proc as long as it lives.
    fn of(pid: u32) -> Self {
        let mut writer = Self { pid, comm: None, exe: exe(pid), uid: None, parents: Vec::new() };
        let Some(own) = Stat::of(pid) else { return writer };
        writer.comm = Some(own.comm);
        writer.uid = uid(pid);
        let mut next = own.parent;
        while next != 0 && writer.parents.len() < MAX_PARENTS {
            let Some(stat) = Stat::of(next) else { break };
            writer.parents.push(WriterParent { pid: next, comm: stat.comm, exe: exe(next) });
            next = stat.parent;
        }
        writer
    }

    /// Of several looks at a process, the one that saw more counts.
    pub(super) fn knows_less_than(&self, other: &Self) -> bool {
        self.known() < other.known()
    }

    fn known(&self) -> usize {
        usize::from(self.exe.is_some()) + usize::from(self.comm.is_some())
    }
}

impl std::fmt::Display for Writer {
    /// `pid 7 (node, /usr/bin/node, uid 1000) below bash (pid 5), sshd (pid 1)`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(comm) = &self.comm else {
            return write!(f, "pid {}, which has ended before it could be looked at", self.pid);
        };
        write!(f, "pid {} ({comm}", self.pid)?;
        if let Some(exe) = &self.exe {
            write!(f, ", {}", exe.display())?;
        }
        if let Some(uid) = self.uid {
            write!(f, ", uid {uid}")?;
        }
        f.write_str(")")?;
        for (i, parent) in self.parents.iter().enumerate() {
            write!(f, "{}{} (pid {})", if i == 0 { " below " } else { ", " }, parent.comm, parent.pid)?;
        }
        Ok(())
    }
}

/// Writers that were seen lately: the second event of a process that ended meanwhile is still its.
#[derive(Default)]
pub(super) struct Writers(VecDeque<(Instant, Writer)>);

impl Writers {
    /// Looks at the process of an event. `pidfd` is held by the event, so that the pid is still that process's
    /// as long as it has not ended.
    pub(super) fn look(&mut self, pid: u32, pidfd: Option<BorrowedFd<'_>>) -> Option<Writer> {
        if pid == 0 {
            return None;
        }
        let ended_before = pidfd.is_some_and(sys::has_ended);
        let now = Instant::now();
        // A number may be another process's after a while.
        self.0.retain(|(at, _)| now.duration_since(*at) < LATELY);
        let remembered = self.0.iter().position(|(_, writer)| writer.pid == pid);
        // Whoever writes all the time is not looked at each time, as long as it runs the same program.
        if let Some((_, known)) = remembered.and_then(|at| self.0.get(at))
            && !ended_before
            && known.exe.is_some()
            && known.exe == exe(pid)
        {
            return Some(known.clone());
        }
        // A zombie has a name and parents, but no executable any more.
        let fresh = Writer::of(pid);
        let writer = match remembered.and_then(|at| self.0.remove(at)) {
            Some((_, before)) if ended_before && before.known() >= fresh.known() => before,
            _ => fresh,
        };
        self.0.push_back((now, writer.clone()));
        if self.0.len() > REMEMBERED {
            self.0.pop_front();
        }
        Some(writer)
    }
}

fn exe(pid: u32) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/exe")).ok()
}

fn uid(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_ascii_whitespace().next()?.parse().ok()
}

struct Stat {
    comm: String,
    parent: u32,
}

impl Stat {
    fn of(pid: u32) -> Option<Self> {
        let bytes = std::fs::read(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
        Self::parse(&String::from_utf8_lossy(&bytes))
    }

    /// A name may hold anything, parentheses too: it ends with the last one.
    fn parse(stat: &str) -> Option<Self> {
        let (before, behind) = stat.rsplit_once(')')?;
        let comm = before.split_once('(')?.1.to_owned();
        Some(Self { comm, parent: behind.split_ascii_whitespace().nth(1)?.parse().ok()? })
    }
}

/// Keeps `AsFd` for callers that own the descriptor.
pub(super) fn borrowed(pidfd: &Option<std::os::fd::OwnedFd>) -> Option<BorrowedFd<'_>> {
    pidfd.as_ref().map(|fd| fd.as_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_with_its_parents() {
        let writer = Writer::of(std::process::id());
        assert_eq!(writer.exe, std::env::current_exe().ok());
        assert!(writer.comm.is_some() && writer.uid.is_some());
        assert!(!writer.parents.is_empty() && writer.parents.last().is_some_and(|parent| parent.pid != 0));
    }

    #[test]
    fn a_process_that_has_ended_is_told_as_it_was_seen_before() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let mut writers = Writers::default();
        let seen = writers.look(child.id(), None).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let gone = Writers::default().look(child.id(), None).unwrap();
        assert_eq!((gone.comm.clone(), gone.exe.clone()), (None, None), "{gone}");
        let file = std::fs::File::open("/dev/null").unwrap();
        // /dev/null is always readable, as the descriptor of a process that has ended is.
        assert_eq!(writers.look(child.id(), Some(file.as_fd())).unwrap(), seen);
    }

    proptest::proptest! {
        #[test]
        fn a_name_in_stat_may_hold_anything(comm in "\\PC{0,15}", parent in 0u32..4_000_000) {
            let stat = Stat::parse(&format!("12 ({comm}) S {parent} 1 1")).unwrap();
            proptest::prop_assert_eq!((stat.comm, stat.parent), (comm, parent));
        }
    }
}
