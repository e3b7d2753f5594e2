//! The session key's signature on every line that an agent sends.
//!
//! On the socket a line goes as `SEQ SIGNATURE LINE`: a decimal number, the base64 of an Ed25519 signature, the
//! client's line as it is. What is signed is `lazaret-line-v1\n` and the JCS of the line's digest, its number and the
//! session, so that a line serves once, at its place, in its session. Numbers begin at 1 and leave nothing out: a line
//! that is replayed, dropped, put elsewhere or altered ends the session.

use std::str::FromStr as _;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{AgentKey, PublicKey, Signature};

/// The longest that can stand before a line: 20 digits, 88 characters of base64, two spaces.
pub const MAX_HEADER: usize = 20 + 1 + 88 + 1;

/// What an audit record keeps of a line, so that it can be verified by anybody later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallSignature {
    pub session_pub: PublicKey,
    pub seq: u64,
    /// `sha256:` and 64 hex digits, over the line without its end.
    pub line_digest: String,
    pub sig: Signature,
}

/// Why a line is not the one that the session's key signed next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadLine {
    #[error("a line came without a signature; install the same release of connector and daemon")]
    Unsigned,
    #[error(
        "the line {found} came where the line {expected} was due: a line was replayed, dropped or put elsewhere; start the connector again"
    )]
    OutOfOrder { expected: u64, found: u64 },
    #[error("the line {0} is not what the session's key signed; start the connector again")]
    Forged(u64),
}

/// Reads what stands before a line. Never panics, whatever the bytes: this is a fuzz target.
pub fn parse(framed: &[u8]) -> Option<(u64, Signature, &[u8])> {
    let (seq, rest) = split(framed)?;
    let (sig, line) = split(rest)?;
    let seq = std::str::from_utf8(seq).ok()?;
    // One way to write each number: no sign, no zero in front.
    if seq.len() > 20 || !seq.bytes().all(|byte| byte.is_ascii_digit()) || seq.starts_with('0') {
        return None;
    }
    Some((seq.parse().ok()?, Signature::from_str(std::str::from_utf8(sig).ok()?).ok()?, line))
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().take(MAX_HEADER).position(|byte| *byte == b' ')?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

/// The connector's end: frames lines.
#[derive(Debug)]
pub struct LineSigner {
    session: String,
    key: AgentKey,
    seq: u64,
}

impl LineSigner {
    pub fn new(session: String, key: AgentKey) -> Self {
        Self { session, key, seq: 0 }
    }

    pub fn public(&self) -> PublicKey {
        self.key.public()
    }

    /// The line as it goes over the socket, its end included.
    pub fn frame(&mut self, line: &[u8]) -> Vec<u8> {
        // The framing takes a CR for part of the line's end.
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        self.seq += 1;
        let sig = self.key.sign(&signed_text(&self.session, self.seq, &digest(line)));
        let mut framed = format!("{} {sig} ", self.seq).into_bytes();
        framed.reserve_exact(line.len() + 1);
        framed.extend_from_slice(line);
        framed.push(b'\n');
        framed
    }
}

/// The daemon's end: lets through only what comes next.
#[derive(Debug)]
pub struct LineVerifier {
    session: String,
    key: PublicKey,
    next: u64,
}

impl LineVerifier {
    pub fn new(session: String, key: PublicKey) -> Self {
        Self { session, key, next: 1 }
    }

    /// The line itself, and what proves whose it is.
    pub fn open(&mut self, framed: &Bytes) -> Result<(Bytes, CallSignature), BadLine> {
        let (seq, sig, line) = parse(framed).ok_or(BadLine::Unsigned)?;
        self.due(seq)?;
        let line_digest = digest(line);
        let text = signed_text(&self.session, seq, &line_digest);
        self.key.verify(&text, &sig).map_err(|_| BadLine::Forged(seq))?;
        Ok((framed.slice_ref(line), CallSignature { session_pub: self.key, seq, line_digest, sig }))
    }

    /// The beginning of a line that is too long to be read: it cannot be verified and is not acted on, but it has its
    /// place in the order.
    pub fn pass_over(&mut self, head: &Bytes) -> Result<Bytes, BadLine> {
        let (seq, _, line) = parse(head).ok_or(BadLine::Unsigned)?;
        self.due(seq)?;
        Ok(head.slice_ref(line))
    }

    fn due(&mut self, seq: u64) -> Result<(), BadLine> {
        if seq != self.next {
            return Err(BadLine::OutOfOrder { expected: self.next, found: seq });
        }
        self.next += 1;
        Ok(())
    }
}

fn digest(line: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(line)))
}

/// JCS by construction: members in code point order, strings of plain ASCII, a number that the daemon counts itself.
pub(super) fn signed_text(session: &str, seq: u64, line_digest: &str) -> Vec<u8> {
    #[derive(Serialize)]
    struct Signed<'a> {
        line_digest: &'a str,
        seq: u64,
        session: &'a str,
    }
    let mut text = b"lazaret-line-v1\n".to_vec();
    #[expect(clippy::expect_used, reason = "strings and an integer always encode")]
    serde_json::to_writer(&mut text, &Signed { line_digest, seq, session }).expect("a signed text is JSON");
    text
}

#[cfg(test)]
mod tests;
