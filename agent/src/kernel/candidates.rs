//! Candidates: processes that a pipe may be feeding an MCP message, where only system calls show it.
//!
//! Programs on system calls cost every one of them on the host. Invariant: they are attached while a
//! candidate is open and for a moment after, and the kernel keeps a new candidate from its first
//! instruction until they are, for a few milliseconds at most. A candidate is closed when it has ended,
//! when it has talked for a while without a handshake, or when nobody has talked to it for long.

mod open;
mod switch;
mod words;

use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aya::maps::{HashMap, MapData, RingBuf};
use lazaret_common::plain::Plain as _;
use lazaret_common::watch::Candidate;
use serde::Serialize;

use super::load::{self, Loaded};
use super::{KernelError, sys};
use crate::config::Scope;
use open::Candidates;
use switch::Switch;
pub(super) use words::{say, say_of_engines};

/// How long after its first read a candidate may still come to a handshake.
const TALKS: Duration = Duration::from_secs(30);
/// How long a candidate that nobody has talked to stays one.
const SILENT: Duration = Duration::from_secs(600);
/// Attaching costs more than staying attached for a while.
const LINGER: Duration = Duration::from_secs(10);
/// A client that was started will start its servers soon.
const CLIENT: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_secs(1);

/// What was done on demand so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct OnDemand {
    /// The programs on system calls are attached now.
    pub attached: bool,
    /// Candidates that are open now.
    pub open: usize,
    pub candidates: u64,
    pub attachments: u64,
    /// The slowest attachment.
    pub longest_us: u64,
    /// Candidates that were kept from their first instruction, and those that went on before the
    /// programs were attached.
    pub waited: u64,
    pub late: u64,
}

/// Ends the thread when it is dropped; the programs stay as they are.
pub(super) struct Watcher {
    shared: Arc<Mutex<Shared>>,
    _stop: io::PipeWriter,
    wake: io::PipeWriter,
}

struct Shared {
    switch: Switch,
    open: Candidates,
    /// Attached until then, whoever is open.
    until: Option<Instant>,
    candidates: u64,
}

impl Watcher {
    /// Takes over the maps and programs that are for this.
    pub(super) fn start(loaded: &mut Loaded, scope: &Scope) -> Result<Self, String> {
        let ring = loaded.ebpf.take_map("CANDIDATES").ok_or("the object has no ring buffer for candidates")?;
        let ring = RingBuf::try_from(ring).map_err(|e| load::chain(&e))?;
        let talked = loaded.ebpf.take_map("TALKED").ok_or("the object has no map of who has talked")?;
        let talked = HashMap::try_from(talked).map_err(|e| load::chain(&e))?;
        let switch = Switch::new(loaded)?;
        let shared = Shared { switch, open: Candidates::running(scope), until: None, candidates: 0 };
        let shared = Arc::new(Mutex::new(shared));
        lock(&shared).update();
        let (stopped, stop) = io::pipe().map_err(|e| e.to_string())?;
        let (woken, wake) = io::pipe().map_err(|e| e.to_string())?;
        let thread = Thread { shared: shared.clone(), scope: scope.clone(), ring, talked };
        std::thread::Builder::new()
            .name("candidates".into())
            .spawn(move || thread.run(&stopped, &woken))
            .map_err(|e| format!("cannot start the thread for candidates: {e}"))?;
        Ok(Self { shared, _stop: stop, wake })
    }

    pub(super) fn report(&self) -> OnDemand {
        let shared = lock(&self.shared);
        OnDemand { open: shared.open.count(), candidates: shared.candidates, ..shared.switch.report() }
    }

    /// A client was started: its first server shall meet programs that are attached.
    pub(super) fn expect(&self) {
        lock(&self.shared).keep(CLIENT);
        // The thread has to know when it is over; a full pipe has woken it already.
        let _ = io::Write::write(&mut &self.wake, b".");
    }

    /// From now on what is attached is pinned in `dir` too.
    pub(super) fn pin(&self, dir: &Path) -> Result<(), KernelError> {
        lock(&self.shared).switch.pin(dir)
    }

    /// Attaches for good: the daemon ends, and nobody is there to do it when a candidate comes.
    pub(super) fn leave(&self) {
        lock(&self.shared).switch.leave();
    }

    pub(super) fn detach(&self) {
        lock(&self.shared).switch.detach_for_good();
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    // Nothing is left half done where a panic could happen.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn keep(&mut self, time: Duration) {
        let until = Instant::now() + time;
        self.until = Some(self.until.map_or(until, |before| before.max(until)));
        self.switch.attach();
    }

    /// Attached exactly while there is a reason to be.
    fn update(&mut self) {
        if !self.open.is_empty() {
            self.keep(LINGER);
        } else if self.until.is_some_and(|until| until <= Instant::now()) {
            self.until = None;
            self.switch.detach();
        }
    }
}

struct Thread {
    shared: Arc<Mutex<Shared>>,
    scope: Scope,
    ring: RingBuf<MapData>,
    talked: HashMap<MapData, u32, u64>,
}

impl Thread {
    fn run(mut self, stopped: &io::PipeReader, woken: &io::PipeReader) {
        // A program waits in the kernel for what this thread does, and it has little to do.
        if let Err(e) = sys::run_first() {
            tracing::debug!("candidates may have to wait for a processor: {e}");
        }
        let mut ticked = Instant::now();
        loop {
            let busy = {
                let mut shared = lock(&self.shared);
                while let Some(news) = self.ring.next() {
                    let Some(news) = Candidate::read(&news) else { continue };
                    // Before anything else: the kernel keeps it waiting.
                    shared.switch.attach();
                    shared.candidates += 1;
                    shared.open.add(&news);
                    let _ = self.talked.remove(&news.pid); // of the image before, if any
                }
                if ticked.elapsed() >= TICK {
                    ticked = Instant::now();
                    shared.open.close(|pid| self.talked.get(&pid, 0).is_ok());
                    shared.open.find_heirs(&self.scope);
                }
                shared.update();
                shared.until.is_some()
            };
            let fds = [sys::borrow(&self.ring), stopped.as_fd(), woken.as_fd()];
            match sys::wait_for_any(&fds, busy.then_some(TICK)) {
                Ok(ready) if ready[1] => return,
                Ok(ready) if ready[2] => {
                    let _ = io::Read::read(&mut &*woken, &mut [0; 64]); // what it says is in `until`
                }
                Ok(_) => {}
                Err(e) => {
                    tracing::error!("cannot wait for candidates: {e}; the programs on system calls stay attached");
                    lock(&self.shared).switch.leave();
                    return;
                }
            }
        }
    }
}
