//! The first program of a cage whose server has an environment or egress of its own.
//!
//! It waits on its standard input for the environment, so that no value ever stands where Docker
//! keeps it, and becomes the server. Until the daemon has sent it, which it does once the cage's
//! ways out are in place, not one instruction of the server runs.
//!
//! `agent/build.rs` builds it, statically: it runs in any image.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::fs::File;
use std::io::{Error, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let mut argv = std::env::args_os().skip(1);
    let Some(program) = argv.next() else {
        eprintln!("cage-init: no program is named");
        return ExitCode::from(126);
    };
    let error = match environment() {
        Ok(variables) => Command::new(&program).args(argv).envs(variables).exec(),
        Err(e) => {
            eprintln!("cage-init: the environment did not come: {e}");
            return ExitCode::from(126);
        }
    };
    eprintln!("cage-init: cannot run {}: {error}", program.display());
    ExitCode::from(127)
}

/// Its length in four bytes, big end first, then `NAME=VALUE` and a NUL for each variable.
/// Not a byte more is read: what follows is the server's.
fn environment() -> Result<Vec<(OsString, OsString)>, Error> {
    let mut input = File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let mut length = [0; 4];
    input.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    let mut bytes = Vec::new();
    if (&input).take(length.into()).read_to_end(&mut bytes)? != length as usize {
        return Err(Error::other("it is cut off"));
    }
    let text = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    let variable = |entry: &[u8]| {
        let at = entry.iter().position(|byte| *byte == b'=')?;
        Some((text(&entry[..at]), text(&entry[at + 1..])))
    };
    Ok(bytes.split(|byte| *byte == 0).filter_map(variable).collect())
}
