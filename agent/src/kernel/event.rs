//! Events as the daemon sees them, and how they are read from the kernel's bytes.
//!
//! The bytes hold what an attacker chose: argv, names, paths. Decoding never panics and never
//! fails on content; only bytes that are too short or of an unknown kind are refused.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use jiff::Timestamp;
use lazaret_common::event as raw;
use lazaret_common::plain::Plain as _;
use lazaret_common::settings;
use serde::{Deserialize, Serialize};

use crate::config::Evidence;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// A program was started.
    Spawn,
    /// An MCP message was about to be read.
    Handshake,
    Connect,
    /// An MCP client was started; no evidence against anybody.
    Client,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Observed,
    /// Stopped; `Guard::release` lets it go on.
    Held,
    Killed,
    Denied,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ancestor {
    pub pid: u32,
    pub comm: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KernelEvent {
    pub kind: EventKind,
    pub evidence: Vec<Evidence>,
    pub action: Action,
    /// Thread group: what user space calls the pid.
    pub pid: u32,
    pub uid: u32,
    pub gid: u32,
    pub comm: String,
    pub argv: Vec<String>,
    /// The argv is longer than 4096 bytes.
    pub argv_truncated: bool,
    pub exe: PathBuf,
    /// As `stat` shows it.
    pub exe_dev: u64,
    pub exe_inode: u64,
    pub cwd: PathBuf,
    pub cgroup_id: u64,
    /// Nearest first.
    pub ancestors: Vec<Ancestor>,
    /// Id of the [`super::ConfigEntry`] that the argv equals.
    pub config_entry: Option<u64>,
    /// Boot-unique number of the shadow; the same for later evidence of it and of its children. 0 for clients.
    pub shadow: u64,
    pub address: Option<String>,
    pub at: Timestamp,
    /// It ran before the kernel programs did.
    pub was_running: bool,
}

impl KernelEvent {
    /// Whether a process that nothing else convicts reached for the daemon's own `door` on loopback.
    pub fn is_use_of(&self, door: Option<SocketAddr>) -> bool {
        let reached = self.address.as_ref().and_then(|address| address.parse::<SocketAddr>().ok());
        let reached = reached.map(|address| SocketAddr::new(address.ip().to_canonical(), address.port()));
        self.kind == EventKind::Connect
            && self.action == Action::Observed
            && self.evidence == [Evidence::Connect]
            && reached.is_some()
            && reached == door
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum DecodeError {
    #[error("the event has {0} bytes, fewer than its head")]
    Short(usize),
    #[error("the event has the format {0} of another version")]
    Format(u32),
    #[error("the event's kind {0} is unknown")]
    Kind(u8),
}

/// Reads one ring buffer entry. `boot` is the time of the boot clock's zero.
pub(super) fn decode(bytes: &[u8], boot: Timestamp) -> Result<KernelEvent, DecodeError> {
    let head = raw::Head::read(bytes).ok_or(DecodeError::Short(bytes.len()))?;
    if head.format != raw::FORMAT {
        return Err(DecodeError::Format(head.format));
    }
    let argv = &bytes[size_of::<raw::Head>()..];
    let argv = &argv[..argv.len().min(head.argv_length as usize)];
    let kind = match head.kind {
        raw::SPAWN => EventKind::Spawn,
        raw::HANDSHAKE => EventKind::Handshake,
        raw::CONNECT => EventKind::Connect,
        raw::CLIENT => EventKind::Client,
        other => return Err(DecodeError::Kind(other)),
    };
    Ok(KernelEvent {
        kind,
        evidence: evidence(head.evidence),
        action: match head.action {
            raw::HELD => Action::Held,
            raw::KILLED => Action::Killed,
            raw::DENIED => Action::Denied,
            _ => Action::Observed,
        },
        pid: head.tgid,
        uid: head.uid,
        gid: head.gid,
        comm: text(until_nul(&head.comm)),
        argv: words(argv),
        argv_truncated: head.flags & raw::ARGV_TRUNCATED != 0,
        exe: path(&head.exe, head.flags & raw::EXE_TRUNCATED == 0),
        exe_dev: device(head.exe_dev),
        exe_inode: head.exe_inode,
        cwd: path(&head.cwd, head.flags & raw::CWD_TRUNCATED == 0),
        cgroup_id: head.cgroup,
        ancestors: head.ancestors[..(head.ancestor_count as usize).min(raw::ANCESTORS)]
            .iter()
            .map(|a| Ancestor { pid: a.pid, comm: text(until_nul(&a.comm)) })
            .collect(),
        config_entry: (head.flags & raw::HAS_ENTRY != 0).then_some(head.config_entry),
        shadow: head.shadow,
        address: address(&head),
        at: after(boot, head.at),
        was_running: false,
    })
}

pub(super) fn evidence(bits: u8) -> Vec<Evidence> {
    [
        (settings::CONFIG, Evidence::Config),
        (settings::CATALOGUE, Evidence::Catalogue),
        (settings::HANDSHAKE, Evidence::Handshake),
        (settings::CONNECT, Evidence::Connect),
    ]
    .into_iter()
    .filter(|(bit, _)| bits & (1 << bit) != 0)
    .map(|(_, evidence)| evidence)
    .collect()
}

fn after(boot: Timestamp, nanoseconds: u64) -> Timestamp {
    i64::try_from(nanoseconds)
        .ok()
        .and_then(|ns| boot.checked_add(jiff::SignedDuration::from_nanos(ns)).ok())
        .unwrap_or(boot)
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// NUL-separated; the NUL at the end ends the last word and starts no other.
pub(super) fn words(argv: &[u8]) -> Vec<String> {
    if argv.is_empty() {
        return Vec::new();
    }
    argv.strip_suffix(&[0]).unwrap_or(argv).split(|byte| *byte == 0).map(text).collect()
}

/// Turns components from the leaf to the root into a path. One that was cut starts with `…`.
fn path(raw: &raw::Path, whole: bool) -> PathBuf {
    let bytes = &raw.bytes[..(raw.length as usize).min(raw.bytes.len())];
    let mut joined = Vec::with_capacity(bytes.len() + 4);
    if !whole && !bytes.is_empty() {
        joined.extend_from_slice("…".as_bytes());
    }
    let components = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    for component in components.split(|byte| *byte == 0).rev().filter(|c| !c.is_empty() && *c != b"/") {
        joined.push(b'/');
        joined.extend_from_slice(component);
    }
    if joined.is_empty() && whole {
        joined.push(b'/');
    }
    PathBuf::from(std::ffi::OsString::from_vec(joined))
}

/// The kernel's device number as `stat` shows it.
pub(super) fn device(dev: u32) -> u64 {
    libc::makedev(dev >> 20, dev & 0xf_ffff)
}

fn address(head: &raw::Head) -> Option<String> {
    let bytes = &head.address[..(head.address_length as usize).min(head.address.len())];
    match i32::from(head.address_family) {
        libc::AF_UNIX if bytes.first() == Some(&0) => Some(format!("unix:@{}", text(&bytes[1..]))),
        libc::AF_UNIX => Some(format!("unix:{}", text(until_nul(bytes)))),
        libc::AF_INET => {
            let ip = Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(..4)?).ok()?);
            Some(SocketAddr::new(IpAddr::V4(ip), head.address_port).to_string())
        }
        libc::AF_INET6 => {
            let ip = Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(..16)?).ok()?);
            Some(SocketAddr::new(IpAddr::V6(ip), head.address_port).to_string())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set_format(bytes: &mut [u8]) {
        let at = std::mem::offset_of!(raw::Head, format);
        bytes[at..at + 4].copy_from_slice(&raw::FORMAT.to_ne_bytes());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_an_event_or_an_error(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..9000)) {
            let _ = decode(&bytes, Timestamp::UNIX_EPOCH);
        }

        #[test]
        fn a_valid_head_with_any_content_decodes(
            mut bytes in proptest::collection::vec(proptest::num::u8::ANY, size_of::<raw::Head>()..8000),
            kind in 1u8..=4,
        ) {
            bytes[std::mem::offset_of!(raw::Head, kind)] = kind;
            set_format(&mut bytes);
            proptest::prop_assert!(decode(&bytes, Timestamp::UNIX_EPOCH).is_ok());
        }

        #[test]
        fn the_argv_comes_out_as_it_went_in(argv in proptest::collection::vec("[^\0]{0,20}", 1..10)) {
            let mut bytes = vec![0; size_of::<raw::Head>()];
            bytes[std::mem::offset_of!(raw::Head, kind)] = raw::SPAWN;
            let joined: Vec<u8> = argv.iter().flat_map(|word| word.bytes().chain([0])).collect();
            let at = std::mem::offset_of!(raw::Head, argv_length);
            bytes[at..at + 4].copy_from_slice(&(joined.len() as u32).to_ne_bytes());
            set_format(&mut bytes);
            bytes.extend(joined);
            proptest::prop_assert_eq!(decode(&bytes, Timestamp::UNIX_EPOCH).unwrap().argv, argv);
        }
    }

    #[test]
    fn a_path_is_read_from_its_leaf() {
        let mut raw = raw::Path { bytes: [0; raw::PATH + raw::PATH_SLACK], length: 13 };
        raw.bytes[..13].copy_from_slice(b"node\0bin\0usr\0");
        assert_eq!(path(&raw, true), PathBuf::from("/usr/bin/node"));
        assert_eq!(path(&raw, false), PathBuf::from("…/usr/bin/node"));
    }

    #[test]
    fn device_numbers_are_those_of_stat() {
        assert_eq!(device(8 << 20 | 1), libc::makedev(8, 1));
        assert_eq!(device(253 << 20 | 300), libc::makedev(253, 300));
    }
}
