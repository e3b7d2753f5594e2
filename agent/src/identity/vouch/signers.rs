//! `allowed_signers`: whose signatures count, as ssh-keygen reads that file.
//!
//! Invariant: a line that is not understood makes the whole file worth nothing, with its number: a
//! restriction that was skipped would let in more than was meant.

mod file;
mod line;

use jiff::Timestamp;
use ssh_key::{HashAlg, PublicKey};

pub use file::SignerFile;
use line::Line;

use super::VouchError;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignersError {
    #[error(
        "nobody can vouch: there is no {0}; write a line `PRINCIPAL namespaces=\"vouch@lazaret\" KEYTYPE KEY` into it for each key whose vouch counts"
    )]
    Missing(String),
    #[error("cannot read {path}: {cause}; mend it, nobody's vouch counts until then")]
    Unreadable { path: String, cause: String },
    #[error("{path}:{line}: {cause}; correct the line, nobody's vouch counts until then")]
    Line { path: String, line: usize, cause: String },
}

/// The lines of one `allowed_signers` file.
#[derive(Debug, Default)]
pub struct Signers(Vec<Line>);

impl Signers {
    /// `path` is for errors only.
    pub fn parse(text: &str, path: &str) -> Result<Self, SignersError> {
        let mut lines = Vec::new();
        for (n, text) in text.lines().enumerate() {
            let text = text.trim_matches([' ', '\t', '\r']);
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let line = Line::parse(text, n + 1);
            lines.push(line.map_err(|cause| SignersError::Line { path: path.into(), line: n + 1, cause })?);
        }
        Ok(Self(lines))
    }

    /// The principals of the first line that lets `key` sign in `namespace` at `at`.
    pub fn allow(&self, key: &PublicKey, namespace: &str, at: Timestamp) -> Result<String, VouchError> {
        let mut why = "allowed_signers has no line with this key".to_owned();
        for line in self.0.iter().filter(|line| line.key.key_data() == key.key_data()) {
            match line.allows(namespace, at) {
                Ok(()) => return Ok(line.principals.clone()),
                Err(cause) => why = format!("line {} of allowed_signers {cause}", line.number),
            }
        }
        Err(VouchError::Signer { key: key.fingerprint(HashAlg::Sha256).to_string(), why })
    }

    /// The keys that may sign in `namespace` now, as `authorized_keys` writes them.
    pub fn keys(&self, namespace: &str, at: Timestamp) -> Vec<String> {
        let may = self.0.iter().filter(|line| line.allows(namespace, at).is_ok());
        may.filter_map(|line| line.key.to_openssh().ok()).collect()
    }
}

#[cfg(test)]
mod tests;
