//! Ed25519 keys: on disk (PKCS#8 PEM, SPKI PEM), on the wire (base64 of the raw 32 bytes), as
//! `did:key`, and both fingerprints that are in use.
//!
//! Invariant: a private key is read only from a file that nobody but its owner can read, and is
//! never written over another one.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::spki::der::zeroize::Zeroizing;
use ed25519_dalek::pkcs8::{
    DecodePrivateKey as _, DecodePublicKey as _, EncodePrivateKey as _, EncodePublicKey as _, KeypairBytes,
};
use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Address;

/// Multicodec prefix of an Ed25519 public key in a `did:key`.
const ED25519_CODEC: [u8; 2] = [0xed, 0x01];
/// A PEM of an Ed25519 key has about 120 bytes; anything far longer is some other file.
const MAX_KEY_FILE: u64 = 16 << 10;

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("cannot read the key {path}: {source}; name another with --key, or make one with `lazaret agent enroll`")]
    Read { path: PathBuf, source: std::io::Error },
    #[error(
        "cannot use the key {path}: others than its owner may read it (mode {mode:04o}); run `chmod 600 {path}`, and enroll a new key if somebody may have read it"
    )]
    TooOpen { path: PathBuf, mode: u32 },
    #[error(
        "cannot use the key {path}: it is not an unencrypted Ed25519 key in PKCS#8 PEM; make one with `lazaret agent enroll` or `openssl genpkey -algorithm ed25519`"
    )]
    NotAKey { path: PathBuf },
    #[error("cannot write the key {path}: a file is there already; use that key, or move the file away")]
    Exists { path: PathBuf },
    #[error("cannot write the key {path}: {source}; check that the directory is writable")]
    Write { path: PathBuf, source: std::io::Error },
    #[error(
        "cannot read a public key from {0:?}: give the base64 of its 32 bytes, a did:key of type Ed25519, or an SPKI PEM"
    )]
    Public(String),
    #[error(
        "cannot use the public key: it is one of the weak points of Ed25519 that fit any signature; make a new key"
    )]
    Weak,
    #[error("cannot make a key: the kernel gave no randomness ({0})")]
    Randomness(getrandom::Error),
    #[error(transparent)]
    SshAgent(#[from] super::source::ssh_agent::AgentError),
    #[error("{0}")]
    Source(String),
    #[error("cannot tell where agent keys are kept: set LAZARET_KEY_DIR or HOME, or name the file with --key")]
    NoHome,
}

/// Bytes of an Ed25519 signature; base64 in JSON.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(ed25519_dalek::Signature);

/// A public key that is a full point of the curve, never a weak one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

/// A private key; wiped from memory when dropped.
pub struct AgentKey(SigningKey);

impl AgentKey {
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = Zeroizing::new([0u8; 32]);
        getrandom::fill(seed.as_mut_slice()).map_err(KeyError::Randomness)?;
        Ok(Self(SigningKey::from_bytes(&seed)))
    }

    /// The same key for the same seed.
    #[cfg(any(test, fuzzing))]
    pub fn of_seed(seed: [u8; 32]) -> Self {
        Self(SigningKey::from_bytes(&seed))
    }

    /// Reads a PKCS#8 PEM file that only its owner can read.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let read = |source| KeyError::Read { path: path.into(), source };
        // O_NONBLOCK: opening a FIFO must not hang.
        let file = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(read)?;
        let meta = file.metadata().map_err(read)?;
        if !meta.is_file() {
            return Err(KeyError::NotAKey { path: path.into() });
        }
        if meta.mode() & 0o077 != 0 {
            return Err(KeyError::TooOpen { path: path.into(), mode: meta.mode() & 0o7777 });
        }
        let mut pem = Zeroizing::new(String::with_capacity(MAX_KEY_FILE as usize));
        if let Err(e) = file.take(MAX_KEY_FILE).read_to_string(&mut pem) {
            return Err(match e.kind() {
                std::io::ErrorKind::InvalidData => KeyError::NotAKey { path: path.into() },
                _ => read(e),
            });
        }
        SigningKey::from_pkcs8_pem(&pem).map(Self).map_err(|_| KeyError::NotAKey { path: path.into() })
    }

    /// Writes a new PKCS#8 PEM file with mode 0600; its directory is made with 0700. A file that
    /// is there already is left alone.
    pub fn save(&self, path: &Path) -> Result<(), KeyError> {
        let write = |source: std::io::Error| match source.kind() {
            std::io::ErrorKind::AlreadyExists => KeyError::Exists { path: path.into() },
            _ => KeyError::Write { path: path.into(), source },
        };
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .map_err(|source| KeyError::Write { path: path.into(), source })?;
        }
        let pem = self.to_pem();
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(write)?;
        let written = file.write_all(pem.as_bytes()).and_then(|()| file.sync_all());
        if let Err(e) = written {
            // Half a key is worse than none; the first error is the one to tell.
            let _ = std::fs::remove_file(path);
            return Err(write(e));
        }
        Ok(())
    }

    /// The key at `path`, made there if there is none.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        match Self::load(path) {
            Err(KeyError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                let key = Self::generate()?;
                key.save(path)?;
                Ok(key)
            }
            loaded => loaded,
        }
    }

    /// Without the public half: OpenSSL does not read PKCS#8 version 2.
    fn to_pem(&self) -> Zeroizing<String> {
        let pair = KeypairBytes { secret_key: self.0.to_bytes(), public_key: None };
        #[expect(clippy::expect_used, reason = "32 bytes always encode; nothing from outside reaches this")]
        pair.to_pkcs8_pem(LineEnding::LF).expect("an Ed25519 seed has a PKCS#8 form")
    }

    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.0.sign(message))
    }
}

impl fmt::Debug for AgentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AgentKey({})", self.public().did())
    }
}

impl PublicKey {
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, KeyError> {
        Self::strong(VerifyingKey::from_bytes(bytes).map_err(|_| KeyError::Public(BASE64.encode(bytes)))?)
    }

    fn strong(key: VerifyingKey) -> Result<Self, KeyError> {
        if key.is_weak() { Err(KeyError::Weak) } else { Ok(Self(key)) }
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// `did:key:z…`, the primary id.
    pub fn did(&self) -> String {
        let mut bytes = ED25519_CODEC.to_vec();
        bytes.extend_from_slice(self.as_bytes());
        format!("did:key:z{}", bs58::encode(bytes).into_string())
    }

    pub fn from_did(did: &str) -> Result<Self, KeyError> {
        let bad = || KeyError::Public(shorten(did));
        // 34 bytes are at most 47 characters; the bound keeps base58's quadratic decoder cheap.
        let encoded = did.strip_prefix("did:key:z").filter(|text| text.len() <= 64).ok_or_else(bad)?;
        let bytes = bs58::decode(encoded).into_vec().map_err(|_| bad())?;
        let raw: [u8; 32] = bytes.strip_prefix(&ED25519_CODEC).and_then(|raw| raw.try_into().ok()).ok_or_else(bad)?;
        Self::from_bytes(&raw)
    }

    /// `SHA256:` over the raw 32 bytes.
    pub fn fingerprint_raw(&self) -> String {
        fingerprint(self.as_bytes())
    }

    /// `SHA256:` over the DER SubjectPublicKeyInfo, as AMP's own tools have it.
    pub fn fingerprint_spki(&self) -> String {
        fingerprint(&self.to_spki_der())
    }

    pub fn to_spki_der(&self) -> Vec<u8> {
        // RFC 8410: SEQUENCE { SEQUENCE { OID 1.3.101.112 }, BIT STRING }.
        const PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
        [PREFIX.as_slice(), self.as_bytes()].concat()
    }

    pub fn to_spki_pem(&self) -> String {
        #[expect(clippy::expect_used, reason = "32 bytes always encode; nothing from outside reaches this")]
        self.0.to_public_key_pem(LineEnding::LF).expect("an Ed25519 key has an SPKI form")
    }

    pub fn from_spki_pem(pem: &str) -> Result<Self, KeyError> {
        Self::strong(VerifyingKey::from_public_key_pem(pem.trim()).map_err(|_| KeyError::Public(shorten(pem)))?)
    }

    /// Strict verification: no second signature exists for a message and a key.
    pub fn verify(&self, message: &[u8], signature: &Signature) -> Result<(), BadSignature> {
        self.0.verify_strict(message, &signature.0).map_err(|_| BadSignature)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not fit the key and the message")]
pub struct BadSignature;

fn fingerprint(bytes: &[u8]) -> String {
    format!("SHA256:{}", BASE64.encode(Sha256::digest(bytes)))
}

fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

/// The base64 of the raw 32 bytes.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&BASE64.encode(self.as_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.did())
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    /// Base64 of the raw 32 bytes, a `did:key`, or an SPKI PEM.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if text.starts_with("did:") {
            return Self::from_did(text);
        }
        if text.starts_with("-----BEGIN") {
            return Self::from_spki_pem(text);
        }
        let raw = BASE64.decode(text).ok().and_then(|raw| <[u8; 32]>::try_from(raw).ok());
        Self::from_bytes(&raw.ok_or_else(|| KeyError::Public(shorten(text)))?)
    }
}

impl Serialize for PublicKey {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Signature {
    pub fn to_bytes(&self) -> [u8; 64] {
        self.0.to_bytes()
    }

    pub fn from_bytes(raw: &[u8; 64]) -> Self {
        Self(ed25519_dalek::Signature::from_bytes(raw))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({})", BASE64.encode(self.0.to_bytes()))
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(self.0.to_bytes()))
    }
}

impl FromStr for Signature {
    type Err = BadSignature;

    /// There is one way to write each signature.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let raw = BASE64.decode(text).ok().and_then(|raw| <[u8; 64]>::try_from(raw).ok()).ok_or(BadSignature)?;
        Ok(Self(ed25519_dalek::Signature::from_bytes(&raw)))
    }
}

impl Serialize for Signature {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(|_| serde::de::Error::custom("a signature is the base64 of 64 bytes"))
    }
}

/// Where an agent's key is unless somebody says otherwise: `$LAZARET_KEY_DIR`, else
/// `$XDG_CONFIG_HOME/lazaret/agents`, else `$HOME/.config/lazaret/agents`; file `ADDRESS.pem`.
pub fn default_key_path(address: &Address) -> Result<PathBuf, KeyError> {
    key_path(address, |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from))
}

fn key_path(address: &Address, env: impl Fn(&str) -> Option<PathBuf>) -> Result<PathBuf, KeyError> {
    let dir = env("LAZARET_KEY_DIR")
        .or_else(|| env("XDG_CONFIG_HOME").map(|dir| dir.join("lazaret/agents")))
        .or_else(|| env("HOME").map(|home| home.join(".config/lazaret/agents")))
        .ok_or(KeyError::NoHome)?;
    Ok(dir.join(format!("{address}.pem")))
}

#[cfg(test)]
mod tests;
