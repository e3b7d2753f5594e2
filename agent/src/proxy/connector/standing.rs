//! What the connector does so that the kernel takes it for the door.
//!
//! The kernel trusts the connector's executable, but not a process in which there may be other code: one whose
//! environment loads libraries, one that is traced, one in a user namespace. The first is mended by starting
//! again without those variables; the other two are said on standard error, since under enforcement the
//! process ends as soon as it reads a message.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use lazaret_common::environment::loads_code;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

/// Before anything of the client is read. Does not return where the connector has to start again.
pub fn settle() {
    let environment = fs::read("/proc/self/environ").unwrap_or_default();
    if let Some(name) = loading(&environment) {
        let why = start_again();
        warn(&format!(
            "the variable {name} is set and puts other code into this process, and it could not be started without it \
             ({why})"
        ));
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(tracer) = tracer(&status) {
        warn(&format!("the process {tracer} traces it"));
    }
    if fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !is_whole(&map)) {
        warn("it runs in a user namespace of its own");
    }
    // From here on nobody but root reads this process's memory, or writes into it.
    if let Err(e) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        warn(&format!("its memory is open to other programs of the same user ({e})"));
    }
}

/// The first variable that the loader would heed.
fn loading(environment: &[u8]) -> Option<String> {
    let names = environment.split(|byte| *byte == 0).map(|variable| variable.split(|byte| *byte == b'=').next());
    let found = names.flatten().find(|name| loads_code(name))?;
    Some(String::from_utf8_lossy(found).into_owned())
}

/// The same program with the same arguments; what it did not read of its input is still there.
fn start_again() -> std::io::Error {
    let mut arguments = std::env::args_os();
    let kept = |(name, _): &(OsString, OsString)| !loads_code(OsStr::as_bytes(name));
    Command::new("/proc/self/exe")
        .arg0(arguments.next().unwrap_or_else(|| "lazaret".into()))
        .args(arguments)
        .env_clear()
        .envs(std::env::vars_os().filter(kept))
        .exec()
}

fn tracer(status: &str) -> Option<&str> {
    status.lines().find_map(|line| line.strip_prefix("TracerPid:")).map(str::trim).filter(|pid| *pid != "0")
}

/// The uid map of the host's own namespace.
fn is_whole(map: &str) -> bool {
    map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

fn warn(why: &str) {
    eprintln!("lazaret: {why}; under enforcement it is stopped as soon as it reads a message");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_that_load_code_are_found_whatever_stands_around_them() {
        assert_eq!(loading(b"HOME=/root\0LD_PRELOAD=/x.so\0"), Some("LD_PRELOAD".into()));
        assert_eq!(loading(b"LD_NO_VALUE\0"), Some("LD_NO_VALUE".into()));
        assert_eq!(loading(b"GCONV_PATH=/x"), Some("GCONV_PATH".into()));
        assert_eq!(loading(b"HOME=LD_PRELOAD=x\0OLD_PRELOAD=1\0GCONV=1\0\0"), None);
    }

    #[test]
    fn a_tracer_and_a_user_namespace_are_noticed() {
        assert_eq!(tracer("Name:\tx\nTracerPid:\t0\n"), None);
        assert_eq!(tracer("Name:\tx\nTracerPid:\t42\n"), Some("42"));
        assert!(is_whole("         0          0 4294967295\n"));
        assert!(!is_whole("         0       1000          1\n"));
    }
}
