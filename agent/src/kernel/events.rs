//! Carries events from the ring buffer to the daemon, on a thread of its own.
//!
//! Invariant: an event leaves the ring when it was written down. The ring outlives the daemon, so that the next one reads
//! what this one did not get to, and what happened while there was none. Where that takes half of the ring (the daemon is
//! starting, the disk is slow), events are taken out before; how many is noted beside the ring, so that those that a
//! killed daemon takes with it are known to be lost. When there is no room at all the kernel counts what it loses; its
//! verdicts do not wait.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc as wait;
use std::time::Duration;

use aya::maps::MapData;
use jiff::{SignedDuration, Timestamp};
use lazaret_common::hook::{LOST_BY_READERS, UNWRITTEN};
use tokio::sync::mpsc;

use super::event::{self, KernelEvent};
use super::maps::Counters;
use super::sys::{self, ring::Ring};

pub(super) const EVENTS: &str = "EVENTS";

/// Events that are handed over, and written down, at once.
const MOST: usize = 256;
/// Events that wait in memory; behind them the ring fills.
const MOST_PENDING: usize = 1 << 14;
/// How often the ring is looked at while events are being written down: it wakes only who has acknowledged everything.
const LOOK: Duration = Duration::from_millis(10);
/// While one daemon takes over from another, the programs of both see the same thing at the same moment.
const SAME_MOMENT: SignedDuration = SignedDuration::from_millis(10);
/// Events that are compared with the next.
const RECENT: usize = 16;

/// Events in the order in which they came.
pub struct Batch {
    pub events: Vec<KernelEvent>,
    written: wait::Sender<()>,
}

impl Batch {
    /// They need not be kept any longer. Without this they are read again by the next daemon.
    pub fn written(self) {
        // A reader that has ended reads no more of this ring.
        let _ = self.written.send(());
    }
}

/// Ends the thread when it is dropped.
pub(super) struct Reader {
    _stop: io::PipeWriter,
}

/// The ring that a daemon before has left.
pub(super) fn pinned(dir: &Path) -> Option<MapData> {
    let path = dir.join(EVENTS);
    let map = path.exists().then(|| MapData::from_pin(path));
    map?.inspect_err(|e| tracing::error!("what no daemon has written down cannot be read: {e}")).ok()
}

/// Reads `map` from what nobody has written down. `pins` is where the counters beside it are.
pub(super) fn start(
    map: &MapData,
    pins: Option<&Path>,
    sender: mpsc::Sender<Batch>,
    bad: Arc<AtomicU64>,
) -> io::Result<Reader> {
    let notes = pins.map(Counters::pinned).transpose().unwrap_or_else(|e| {
        tracing::error!("{e}; what a killed daemon takes with it is not counted");
        None
    });
    let mut backlog = Backlog {
        ring: Ring::new(map)?,
        boot: boot_time(),
        bad,
        twins: Twins::default(),
        pending: VecDeque::new(),
        handed: 0,
        notes,
        noted: 0,
    };
    backlog.inherit();
    let (stopped, stop) = io::pipe()?;
    std::thread::Builder::new().name("kernel-events".into()).spawn(move || backlog.carry(&sender, &stopped))?;
    Ok(Reader { _stop: stop })
}

/// What was read and is not written down yet.
struct Backlog {
    ring: Ring,
    boot: Timestamp,
    bad: Arc<AtomicU64>,
    twins: Twins,
    pending: VecDeque<KernelEvent>,
    /// Events that are being written down.
    handed: usize,
    /// Where nothing is pinned, nothing outlives this process.
    notes: Option<Counters>,
    /// What is noted as taken out of the ring too early.
    noted: usize,
}

impl Backlog {
    /// What the daemon before had taken out and did not write down is lost.
    fn inherit(&mut self) {
        let Some(notes) = &mut self.notes else { return };
        let lost = notes.get(UNWRITTEN);
        if lost != 0 {
            notes.set(LOST_BY_READERS, notes.get(LOST_BY_READERS) + lost);
            notes.set(UNWRITTEN, 0);
        }
    }

    fn note(&mut self, count: usize) {
        if count != self.noted
            && let Some(notes) = &mut self.notes
        {
            notes.set(UNWRITTEN, count as u64);
        }
        self.noted = count;
    }

    fn carry(mut self, sender: &mpsc::Sender<Batch>, stopped: &io::PipeReader) {
        let (written, is_written) = wait::channel();
        loop {
            self.read();
            if self.ring.is_half_full() {
                self.note(self.pending.len() + self.handed);
                self.ring.acknowledge();
            }
            if self.handed == 0 && !self.pending.is_empty() {
                let events: Vec<KernelEvent> = self.pending.drain(..self.pending.len().min(MOST)).collect();
                self.handed = events.len();
                if sender.blocking_send(Batch { events, written: written.clone() }).is_err() {
                    return;
                }
            }
            if self.handed != 0 {
                match is_written.recv_timeout(LOOK) {
                    Ok(()) => self.handed = 0,
                    Err(_) if sender.is_closed() => return,
                    Err(_) => continue,
                }
                if self.noted != 0 {
                    self.note(self.pending.len());
                }
                continue;
            }
            self.ring.acknowledge();
            match sys::wait_readable(self.ring.as_fd(), stopped.as_fd()) {
                Ok(false) => {}
                Ok(true) => return,
                Err(e) => {
                    tracing::error!(
                        "cannot wait for events of the kernel: {e}; events are lost until the daemon is restarted"
                    );
                    return;
                }
            }
        }
    }

    /// Takes in what stands in the ring.
    fn read(&mut self) {
        while self.pending.len() < MOST_PENDING
            && let Some(bytes) = self.ring.next()
        {
            match event::decode(bytes, self.boot) {
                Ok(event) if self.twins.has(&event) => {}
                Ok(event) => self.pending.push_back(event),
                // A ring of another version's events is no reason to fill the journal.
                Err(e) if self.bad.fetch_add(1, Ordering::Relaxed) == 0 => {
                    tracing::error!(
                        "cannot read an event of the kernel: {e}; the kernel programs and this binary may be of different versions; further ones are only counted"
                    );
                }
                Err(_) => {}
            }
        }
    }
}

/// The last events, to know the second of two that are one.
#[derive(Default)]
struct Twins(VecDeque<KernelEvent>);

impl Twins {
    /// Whether the event is of what another one was of just now; remembers it otherwise.
    fn has(&mut self, event: &KernelEvent) -> bool {
        if self.0.iter().any(|other| is_twin(other, event)) {
            return true;
        }
        if self.0.len() == RECENT {
            self.0.pop_front();
        }
        self.0.push_back(event.clone());
        false
    }
}

fn is_twin(one: &KernelEvent, other: &KernelEvent) -> bool {
    other.at.duration_since(one.at).abs() < SAME_MOMENT && *one == KernelEvent { at: one.at, ..other.clone() }
}

fn boot_time() -> Timestamp {
    let since = SignedDuration::from_nanos(sys::boot_clock());
    Timestamp::now().checked_sub(since).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{Action, EventKind};

    fn event(pid: u32, at: Timestamp) -> KernelEvent {
        KernelEvent {
            kind: EventKind::Spawn,
            evidence: Vec::new(),
            action: Action::Killed,
            pid,
            uid: 1000,
            gid: 1000,
            comm: "node".into(),
            argv: vec!["node".into(), "server.js".into()],
            argv_truncated: false,
            exe: "/usr/bin/node".into(),
            exe_dev: 1,
            exe_inode: 2,
            cwd: "/home/u".into(),
            cgroup_id: 1,
            ancestors: Vec::new(),
            config_entry: None,
            shadow: 7,
            address: None,
            at,
            was_running: false,
        }
    }

    #[test]
    fn what_two_daemons_programs_say_of_one_moment_is_one_event() {
        let mut twins = Twins::default();
        let start = Timestamp::UNIX_EPOCH;
        let soon = start + SignedDuration::from_micros(300);
        assert!(!twins.has(&event(1, start)));
        assert!(!twins.has(&event(2, start)), "another process");
        assert!(twins.has(&event(1, soon)), "the other daemon's");
        let handshake = KernelEvent { kind: EventKind::Handshake, ..event(1, soon) };
        assert!(!twins.has(&handshake), "more of the same process");
        assert!(!twins.has(&event(1, start + SAME_MOMENT)), "it came again");
    }

    #[test]
    fn a_flood_between_them_only_means_that_both_are_told() {
        let mut twins = Twins::default();
        for pid in 0..10 * RECENT as u32 {
            assert!(!twins.has(&event(pid, Timestamp::UNIX_EPOCH)));
        }
        assert!(!twins.has(&event(0, Timestamp::UNIX_EPOCH)));
        assert_eq!(twins.0.len(), RECENT);
    }
}
