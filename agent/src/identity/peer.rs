//! The process at the other end of a connection, and those above it.
//!
//! A pid alone names nobody: the kernel's descriptor of who connected (`SO_PEERPIDFD`, Linux 6.5) or else a pidfd that
//! is compared with the start time holds it fast. Invariant: a [`PeerProcess`] that [`PeerProcess::check`] lets through
//! is the process that opened the connection, and still stands below the same parents.

mod connector;
mod sys;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

use super::Peer;
use crate::kernel::tree::{self, Process};

pub use sys::{name_writers, receive};

/// No chain of parents is followed further.
const MOST_PARENTS: usize = 32;

/// Why a process is not taken for an agent's connector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Strange {
    #[error("the process that opened this connection cannot be seen from here (pid {0:?})")]
    Unseen(Option<i32>),
    #[error("the process {0} that opened this connection has ended")]
    Gone(u32),
    #[error("the process {pid} that opened this connection is not Lazaret's connector but {}", exe.display())]
    NotConnector { pid: u32, exe: PathBuf },
    #[error("the process {by} traces the connector and can speak for it")]
    Traced { by: u32 },
    #[error("the connector was started with the variable {0}, which puts other code into it")]
    OtherCode(String),
    #[error("the program that started the connector has ended (process {0}); another one may be behind it now")]
    Orphaned(u32),
    #[error("a line of this session was written by the process {pid:?}, and not by the connector that opened it")]
    OtherWriter { pid: Option<u32> },
    #[error("the call came without the session key's signature")]
    Unsigned,
}

impl Strange {
    /// The one that a read failed for, where it did.
    pub fn in_error(error: &std::io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    /// What an honest user does.
    pub fn next_step(&self) -> String {
        match self {
            Self::Unseen(_) | Self::Gone(_) | Self::Orphaned(_) => "start the MCP client again",
            Self::NotConnector { .. } | Self::OtherWriter { .. } => {
                "let your MCP client start `lazaret connect --agent ADDRESS` itself; after an upgrade of Lazaret, start the client again"
            }
            Self::Traced { .. } => "detach the debugger, and start the MCP client again",
            Self::OtherCode(_) => "take the variable out of the MCP client's environment",
            Self::Unsigned => "install the same release of connector and daemon",
        }
        .into()
    }
}

#[derive(Debug)]
pub struct PeerProcess {
    pidfd: OwnedFd,
    uid: u32,
    connector: Process,
    /// From the connector's parent up to the first of the host's processes.
    parents: Vec<Process>,
}

impl PeerProcess {
    /// Who connected `socket`; `peer` is what the kernel says of it.
    pub fn of(socket: BorrowedFd<'_>, peer: Peer) -> Result<Self, Strange> {
        let pid = peer.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0);
        let pid = pid.ok_or(Strange::Unseen(peer.pid))?;
        let pidfd = sys::peer_pidfd(socket).or_else(|_| sys::pidfd_open(pid)).map_err(|_| Strange::Gone(pid))?;
        let stat = tree::stat(pid).ok_or(Strange::Gone(pid))?;
        // Asked after the start time was read: who is alive now has had the pid all the time.
        if sys::has_ended(&pidfd) {
            return Err(Strange::Gone(pid));
        }
        let mut parents = Vec::new();
        let mut next = stat.parent;
        while next > 0 && parents.len() < MOST_PARENTS {
            let Some(parent) = tree::stat(next) else { break };
            parents.push(parent.process);
            next = parent.parent;
        }
        Ok(Self { pidfd, uid: peer.uid, connector: stat.process, parents })
    }

    pub fn pid(&self) -> u32 {
        self.connector.pid
    }

    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// The nearest first.
    pub fn parents(&self) -> &[Process] {
        &self.parents
    }

    /// Whether it is the connector, and nobody else's code speaks in it.
    pub fn examine(&self) -> Result<(), Strange> {
        connector::examine(self.connector.pid)?;
        self.check()
    }

    /// Whether it still is the process that it was, below the same parent.
    pub fn check(&self) -> Result<(), Strange> {
        let gone = || Strange::Gone(self.connector.pid);
        if sys::has_ended(&self.pidfd) {
            return Err(gone());
        }
        let stat = tree::stat(self.connector.pid).filter(|stat| stat.process == self.connector).ok_or_else(gone)?;
        match self.parents.first() {
            Some(parent) if parent.pid != stat.parent => Err(Strange::Orphaned(parent.pid)),
            _ => Ok(()),
        }
    }

    /// The same, and every process up to `client`, one of its parents, still stands where it stood.
    pub fn check_up_to(&self, client: Process) -> Result<(), Strange> {
        self.check()?;
        let chain = self.parents.iter().take_while(|process| **process != client).count();
        for (at, process) in self.parents.iter().take(chain + 1).enumerate() {
            let stat =
                tree::stat(process.pid).filter(|stat| stat.process == *process && !matches!(stat.state, 'Z' | 'X'));
            let stat = stat.ok_or(Strange::Orphaned(process.pid))?;
            match self.parents.get(at + 1).filter(|_| at < chain) {
                Some(above) if above.pid != stat.parent => return Err(Strange::Orphaned(above.pid)),
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
