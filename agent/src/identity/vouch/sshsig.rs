//! Reading and checking SSH signatures (`SSHSIG`, as `ssh-keygen -Y sign` makes them).

use jiff::Timestamp;
use ssh_key::{Algorithm, HashAlg, PublicKey, SshSig};

use super::{Signers, VouchError};

/// What keeps a signature for something else from being a vouch.
pub const NAMESPACE: &str = "vouch@lazaret";

/// An armoured signature has about 300 bytes, with a large key 2 KiB.
const LONGEST: usize = 16 << 10;
/// The authenticator saw a human: bit 0 of the flags byte of an `sk-` signature.
const USER_PRESENT: u8 = 1;
/// Flags and counter end an `sk-` signature.
const SK_TRAILER: usize = 5;

/// Who signed, as far as `allowed_signers` knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    pub by: String,
    /// `SHA256:…`
    pub key: String,
    pub algorithm: String,
}

/// Checks everything about a signature that was made at `at` or before.
pub fn verify(message: &[u8], armour: &str, signers: &Signers, at: Timestamp) -> Result<Signed, VouchError> {
    let signature = read(armour)?;
    if signature.namespace() != NAMESPACE {
        return Err(VouchError::Namespace(signature.namespace().chars().take(80).collect()));
    }
    let key = PublicKey::from(signature.public_key().clone());
    if matches!(key.algorithm(), Algorithm::Rsa { .. } | Algorithm::Dsa | Algorithm::Other(_)) {
        return Err(VouchError::Algorithm(key.algorithm().to_string()));
    }
    let by = signers.allow(&key, NAMESPACE, at)?;
    if signature.algorithm() != key.algorithm() {
        return Err(VouchError::Mismatch);
    }
    key.verify(NAMESPACE, message, &signature).map_err(|_| VouchError::Mismatch)?;
    // After the signature, which covers the flags.
    let security_key = matches!(key.algorithm(), Algorithm::SkEd25519 | Algorithm::SkEcdsaSha2NistP256);
    if security_key && !user_was_present(signature.signature_bytes()) {
        return Err(VouchError::NoTouch);
    }
    Ok(Signed { by, key: key.fingerprint(HashAlg::Sha256).to_string(), algorithm: key.algorithm().to_string() })
}

/// Reads an armoured signature, whoever made it and whatever for.
pub fn read(armour: &str) -> Result<SshSig, VouchError> {
    if armour.len() > LONGEST {
        return Err(VouchError::Armour(format!("it is longer than {LONGEST} bytes")));
    }
    let signature = SshSig::from_pem(armour.trim_start()).map_err(|e| VouchError::Armour(e.to_string()))?;
    if signature.version() != SshSig::VERSION {
        return Err(VouchError::Armour(format!("it has version {}", signature.version())));
    }
    Ok(signature)
}

fn user_was_present(signature: &[u8]) -> bool {
    let flags = signature.len().checked_sub(SK_TRAILER).and_then(|at| signature.get(at));
    flags.is_some_and(|flags| flags & USER_PRESENT != 0)
}
