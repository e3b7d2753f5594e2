//! No armour verifies with a key that nobody allowed; an answer of an ssh-agent is read or refused.
#![no_main]

use lazaret::identity::source::ssh_agent::{parse_identities, parse_signature};
use lazaret::identity::vouch::{Signers, verify};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = parse_identities(bytes);
    let _ = parse_signature(bytes);
    if let Ok(armour) = std::str::from_utf8(bytes) {
        assert!(verify(b"x", armour, &Signers::default(), jiff::Timestamp::UNIX_EPOCH).is_err());
    }
});
