//! The cage's first program (`agent/cage-init.rs`): where it lies on the host, and what it is told.
//!
//! Only a server with environment or egress gets it, by a read-only mount of this one file. The
//! values go to its standard input and nowhere else: Docker neither sees nor keeps them.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use bollard::models::{Mount, MountBindOptions, MountBindOptionsPropagationEnum, MountType};
use sha2::{Digest as _, Sha256};

/// Empty where the build could not link it statically.
static PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/cage-init"));
/// Below a directory that no image brings along.
pub(super) const PATH: &str = "/dev/cage-init";

/// Writes the program below `dir` and returns its path. Its name tells its content, so that the
/// containers of another version keep what they were started with.
pub(super) fn install(dir: &Path) -> io::Result<PathBuf> {
    if PROGRAM.is_empty() {
        return Err(io::Error::other("this lazaret was built without its cage-init"));
    }
    let digest = hex::encode(&Sha256::digest(PROGRAM)[..6]);
    let path = std::path::absolute(dir)?.join(format!("cage-init-{digest}"));
    if std::fs::read(&path).is_ok_and(|found| found == PROGRAM) {
        return Ok(path);
    }
    let new = path.with_extension(format!("new-{}", std::process::id()));
    std::fs::write(&new, PROGRAM)?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o555))?;
    std::fs::rename(&new, &path)?;
    Ok(path)
}

pub(super) fn mount(program: &Path) -> Mount {
    Mount {
        target: Some(PATH.into()),
        source: Some(program.to_string_lossy().into_owned()),
        typ: Some(MountType::BIND),
        read_only: Some(true),
        bind_options: Some(MountBindOptions {
            propagation: Some(MountBindOptionsPropagationEnum::RPRIVATE),
            non_recursive: Some(true),
            ..MountBindOptions::default()
        }),
        ..Mount::default()
    }
}

/// What the program reads before it becomes the server.
pub(super) fn message(env: &BTreeMap<String, String>) -> Result<Vec<u8>, String> {
    let mut entries = Vec::new();
    for (name, value) in env {
        if value.contains('\0') {
            return Err(format!("the value of {name} has a NUL byte"));
        }
        entries.extend_from_slice(format!("{name}={value}\0").as_bytes());
    }
    let length = u32::try_from(entries.len()).map_err(|_| "its environment is too long".to_owned())?;
    Ok([&length.to_be_bytes()[..], &entries].concat())
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_server_gets_its_environment_and_every_byte_behind_it() {
        let dir = tempfile::tempdir().unwrap();
        let program = install(dir.path()).unwrap();
        assert_eq!(install(dir.path()).unwrap(), program, "it is written once");
        let env = [("A".to_owned(), "b=c\n".to_owned()), ("EMPTY".to_owned(), String::new())].into();
        let mut child = Command::new(&program)
            .args(["sh", "-c", r#"printf '%s|%s|' "$A" "${EMPTY-unset}"; cat"#])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(&message(&env).unwrap()).unwrap();
        input.write_all(b"its own input").unwrap();
        drop(input);
        let mut said = String::new();
        child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(said, "b=c\n||its own input");
        assert!(child.wait().unwrap().success());
    }

    #[test]
    fn nothing_runs_until_the_environment_has_come_whole() {
        let dir = tempfile::tempdir().unwrap();
        let program = install(dir.path()).unwrap();
        for part in [&b""[..], b"\0\0", b"\0\0\0\x05A=b"] {
            let mut child = Command::new(&program)
                .args(["sh", "-c", "echo it runs"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(part).unwrap();
            let output = child.wait_with_output().unwrap();
            assert_eq!((output.status.code(), output.stdout), (Some(126), vec![]), "{part:?}");
        }
        assert!(message(&[("A".to_owned(), "a\0B=c".to_owned())].into()).is_err());
    }
}
