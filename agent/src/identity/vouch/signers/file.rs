//! The file itself: read again as soon as it is another one, never trusted where others may write.

use std::collections::HashMap;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::{Signers, SignersError};
use crate::identity::vouch::{Signed, VouchError, Vouched, verify};

const LONGEST: u64 = 1 << 20;

/// Device, inode, size, and both times in nanoseconds: a file that was written has another stamp.
type Stamp = (u64, u64, u64, i128, i128);
type Read = Result<Arc<Signers>, SignersError>;

pub struct SignerFile {
    path: PathBuf,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    stamp: Option<Stamp>,
    signers: Option<Read>,
    /// Vouches that were verified against these signers, and why one does not count.
    verified: HashMap<[u8; 32], Option<String>>,
}

impl SignerFile {
    pub fn new(path: PathBuf) -> Self {
        Self { path, seen: Mutex::default() }
    }

    /// What the file says at this moment.
    pub fn current(&self) -> Read {
        self.look(|seen| seen.signers.clone().unwrap_or_else(|| Err(SignersError::Missing(self.name()))))
    }

    /// Checks a signature that is handed in now.
    pub fn verify(&self, message: &[u8], armour: &str, at: Timestamp) -> Result<Signed, VouchError> {
        verify(message, armour, &*self.current()?, at)
    }

    /// Why a vouch that is on record does not count any more. The signature is verified once for each
    /// state of the file; when it was made is known from the record, which is the daemon's own.
    pub fn distrust(&self, vouched: &Vouched) -> Option<String> {
        let text = vouched.document.canonical();
        let key: [u8; 32] = Sha256::new()
            .chain_update(Sha256::digest(&text))
            .chain_update(Sha256::digest(&vouched.signature))
            .chain_update(vouched.at.as_nanosecond().to_be_bytes())
            .finalize()
            .into();
        self.look(|seen| {
            let signers = match &seen.signers {
                Some(Ok(signers)) => signers.clone(),
                Some(Err(e)) => return Some(e.to_string()),
                None => return Some(SignersError::Missing(self.name()).to_string()),
            };
            let verdict = seen.verified.entry(key);
            let verdict = verdict.or_insert_with(|| {
                verify(text.as_bytes(), &vouched.signature, &signers, vouched.at).err().map(|e| e.to_string())
            });
            verdict.clone()
        })
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn look<T>(&self, ask: impl FnOnce(&mut Seen) -> T) -> T {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = self.stamp();
        if seen.signers.is_none() || seen.stamp != stamp {
            // The stamp comes first: a change during the reading makes this an old state.
            *seen = Seen { stamp, signers: Some(self.read()), verified: HashMap::new() };
        }
        ask(&mut seen)
    }

    fn stamp(&self) -> Option<Stamp> {
        let meta = std::fs::metadata(&self.path).ok()?;
        let time = |secs: i64, nanos: i64| i128::from(secs) * 1_000_000_000 + i128::from(nanos);
        let (modified, changed) = (time(meta.mtime(), meta.mtime_nsec()), time(meta.ctime(), meta.ctime_nsec()));
        Some((meta.dev(), meta.ino(), meta.size(), modified, changed))
    }

    fn read(&self) -> Read {
        let unreadable = |cause: String| SignersError::Unreadable { path: self.name(), cause };
        let opened = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&self.path);
        let file = opened.map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => SignersError::Missing(self.name()),
            _ => unreadable(e.to_string()),
        })?;
        let meta = file.metadata().map_err(|e| unreadable(e.to_string()))?;
        if !meta.is_file() {
            return Err(unreadable("it is no file".into()));
        }
        let own = rustix::process::geteuid().as_raw();
        if (meta.uid() != 0 && meta.uid() != own) || meta.mode() & 0o022 != 0 {
            let who = format!("owner uid {}, mode {:04o}", meta.uid(), meta.mode() & 0o7777);
            return Err(unreadable(format!("others than root may write to it ({who}); chown it to root, chmod 644")));
        }
        let mut text = String::new();
        file.take(LONGEST + 1).read_to_string(&mut text).map_err(|e| unreadable(e.to_string()))?;
        if text.len() as u64 > LONGEST {
            return Err(unreadable(format!("it is longer than {LONGEST} bytes")));
        }
        Signers::parse(&text, &self.name()).map(Arc::new)
    }
}
