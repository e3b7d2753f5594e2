//! What the end-to-end tests share: a house on this host, the QEMU bed, the guest's scenarios, and counted skips.

use std::io::Write as _;
use std::time::{Duration, Instant};

pub mod bed;
pub mod bed_cost;
pub mod bed_gaps;
mod bed_here;
pub mod bed_table;
pub mod guest;
pub mod host;
pub mod initramfs;
pub mod installed;
pub mod messages;
#[cfg(test)]
mod promises;
pub mod qemu;
pub mod reading;
pub mod stdio;
pub mod taking;
pub mod uring;

/// Says that a test cannot run here, and why. `cargo xtask test` counts these through the file that
/// `LAZARET_SKIP_FILE` names: one line per test, name and reason with a tab between.
pub fn skip(name: &str, reason: &str) {
    eprintln!("SKIPPED {name}: {reason}");
    let Some(path) = std::env::var_os("LAZARET_SKIP_FILE") else { return };
    let line = format!("{name}\t{}\n", reason.replace(['\n', '\t'], " "));
    let written =
        std::fs::File::options().create(true).append(true).open(&path).and_then(|mut f| f.write_all(line.as_bytes()));
    if let Err(e) = written {
        panic!("cannot record a skip in {}: {e}", path.display());
    }
}

/// Asks until there is an answer or the time is up: for state that announces itself to nobody, such as /proc.
#[expect(clippy::disallowed_methods, reason = "what is polled here announces itself to nobody")]
pub fn poll<T>(timeout: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + timeout;
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
