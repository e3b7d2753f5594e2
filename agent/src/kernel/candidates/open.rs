//! The candidates that are open, and when one is closed.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::time::Instant;

use lazaret_common::watch::{Candidate, PIPE, SOCKET, TERMINAL};

use super::super::tree::{self, Process};
use super::super::{scope, trust};
use super::{SILENT, TALKS};
use crate::config::Scope;

/// Beyond these the oldest is closed: whoever starts more has talked to none of them.
const MOST: usize = 4096;

#[derive(Default)]
pub(super) struct Candidates {
    open: HashMap<u32, Open>,
    /// Inputs of candidates that have ended: others may hold them.
    orphans: HashMap<u64, Instant>,
}

struct Open {
    process: Process,
    /// Inode of its standard input.
    inode: u64,
    since: Instant,
    talked: Option<Instant>,
}

impl Candidates {
    /// Those that run already.
    pub(super) fn running(scope: &Scope) -> Self {
        let mut all = Self::default();
        for pid in trust::processes() {
            if let Some((inode, PIPE)) = input(pid)
                && scope::contains(scope, pid)
            {
                all.insert(pid, inode, Instant::now());
            }
        }
        all
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.orphans.is_empty()
    }

    pub(super) fn count(&self) -> usize {
        self.open.len()
    }

    pub(super) fn add(&mut self, news: &Candidate) {
        if news.kind & (PIPE | SOCKET | TERMINAL) != 0 {
            self.insert(news.pid, news.inode, Instant::now());
        }
    }

    fn insert(&mut self, pid: u32, inode: u64, since: Instant) {
        let Some(stat) = tree::stat(pid) else {
            // Gone already; who got its input is looked for.
            self.orphans.insert(inode, since);
            return;
        };
        if self.open.len() >= MOST
            && let Some(oldest) = self.open.iter().min_by_key(|(_, one)| one.since).map(|(pid, _)| *pid)
        {
            self.open.remove(&oldest);
        }
        self.open.insert(pid, Open { process: stat.process, inode, since, talked: None });
    }

    /// Closes what has ended, what has talked long enough and what nobody talks to.
    pub(super) fn close(&mut self, has_talked: impl Fn(u32) -> bool) {
        let orphans = &mut self.orphans;
        self.open.retain(|pid, one| {
            let alive = tree::stat(*pid).is_some_and(|stat| stat.process == one.process && stat.state != 'Z');
            if !alive {
                orphans.insert(one.inode, one.since);
                return false;
            }
            if one.talked.is_none() && has_talked(*pid) {
                one.talked = Some(Instant::now());
            }
            match one.talked {
                Some(since) => since.elapsed() < TALKS,
                None => one.since.elapsed() < SILENT,
            }
        });
    }

    /// Who forked away from a candidate that has ended holds its input.
    pub(super) fn find_heirs(&mut self, scope: &Scope) {
        if self.orphans.is_empty() {
            return;
        }
        let orphans = std::mem::take(&mut self.orphans);
        let known: HashSet<u32> = self.open.keys().copied().collect();
        for pid in trust::processes().filter(|pid| !known.contains(pid)) {
            let Some((inode, _)) = input(pid) else { continue };
            if let Some(since) = orphans.get(&inode)
                && since.elapsed() < SILENT
                && scope::contains(scope, pid)
            {
                self.insert(pid, inode, *since);
            }
        }
        // Whoever has gone meanwhile is not looked for again.
        self.orphans.clear();
    }
}

/// Inode and kind of a process's standard input.
fn input(pid: u32) -> Option<(u64, u32)> {
    let meta = fs::metadata(format!("/proc/{pid}/fd/0")).ok()?;
    let kind = if meta.file_type().is_fifo() { PIPE } else { SOCKET };
    (meta.file_type().is_fifo() || meta.file_type().is_socket()).then(|| (meta.ino(), kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn candidate(pid: u32) -> Candidate {
        Candidate { at: 0, inode: input(pid).map_or(7, |(inode, _)| inode), pid, kind: PIPE }
    }

    #[test]
    fn a_candidate_is_open_until_it_has_ended_and_nobody_holds_its_input() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut open = Candidates::default();
        open.add(&candidate(child.id()));
        open.close(|_| false);
        assert_eq!(open.count(), 1);
        drop(child.stdin.take());
        child.wait().unwrap();
        open.close(|_| false);
        assert_eq!(open.count(), 0);
        assert!(!open.is_empty(), "its input may have gone to another process");
        open.find_heirs(&Scope::Host);
        assert!(open.is_empty());
    }

    #[test]
    fn who_holds_the_input_of_one_that_has_ended_takes_its_place() {
        // The shell ends, the process that it leaves behind reads on.
        let script = "exec 3<&0; read -r line; sleep 1000 <&3 >/dev/null & echo $!";
        let mut shell =
            Command::new("sh").args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut open = Candidates::default();
        open.add(&candidate(shell.id()));
        let mut input = shell.stdin.take().unwrap();
        std::io::Write::write_all(&mut input, b"go on\n").unwrap();
        let mut said = String::new();
        let out = shell.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut said).unwrap();
        let heir: u32 = said.trim().parse().unwrap();
        shell.wait().unwrap();
        open.close(|_| false);
        open.find_heirs(&Scope::Host);
        let found: Vec<u32> = open.open.keys().copied().collect();
        let stat = tree::stat(heir).unwrap();
        tree::signal(stat.process, libc::SIGKILL).unwrap();
        assert_eq!(found, [heir]);
    }
}
