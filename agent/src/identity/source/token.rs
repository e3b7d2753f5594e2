//! A token is opened by a process of its own, which answers over a pipe.
//!
//! Invariant: the library of a token never runs in a process that the kernel takes for the door. The
//! helper is this program started again with a variable of the dynamic loader in its environment, and
//! that is what makes the kernel trust an image no more; without one the helper loads nothing. The
//! variable itself only binds symbols early.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use lazaret_common::environment;
use serde::{Deserialize, Serialize};

use super::pkcs11::{TokenError, TokenKey};
use super::{KeySource, TokenUri};
use crate::identity::{KeyError, PublicKey, Signature};

const UNTRUSTED: (&str, &str) = ("LD_BIND_NOW", "1");
const LONGEST_LINE: u64 = 64 << 10;

/// One line of the helper.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Key(PublicKey),
    Signature(Signature),
    Error(String),
}

/// The helper, seen from outside.
pub(super) struct TokenProcess {
    child: Mutex<(Child, BufReader<ChildStdout>)>,
    public: PublicKey,
}

impl TokenProcess {
    pub(super) fn start(uri: &TokenUri) -> Result<Self, KeyError> {
        let failed =
            |e: std::io::Error| KeyError::Source(format!("cannot start the process that opens the token: {e}"));
        let mut child = Command::new("/proc/self/exe")
            .args(["agent", "open-token", &uri.to_string()])
            .env(UNTRUSTED.0, UNTRUSTED.1)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(failed)?;
        let mut output =
            BufReader::new(child.stdout.take().ok_or_else(|| failed(std::io::ErrorKind::BrokenPipe.into()))?);
        let first = read(&mut output);
        let child = Mutex::new((child, output));
        // Before anything can fail: dropping this ends the process.
        let mut process = None;
        if let Ok(Answer::Key(public)) = first {
            process = Some(Self { child, public });
        } else {
            end(&child);
        }
        match (process, first) {
            (Some(process), _) => Ok(process),
            (None, Ok(Answer::Error(cause))) => Err(KeyError::Source(cause)),
            (None, Ok(_)) => Err(KeyError::Source("the process that opens the token said something else".into())),
            (None, Err(e)) => Err(e),
        }
    }
}

impl KeySource for TokenProcess {
    fn public(&self) -> PublicKey {
        self.public
    }

    fn sign(&self, message: &[u8]) -> Result<Signature, KeyError> {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let (process, output) = &mut *child;
        let lost = || KeyError::Source("the process that holds the token has ended; connect again".into());
        let input = process.stdin.as_mut().ok_or_else(lost)?;
        writeln!(input, "{}", BASE64.encode(message)).and_then(|()| input.flush()).map_err(|_| lost())?;
        match read(output)? {
            Answer::Signature(signature) => {
                let fits = self.public.verify(message, &signature);
                fits.map(|()| signature).map_err(|_| KeyError::Source(TokenError::BadSignature.to_string()))
            }
            Answer::Error(cause) => Err(KeyError::Source(cause)),
            Answer::Key(_) => Err(lost()),
        }
    }
}

impl Drop for TokenProcess {
    fn drop(&mut self) {
        end(&self.child);
    }
}

/// It holds nothing but a session of the token.
fn end(child: &Mutex<(Child, BufReader<ChildStdout>)>) {
    let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
    // It may have ended already.
    let _ = child.0.kill();
    let _ = child.0.wait();
}

fn read(output: &mut impl std::io::BufRead) -> Result<Answer, KeyError> {
    let lost = |cause: String| KeyError::Source(format!("the process that opens the token ended ({cause})"));
    let mut line = String::new();
    output.take(LONGEST_LINE).read_line(&mut line).map_err(|e| lost(e.to_string()))?;
    serde_json::from_str(&line).map_err(|_| lost("see its words above".into()))
}

/// The helper's own life: opens the token, then one line of base64 in, one signature out, until the input ends.
pub fn serve(uri: &TokenUri) -> Result<(), KeyError> {
    let output = |answer: &Answer| -> Result<(), KeyError> {
        let line = serde_json::to_string(answer).map_err(|e| KeyError::Source(e.to_string()))?;
        let mut out = std::io::stdout().lock();
        writeln!(out, "{line}").and_then(|()| out.flush()).map_err(|e| KeyError::Source(e.to_string()))
    };
    if !is_untrusted() {
        return Err(KeyError::Source(
            "cannot open a token in this process: its library is not to run where the kernel trusts this program; use --key-source".into(),
        ));
    }
    let key = match TokenKey::find(uri) {
        Ok(key) => key,
        Err(e) => return output(&Answer::Error(e.to_string())),
    };
    output(&Answer::Key(key.public()))?;
    let mut input = BufReader::new(std::io::stdin());
    loop {
        let mut line = String::new();
        let read = (&mut input).take(LONGEST_LINE).read_line(&mut line);
        if read.map_err(|e| KeyError::Source(e.to_string()))? == 0 {
            return Ok(());
        }
        let signed = match BASE64.decode(line.trim_end()) {
            Ok(message) => key.sign(&message),
            Err(e) => Err(KeyError::Source(e.to_string())),
        };
        output(&signed.map_or_else(|e| Answer::Error(e.to_string()), Answer::Signature))?;
    }
}

/// By the environment as the kernel saw it at exec, which is where it looked too.
fn is_untrusted() -> bool {
    let environment = std::fs::read("/proc/self/environ").unwrap_or_default();
    let mut names =
        environment.split(|byte| *byte == 0).filter_map(|variable| variable.split(|byte| *byte == b'=').next());
    let inherited = std::env::vars_os().any(|(name, _)| environment::loads_code(OsStr::as_bytes(&name)));
    inherited && names.any(environment::loads_code)
}
