//! An ssh-agent: which keys it holds, and signatures by them.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use ssh_key::public::KeyData;
use ssh_key::{PublicKey as SshKey, Signature as SshSignature};

use super::KeySource;
use crate::identity::{KeyError, PublicKey, Signature};

const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;
/// An RSA key signs over SHA-1 where nothing else is asked for.
const RSA_SHA2_512: u32 = 4;
/// OpenSSH's own bound.
const LONGEST: usize = 256 << 10;
/// A human may have to touch a key, or to type a PIN.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AgentError {
    #[error(
        "cannot reach an ssh-agent: SSH_AUTH_SOCK is not set; start one with `eval $(ssh-agent)`, and under sudo keep it with `sudo --preserve-env=SSH_AUTH_SOCK`"
    )]
    NoSocket,
    #[error("cannot talk to the ssh-agent at {socket}: {cause}; check that it runs with `ssh-add -l`")]
    Io { socket: String, cause: String },
    #[error("the ssh-agent gave an answer that is not understood ({0}); check that SSH_AUTH_SOCK is an ssh-agent's")]
    Malformed(&'static str),
    #[error("the ssh-agent refused to sign: it has no such key any more, or somebody said no; see `ssh-add -l`")]
    Refused,
    #[error(
        "the ssh-agent holds no key with the fingerprint {wanted}; see `ssh-add -l`, and add it with `ssh-add FILE`"
    )]
    NoKey { wanted: String },
    #[error("the ssh-agent's key {wanted} is of type {kind}; an agent's key must be ssh-ed25519")]
    NotEd25519 { wanted: String, kind: String },
}

/// A key that the agent offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The public key as SSH encodes it.
    pub blob: Vec<u8>,
    pub comment: String,
}

impl Identity {
    pub fn key(&self) -> Option<SshKey> {
        SshKey::from_bytes(&self.blob).ok()
    }
}

pub struct SshAgent {
    stream: UnixStream,
    socket: String,
}

impl SshAgent {
    /// The agent at `$SSH_AUTH_SOCK`.
    pub fn connect() -> Result<Self, AgentError> {
        let socket = std::env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty()).ok_or(AgentError::NoSocket)?;
        Self::at(std::path::Path::new(&socket))
    }

    pub fn at(path: &std::path::Path) -> Result<Self, AgentError> {
        let socket = path.display().to_string();
        let failed = |e: std::io::Error| AgentError::Io { socket: socket.clone(), cause: e.to_string() };
        let stream = UnixStream::connect(path).map_err(failed)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
        Ok(Self { stream, socket })
    }

    pub fn identities(&mut self) -> Result<Vec<Identity>, AgentError> {
        parse_identities(&self.ask(&[REQUEST_IDENTITIES])?)
    }

    /// Signs `data` itself: nothing is put before it.
    pub fn sign(&mut self, blob: &[u8], data: &[u8]) -> Result<SshSignature, AgentError> {
        let mut request = vec![SIGN_REQUEST];
        for text in [blob, data] {
            request.extend_from_slice(&(text.len() as u32).to_be_bytes());
            request.extend_from_slice(text);
        }
        let rsa = blob.get(4..).is_some_and(|name| name.starts_with(b"ssh-rsa"));
        request.extend_from_slice(&(if rsa { RSA_SHA2_512 } else { 0 }).to_be_bytes());
        parse_signature(&self.ask(&request)?)
    }

    fn ask(&mut self, request: &[u8]) -> Result<Vec<u8>, AgentError> {
        let failed = |e: std::io::Error| AgentError::Io { socket: self.socket.clone(), cause: e.to_string() };
        let framed = [&(request.len() as u32).to_be_bytes(), request].concat();
        self.stream.write_all(&framed).map_err(failed)?;
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).map_err(failed)?;
        let length = u32::from_be_bytes(length) as usize;
        if length == 0 || length > LONGEST {
            return Err(AgentError::Malformed("its length"));
        }
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer).map_err(failed)?;
        Ok(answer)
    }
}

/// The body of `SSH_AGENT_IDENTITIES_ANSWER`.
pub fn parse_identities(answer: &[u8]) -> Result<Vec<Identity>, AgentError> {
    let Some((&IDENTITIES_ANSWER, mut rest)) = answer.split_first() else {
        return Err(AgentError::Malformed("its type"));
    };
    let count = number(&mut rest)?;
    let mut identities = Vec::new();
    for _ in 0..count {
        let blob = string(&mut rest)?.to_vec();
        let comment = String::from_utf8_lossy(string(&mut rest)?).into_owned();
        identities.push(Identity { blob, comment });
    }
    Ok(identities)
}

/// The body of `SSH_AGENT_SIGN_RESPONSE`.
pub fn parse_signature(answer: &[u8]) -> Result<SshSignature, AgentError> {
    match answer.split_first() {
        Some((&SIGN_RESPONSE, mut rest)) => {
            let signature = string(&mut rest)?;
            SshSignature::try_from(signature).map_err(|_| AgentError::Malformed("its signature"))
        }
        Some(_) => Err(AgentError::Refused),
        None => Err(AgentError::Malformed("its type")),
    }
}

fn number(rest: &mut &[u8]) -> Result<u32, AgentError> {
    let (head, tail) = rest.split_first_chunk::<4>().ok_or(AgentError::Malformed("its end"))?;
    *rest = tail;
    Ok(u32::from_be_bytes(*head))
}

fn string<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], AgentError> {
    let length = number(rest)? as usize;
    let (head, tail) = rest.split_at_checked(length).ok_or(AgentError::Malformed("its end"))?;
    *rest = tail;
    Ok(head)
}

/// A key of the ssh-agent that signs for an agent of ours.
pub struct AgentHeldKey {
    blob: Vec<u8>,
    public: PublicKey,
}

impl AgentHeldKey {
    pub fn find(fingerprint: &str) -> Result<Self, KeyError> {
        let wanted = fingerprint.trim_end_matches('=');
        for identity in SshAgent::connect()?.identities()? {
            let Some(key) = identity.key() else { continue };
            let ed25519 = match key.key_data() {
                KeyData::Ed25519(raw) => Some(PublicKey::from_bytes(&raw.0)?),
                _ => None,
            };
            let mut names = vec![key.fingerprint(ssh_key::HashAlg::Sha256).to_string()];
            names.extend(ed25519.iter().flat_map(|key| [key.fingerprint_raw(), key.fingerprint_spki()]));
            if !names.iter().any(|name| name.trim_end_matches('=') == wanted) {
                continue;
            }
            let Some(public) = ed25519 else {
                let kind = key.algorithm().to_string();
                return Err(AgentError::NotEd25519 { wanted: fingerprint.into(), kind }.into());
            };
            return Ok(Self { blob: identity.blob, public });
        }
        Err(AgentError::NoKey { wanted: fingerprint.into() }.into())
    }
}

impl KeySource for AgentHeldKey {
    fn public(&self) -> PublicKey {
        self.public
    }

    fn sign(&self, message: &[u8]) -> Result<Signature, KeyError> {
        let signature = SshAgent::connect()?.sign(&self.blob, message)?;
        let raw: [u8; 64] =
            signature.as_bytes().try_into().map_err(|_| AgentError::Malformed("the signature's length"))?;
        let signature = Signature::from_bytes(&raw);
        self.public
            .verify(message, &signature)
            .map_err(|_| AgentError::Malformed("the signature, which fits nothing"))?;
        Ok(signature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_answer_is_read_to_its_last_byte() {
        let answer = [&[IDENTITIES_ANSWER, 0, 0, 0, 1, 0, 0, 0, 2, 7, 8, 0, 0, 0, 1][..], b"c"].concat();
        assert_eq!(parse_identities(&answer).unwrap(), [Identity { blob: vec![7, 8], comment: "c".into() }]);
        for end in 0..answer.len() {
            assert!(parse_identities(&answer[..end]).is_err(), "{end}");
        }
        assert_eq!(parse_signature(&[5]), Err(AgentError::Refused));
        // A count that promises more than there is costs nothing.
        assert!(parse_identities(&[IDENTITIES_ANSWER, 0xff, 0xff, 0xff, 0xff]).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_identities(&bytes);
            let _ = parse_signature(&bytes);
        }
    }
}
