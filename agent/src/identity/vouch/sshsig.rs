//! Reading and checking SSH signatures (`SSHSIG`, as `ssh-keygen -Y sign` makes them).

use ed25519_dalek::Verifier as _;
use jiff::Timestamp;
use ssh_key::public::{KeyData, RsaPublicKey};
use ssh_key::{Algorithm, EcdsaCurve, HashAlg, Signature, SshSig};

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
    let presented = signature.public_key();
    // A certificate stands for the key that it is about.
    let (key, algorithm) = match presented {
        KeyData::Certificate(certificate) => {
            (certificate.public_key(), certificate.algorithm().to_certificate_type().to_string())
        }
        key => (key, key.algorithm().to_string()),
    };
    if !is_supported(key) {
        return Err(VouchError::Algorithm(key.algorithm().to_string()));
    }
    let by = signers.allow(presented, NAMESPACE, at)?;
    let signed = SshSig::signed_data(NAMESPACE, signature.hash_alg(), message).map_err(|_| VouchError::Mismatch)?;
    if !fits(key, &signed, signature.signature()) {
        return Err(VouchError::Mismatch);
    }
    // After the signature, which covers the flags.
    let security_key = matches!(key, KeyData::SkEd25519(_) | KeyData::SkEcdsaSha2NistP256(_));
    if security_key && !user_was_present(signature.signature_bytes()) {
        return Err(VouchError::NoTouch);
    }
    Ok(Signed { by, key: key.fingerprint(HashAlg::Sha256).to_string(), algorithm })
}

/// Whether a signature of such a key can be verified here.
pub(super) fn is_supported(key: &KeyData) -> bool {
    !matches!(key.algorithm(), Algorithm::Dsa | Algorithm::Other(_) | Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 })
        && !key.is_certificate()
}

/// Whether `signature` is one of `key` over `data`, made in that key's own way.
pub(super) fn fits(key: &KeyData, data: &[u8], signature: &Signature) -> bool {
    match key {
        KeyData::Rsa(key) => rsa_fits(key, data, signature),
        _ => signature.algorithm() == key.algorithm() && key.verify(data, signature).is_ok(),
    }
}

/// From 2048 bits on, and never over SHA-1.
fn rsa_fits(key: &RsaPublicKey, data: &[u8], signature: &Signature) -> bool {
    use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA512, RsaPublicKeyComponents};
    let how = match signature.algorithm() {
        Algorithm::Rsa { hash: Some(HashAlg::Sha256) } => &RSA_PKCS1_2048_8192_SHA256,
        Algorithm::Rsa { hash: Some(HashAlg::Sha512) } => &RSA_PKCS1_2048_8192_SHA512,
        _ => return false,
    };
    let (Some(n), Some(e)) = (key.n().as_positive_bytes(), key.e().as_positive_bytes()) else { return false };
    RsaPublicKeyComponents { n, e }.verify(how, data, signature.as_bytes()).is_ok()
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
