//! No armour verifies with a key that nobody allowed, nor for another text than the one that was signed; an answer of an
//! ssh-agent is read or refused.

use std::sync::OnceLock;

use lazaret::identity::source::ssh_agent::{parse_identities, parse_signature};
use lazaret::identity::vouch::{Signers, verify};

/// Whose key the seed's signature is of.
static ALLOWED: OnceLock<Signers> = OnceLock::new();
const ALLOWED_TEXT: &str = "ann namespaces=\"vouch@lazaret\" ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDLgxYl+nOYO+y/KlZDSfvOjwMvNqWgXbV/QqobVavxE\n";

fuzz_target!(|bytes: &[u8]| {
    if let Ok(identities) = parse_identities(bytes) {
        assert!(identities.iter().map(|identity| identity.blob.len()).sum::<usize>() <= bytes.len());
    }
    let _ = parse_signature(bytes);
    let Ok(armour) = std::str::from_utf8(bytes) else { return };
    let at = jiff::Timestamp::UNIX_EPOCH;
    assert!(verify(b"x", armour, &Signers::default(), at).is_err());
    let allowed = ALLOWED.get_or_init(|| Signers::parse(ALLOWED_TEXT, "f").expect("it is a line"));
    if let Ok(signed) = verify(b"signed", armour, allowed, at) {
        assert_eq!((signed.by.as_str(), signed.algorithm.as_str()), ("ann", "ssh-ed25519"));
        assert!(verify(b"signes", armour, allowed, at).is_err());
    }
});
