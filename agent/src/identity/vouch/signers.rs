//! `allowed_signers`: whose signatures count, as ssh-keygen reads that file.
//!
//! Invariant: a line that is not understood makes the whole file worth nothing, with its number: a
//! restriction that was skipped would let in more than was meant.

mod file;
mod line;

use jiff::Timestamp;
use ssh_key::public::KeyData;
use ssh_key::{Certificate, HashAlg};

pub use file::SignerFile;
use line::Line;

use super::VouchError;
use super::certificate::principals;

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

    /// Who signed: the principals of the first line that lets `key` sign in `namespace` at `at`, or those of its
    /// certificate that a line with the certificate's authority lets in.
    pub fn allow(&self, key: &KeyData, namespace: &str, at: Timestamp) -> Result<String, VouchError> {
        let certificate = key.certificate();
        let subject = certificate.map_or(key, Certificate::public_key);
        let listed = certificate.map_or(key, Certificate::signature_key);
        let mut why = match certificate {
            None => "allowed_signers has no line with this key".to_owned(),
            Some(_) => "allowed_signers has no cert-authority line with the key that signed its certificate".to_owned(),
        };
        for line in self.0.iter().filter(|line| line.key.key_data() == listed) {
            let verdict = match (certificate, line.is_authority()) {
                (None, false) => line.allows(namespace, at).map(|()| line.principals.clone()),
                (Some(certificate), true) => line.allows(namespace, at).and_then(|()| {
                    principals(certificate, &line.principals, at)
                        .map_err(|cause| format!("is for its certificate, which {cause}"))
                }),
                (None, true) => {
                    Err("is a cert-authority: it signs certificates; sign with a key that it has certified".into())
                }
                (Some(_), false) => Err("lists that key itself; write cert-authority before it".into()),
            };
            match verdict {
                Ok(by) => return Ok(by),
                Err(cause) => why = format!("line {} of allowed_signers {cause}", line.number),
            }
        }
        Err(VouchError::Signer { key: subject.fingerprint(HashAlg::Sha256).to_string(), why })
    }

    /// The keys that may sign in `namespace` now, as `authorized_keys` writes them.
    pub fn keys(&self, namespace: &str, at: Timestamp) -> Vec<String> {
        let may = self.0.iter().filter(|line| !line.is_authority() && line.allows(namespace, at).is_ok());
        may.filter_map(|line| line.key.to_openssh().ok()).collect()
    }
}

#[cfg(test)]
mod tests;
