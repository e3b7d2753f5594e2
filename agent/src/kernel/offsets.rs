//! Resolves the fields that the kernel programs read, and says what is missing.

use std::collections::{HashMap, HashSet};

use lazaret_common::offsets::{COUNT, FIELDS, MISSING, Offsets};

use super::btf::{Btf, BtfError};

const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

#[derive(Debug, thiserror::Error)]
pub(super) enum OffsetsError {
    #[error("cannot read {VMLINUX}: {0}; the kernel must be built with CONFIG_DEBUG_INFO_BTF")]
    Read(#[from] std::io::Error),
    #[error("cannot understand {VMLINUX}: {0}")]
    Btf(#[from] BtfError),
}

/// Functions that a program may be attached to, for the choice between kernel versions.
pub(super) const FUNCTIONS: &[&str] = &[
    "pipe_read",
    "pipe_write",
    "anon_pipe_read",
    "anon_pipe_write",
    "fifo_pipe_read",
    "fifo_pipe_write",
    "unix_stream_recvmsg",
    "unix_stream_sendmsg",
    "unix_dgram_sendmsg",
    "__unix_dgram_recvmsg",
    "do_splice",
    "do_tee",
    "__splice_from_pipe",
    "splice_file_to_pipe",
    "unix_stream_sendpage",
    "pty_write",
    "n_tty_read",
    "pty_close",
    "security_socket_connect",
    "dequeue_signal",
    "security_socket_sendmsg",
    "security_unix_stream_connect",
];

pub(super) struct Resolved {
    pub(super) offsets: Offsets,
    /// Names of the fields that this kernel does not have.
    pub(super) missing: Vec<&'static str>,
    pub(super) functions: HashSet<&'static str>,
}

pub(super) fn resolve() -> Result<Resolved, OffsetsError> {
    Ok(resolve_in(&Btf::parse(std::fs::read(VMLINUX)?)?))
}

fn resolve_in(btf: &Btf) -> Resolved {
    let wanted: HashSet<&str> = FIELDS.iter().map(|(_, structure, _)| *structure).collect();
    let mut structs: HashMap<String, Vec<u32>> = HashMap::new();
    for (name, at) in btf.structs(&wanted) {
        structs.entry(name).or_default().push(at);
    }
    let mut words = [MISSING; COUNT];
    let mut missing = Vec::new();
    for (slot, (name, structure, member)) in words.iter_mut().zip(FIELDS) {
        let found = match structure.strip_prefix("enum ") {
            Some(name) => btf.enum_value(name, member),
            None => structs
                .get(*structure)
                .and_then(|all| all.iter().find_map(|at| member.split('|').find_map(|member| btf.member(*at, member)))),
        };
        match found {
            Some(offset) => *slot = offset,
            None => missing.push(*name),
        }
    }
    let functions = btf.functions(&FUNCTIONS.iter().copied().collect());
    Resolved { offsets: Offsets::from_words(words), missing, functions }
}

/// Why a hook cannot work without the fields that are missing; `None` if it can.
pub(super) fn lacks(missing: &[&'static str], needs: &[&str]) -> Option<String> {
    let lacking: Vec<&str> =
        missing.iter().copied().filter(|name| needs.iter().any(|need| name.starts_with(need))).collect();
    (!lacking.is_empty()).then(|| format!("this kernel's type information lacks {}", lacking.join(", ")))
}
