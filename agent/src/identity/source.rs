//! Where an agent's private key is, and how it signs: in a file, in an ssh-agent, in a PKCS#11 token.
//!
//! Invariant: whatever signs is asked for an Ed25519 signature over a text of ours, which begins with a
//! prefix of its own. No other protocol's text begins so: an SSH login begins with the length of its
//! session id, an SSH file signature with `SSHSIG`.

mod pkcs11;
pub mod ssh_agent;
pub mod token;
mod uri;

use std::fmt;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::{Address, AgentKey, KeyError, PublicKey, Signature, default_key_path};
pub use uri::TokenUri;

/// A key that signs, wherever its secret is. Signing may wait for a human.
pub trait KeySource: Send + Sync {
    fn public(&self) -> PublicKey;
    fn sign(&self, message: &[u8]) -> Result<Signature, KeyError>;
}

impl KeySource for AgentKey {
    fn public(&self) -> PublicKey {
        AgentKey::public(self)
    }

    fn sign(&self, message: &[u8]) -> Result<Signature, KeyError> {
        Ok(AgentKey::sign(self, message))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "cannot read the key source {text:?}: {cause}; write file:PATH, ssh-agent:SHA256:FINGERPRINT, or pkcs11:token=NAME;object=LABEL?module-path=/LIB.so"
)]
pub struct SourceNameError {
    text: String,
    cause: String,
}

/// What `--key-source` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceName {
    File(PathBuf),
    /// A key that the agent at `$SSH_AUTH_SOCK` holds, by a fingerprint: that of `ssh-keygen -l` or one of AMP's.
    SshAgent(String),
    Pkcs11(TokenUri),
}

impl SourceName {
    /// Opens it. For a file: the key that is there.
    pub fn open(&self) -> Result<Box<dyn KeySource>, KeyError> {
        match self {
            Self::File(path) => Ok(Box::new(AgentKey::load(path)?)),
            Self::SshAgent(fingerprint) => Ok(Box::new(ssh_agent::AgentHeldKey::find(fingerprint)?)),
            Self::Pkcs11(uri) => Ok(Box::new(token::TokenProcess::start(uri)?)),
        }
    }
}

/// Longer than any name of a source.
const LONGEST_NAME: u64 = 4 << 10;

/// Where an agent's key is unless somebody says otherwise: its key file, or where the note beside that file's
/// place says.
pub fn default_source(address: &Address) -> Result<SourceName, KeyError> {
    let path = default_key_path(address)?;
    let note = note(&path);
    if path.exists() || !note.exists() {
        return Ok(SourceName::File(path));
    }
    let read = |source| KeyError::Read { path: note.clone(), source };
    let mut text = String::new();
    std::fs::File::open(&note).map_err(read)?.take(LONGEST_NAME).read_to_string(&mut text).map_err(read)?;
    text.trim().parse().map_err(|e: SourceNameError| KeyError::Source(format!("{}: {e}", note.display())))
}

/// Leaves a note where the key is, for `lazaret connect`. One that is there is replaced.
pub fn remember(address: &Address, source: &SourceName) -> Result<(), KeyError> {
    let note = note(&default_key_path(address)?);
    let write = |source| KeyError::Write { path: note.clone(), source };
    if let Some(dir) = note.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(write)?;
    }
    let fresh = note.with_extension("source.new");
    // What an earlier attempt left there; that it is not there is the usual case.
    let _ = std::fs::remove_file(&fresh);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh).map_err(write)?;
    writeln!(file, "{source}").and_then(|()| file.sync_all()).map_err(write)?;
    std::fs::rename(&fresh, &note).map_err(write)
}

fn note(path: &Path) -> PathBuf {
    path.with_extension("source")
}

impl FromStr for SourceName {
    type Err = SourceNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = |cause: String| SourceNameError { text: text.chars().take(200).collect(), cause };
        if let Some(path) = text.strip_prefix("file:") {
            return match path.is_empty() {
                true => Err(bad("there is no path".into())),
                false => Ok(Self::File(path.into())),
            };
        }
        if let Some(fingerprint) = text.strip_prefix("ssh-agent:") {
            return match fingerprint.strip_prefix("SHA256:").is_some_and(|rest| !rest.is_empty()) {
                true => Ok(Self::SshAgent(fingerprint.into())),
                false => Err(bad("the fingerprint must begin with SHA256:".into())),
            };
        }
        match text.starts_with("pkcs11:") {
            true => text.parse().map(Self::Pkcs11).map_err(bad),
            false => Err(bad("it names no kind of source".into())),
        }
    }
}

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::SshAgent(fingerprint) => write!(f, "ssh-agent:{fingerprint}"),
            Self::Pkcs11(uri) => uri.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_names_read_back_as_written() {
        for text in ["file:/k/a.pem", "ssh-agent:SHA256:abc", "pkcs11:token=t;object=o?module-path=/l.so"] {
            assert_eq!(text.parse::<SourceName>().unwrap().to_string(), text);
        }
        for text in ["", "file:", "ssh-agent:", "ssh-agent:abc", "ssh-agent:SHA256:", "tpm:x", "pkcs11:", "/k/a.pem"] {
            assert!(text.parse::<SourceName>().unwrap_err().to_string().contains("write file:PATH"), "{text}");
        }
    }
}
