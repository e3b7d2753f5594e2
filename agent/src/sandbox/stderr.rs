//! What a server wrote to its standard error, the newest part of it.
//!
//! A server may write without end, so the log is a ring: it never holds more than [`CAPACITY`]
//! bytes, and who writes faster than anybody could read is told apart. Text goes out without control characters, so that it cannot drive a terminal.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Allowance;

pub const CAPACITY: usize = 256 << 10;
/// Shorter ones stand in every text, and are no secrets.
const SHORTEST_SECRET: usize = 4;

/// Cheap to clone; all clones see the same log.
#[derive(Clone, Default)]
pub struct StderrLog(Arc<Mutex<Ring>>);

#[derive(Default)]
struct Ring {
    bytes: VecDeque<u8>,
    written: u64,
    allowance: Allowance,
    /// Names and values that nobody gets to read.
    hidden: Vec<(String, String)>,
}

impl StderrLog {
    /// A log in which the name of a secret stands where the server wrote its value.
    pub fn hiding(secrets: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut hidden: Vec<_> = secrets.into_iter().filter(|(_, value)| value.len() >= SHORTEST_SECRET).collect();
        // One may hold another.
        hidden.sort_by_key(|(_, value)| std::cmp::Reverse(value.len()));
        Self(Arc::new(Mutex::new(Ring { hidden, ..Ring::default() })))
    }

    /// One that was written before, its lines as they were shown.
    pub fn of_lines(lines: &[String]) -> Self {
        let log = Self::default();
        let _no_flood = log.push(lines.join("\n").as_bytes());
        log
    }

    /// Whether that much is still put up with; what is too much is kept like the rest.
    pub(crate) fn push(&self, bytes: &[u8]) -> bool {
        let mut ring = self.lock();
        ring.written += bytes.len() as u64;
        let kept = &bytes[bytes.len().saturating_sub(CAPACITY)..];
        let excess = (ring.bytes.len() + kept.len()).saturating_sub(CAPACITY);
        ring.bytes.drain(..excess);
        ring.bytes.extend(kept);
        ring.allowance.take(bytes.len() as u64)
    }

    /// Bytes that the server wrote in all, those that fell out of the ring included.
    pub fn written(&self) -> u64 {
        self.lock().written
    }

    /// The last `lines` lines, oldest first.
    pub fn tail(&self, lines: usize) -> Vec<String> {
        let ring = self.lock();
        let bytes: Vec<u8> = ring.bytes.iter().copied().collect();
        if ring.hidden.is_empty() {
            return last_lines(&bytes, lines);
        }
        let cut = ring.written > bytes.len() as u64;
        let (rest, name) =
            ring.hidden.iter().filter(|_| cut).map(|secret| rest_of(&bytes, secret)).max().unwrap_or_default();
        let name = if rest > 0 { format!("[{name}]") } else { String::new() };
        let text = name + &String::from_utf8_lossy(&bytes[rest..]);
        let hide = |text: String, (name, value): &(String, String)| text.replace(value, &format!("[{name}]"));
        let shown = last_lines(ring.hidden.iter().fold(text, hide).as_bytes(), lines);
        // Once more: the control characters that stood in a value are gone now.
        shown.into_iter().map(|line| ring.hidden.iter().fold(line, hide)).collect()
    }

    /// Keeps no more than the last `bytes` of what there is now.
    pub fn shrink(&self, bytes: usize) {
        let mut ring = self.lock();
        let excess = ring.bytes.len().saturating_sub(bytes);
        ring.bytes.drain(..excess);
        ring.bytes.shrink_to_fit();
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for StderrLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StderrLog({} bytes written)", self.written())
    }
}

/// How much of a secret `bytes` begins with, where its own beginning fell out of the ring; and the secret's name.
fn rest_of<'a>(bytes: &[u8], (name, value): &'a (String, String)) -> (usize, &'a str) {
    let value = value.as_bytes();
    let rests = (SHORTEST_SECRET..value.len()).rev();
    let rest = rests.map(|length| &value[value.len() - length..]).find(|rest| bytes.starts_with(rest));
    (rest.map_or(0, <[u8]>::len), name)
}

/// The last lines that are not blank, printable.
pub(super) fn last_lines(bytes: &[u8], lines: usize) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let mut last: Vec<String> = text.lines().rev().map(printable).filter(|line| !line.is_empty()).take(lines).collect();
    last.reverse();
    last
}

fn printable(line: &str) -> String {
    let kept = line.chars().map(|c| if c == '\t' { ' ' } else { c }).filter(|c| !c.is_control());
    kept.collect::<String>().trim_end().to_owned()
}

/// The first two bytes say how it is cut and how much of it is kept; 0xff stands for the secret.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(input: &[u8]) {
    const SECRET: &str = "xyzzy-q9w8e7r6";
    let [piece, kept, text @ ..] = input else { return };
    let own: String = String::from_utf8_lossy(text).chars().filter(|c| !c.is_control()).collect();
    // What the server says by itself is no secret.
    if ["zzy-", "q9w8", "w8e7", "e7r6"].iter().any(|part| own.contains(part)) {
        return;
    }
    let written: Vec<u8> = text.split(|byte| *byte == 0xff).collect::<Vec<_>>().join(SECRET.as_bytes());
    let log = StderrLog::hiding([("TOKEN".to_owned(), SECRET.to_owned())]);
    for part in written.chunks(usize::from(*piece).max(1)) {
        let _ = log.push(part);
    }
    assert_eq!(log.written(), written.len() as u64);
    let whole = log.tail(usize::MAX);
    log.shrink(usize::from(*kept));
    for line in whole.iter().chain(&log.tail(usize::MAX)) {
        assert!(!line.is_empty() && !line.chars().any(char::is_control), "{line:?}");
        assert!(!["zzy-", "q9w8", "w8e7", "e7r6"].iter().any(|part| line.contains(part)), "{line:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_writes_without_end_fills_no_memory() {
        let log = StderrLog::default();
        for i in 0..40_000 {
            assert!(log.push(format!("line {i}\n").as_bytes()), "that is much, and no flood");
        }
        while log.push(&[b'x'; CAPACITY]) {}
        log.push(b"\nthe end\n");
        assert_eq!(log.lock().bytes.len(), CAPACITY);
        assert!(log.written() > 3 * CAPACITY as u64);
        assert_eq!(log.tail(1), ["the end"]);
        log.shrink(100);
        assert!(log.lock().bytes.capacity() < 1000);
        assert_eq!(log.tail(1), ["the end"]);
    }

    #[test]
    fn a_secret_is_not_in_what_is_read() {
        let secrets = [("A", "hunter"), ("B", "hunter2-long"), ("C", "x")];
        let log = StderrLog::hiding(secrets.map(|(name, value)| (name.to_owned(), value.to_owned())));
        // In two pieces, as it may come.
        log.push(b"key=hunter2-l");
        log.push(b"ong, hunter x\n");
        assert_eq!(log.tail(1), ["key=[B], [A] x"]);
        assert_eq!(StderrLog::of_lines(&log.tail(5)).tail(5), ["key=[B], [A] x"]);
    }

    #[test]
    fn what_is_left_of_a_secret_at_the_edge_of_the_log_is_hidden_too() {
        let log = StderrLog::hiding([("KEY".to_owned(), "hunter2-long".to_owned())]);
        log.push(b"key=hunter2-long, ok\n");
        for kept in 0..20 {
            let log = StderrLog(Arc::new(Mutex::new(Ring { hidden: log.lock().hidden.clone(), ..Ring::default() })));
            log.push(b"key=hunter2-long, ok\n");
            log.shrink(kept);
            let shown = log.tail(9).concat();
            assert!(!shown.contains("long"), "{kept}: {shown}");
        }
        log.push(b"hunter2\x01-long\n");
        assert_eq!(log.tail(9), ["key=[KEY], ok", "[KEY]"]);
    }

    #[test]
    fn terminal_sequences_do_not_come_out() {
        let log = StderrLog::default();
        log.push(b"\x1b]0;owned\x07\x1b[2Jhello\tyou\r\n\xff\n\n");
        assert_eq!(log.tail(10), ["]0;owned[2Jhello you", "\u{fffd}"]);
    }
}
