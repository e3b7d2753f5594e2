//! Carries events from the ring buffer to the daemon, on a thread of its own.
//!
//! When the daemon does not keep up, the ring buffer fills and the kernel counts what it loses;
//! its verdicts do not wait.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::{MapData, RingBuf};
use jiff::Timestamp;
use tokio::sync::mpsc;

use super::event::{self, KernelEvent};
use super::sys;

/// Ends the thread when it is dropped.
pub(super) struct Reader {
    _stop: io::PipeWriter,
}

pub(super) fn start(
    mut ring: RingBuf<MapData>,
    sender: mpsc::Sender<KernelEvent>,
    bad: Arc<AtomicU64>,
) -> io::Result<Reader> {
    let (stopped, stop) = io::pipe()?;
    let boot = boot_time();
    std::thread::Builder::new().name("kernel-events".into()).spawn(move || {
        loop {
            while let Some(item) = ring.next() {
                match event::decode(&item, boot) {
                    Ok(event) => {
                        if sender.blocking_send(event).is_err() {
                            return;
                        }
                    }
                    Err(e) => {
                        bad.fetch_add(1, Ordering::Relaxed);
                        tracing::error!("cannot read an event of the kernel: {e}; the kernel programs and this binary may be of different versions");
                    }
                }
            }
            match sys::wait_readable(sys::borrow(&ring), stopped.as_fd()) {
                Ok(false) => {}
                Ok(true) => return,
                Err(e) => {
                    tracing::error!("cannot wait for events of the kernel: {e}; events are lost until the daemon is restarted");
                    return;
                }
            }
        }
    })?;
    Ok(Reader { _stop: stop })
}

fn boot_time() -> Timestamp {
    let since = jiff::SignedDuration::from_nanos(sys::boot_clock());
    Timestamp::now().checked_sub(since).unwrap_or(Timestamp::UNIX_EPOCH)
}
