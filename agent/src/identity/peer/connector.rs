//! Whether a process is Lazaret's own executable, with nobody else's code in it.
//!
//! It is where it runs the file that the daemon runs; or a file that only root can have put in that file's place,
//! before an upgrade or after it; or a copy of the same bytes.

use std::fs::{self, File, Metadata};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use lazaret_common::environment::loads_code;
use sha2::{Digest as _, Sha256};

use super::Strange;

/// A larger file is not compared with ours.
const MAX_BYTES: u64 = 1 << 30;
/// Copies that were compared and are remembered.
const MAX_COPIES: usize = 64;

pub(super) fn examine(pid: u32) -> Result<(), Strange> {
    let gone = |_| Strange::Gone(pid);
    let link = format!("/proc/{pid}/exe");
    let exe = File::open(&link).and_then(|exe| Ok((exe.metadata()?, exe)));
    let path = fs::read_link(&link).map_err(gone)?;
    match exe {
        Ok((meta, exe)) if is_ours(pid, &exe, &meta, &path) => {}
        _ => return Err(Strange::NotConnector { pid, exe: path }),
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status")).map_err(gone)?;
    if let Some(by) = tracer(&status) {
        return Err(Strange::Traced { by });
    }
    let environment = fs::read(format!("/proc/{pid}/environ")).map_err(gone)?;
    match loading(&environment) {
        Some(name) => Err(Strange::OtherCode(name)),
        None => Ok(()),
    }
}

fn tracer(status: &str) -> Option<u32> {
    let by = status.lines().find_map(|line| line.strip_prefix("TracerPid:"))?;
    by.trim().parse().ok().filter(|by| *by != 0)
}

fn loading(environment: &[u8]) -> Option<String> {
    let mut names = environment.split(|byte| *byte == 0).map(|variable| {
        let end = variable.iter().position(|byte| *byte == b'=').unwrap_or(variable.len());
        &variable[..end]
    });
    names.find(|name| loads_code(name)).map(|name| String::from_utf8_lossy(name).into_owned())
}

struct Own {
    path: PathBuf,
    file: (u64, u64),
    mounts: Option<PathBuf>,
    exe: File,
}

impl Own {
    /// Of the executable that this is; read when the first copy of it is met.
    fn digest(&self) -> Option<[u8; 32]> {
        static DIGEST: OnceLock<Option<[u8; 32]>> = OnceLock::new();
        *DIGEST.get_or_init(|| digest(&mut self.exe.try_clone().ok()?))
    }
}

fn own() -> Option<&'static Own> {
    static OWN: OnceLock<Option<Own>> = OnceLock::new();
    OWN.get_or_init(|| {
        let exe = File::open("/proc/self/exe").ok()?;
        let meta = exe.metadata().ok()?;
        Some(Own {
            path: undeleted(&fs::read_link("/proc/self/exe").ok()?),
            file: (meta.dev(), meta.ino()),
            mounts: fs::read_link("/proc/self/ns/mnt").ok(),
            exe,
        })
    })
    .as_ref()
}

fn is_ours(pid: u32, exe: &File, meta: &Metadata, path: &Path) -> bool {
    let Some(own) = own() else { return false };
    if (meta.dev(), meta.ino()) == own.file {
        return true;
    }
    let only_root_s = meta.uid() == 0 && meta.mode() & 0o022 == 0;
    let same_place = undeleted(path) == own.path && fs::read_link(format!("/proc/{pid}/ns/mnt")).ok() == own.mounts;
    (only_root_s && same_place) || is_copy(exe, meta, own)
}

/// Compares the bytes, once for each state of a file.
fn is_copy(exe: &File, meta: &Metadata, own: &Own) -> bool {
    type Version = (u64, u64, u64, i64, i64, i64, i64);
    static KNOWN: Mutex<Vec<(Version, bool)>> = Mutex::new(Vec::new());
    if !meta.is_file() || meta.len() > MAX_BYTES || own.digest().is_none() {
        return false;
    }
    let version =
        (meta.dev(), meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, same)) = known.iter().find(|(seen, _)| *seen == version) {
        return *same;
    }
    let same = exe.try_clone().ok().and_then(|mut exe| digest(&mut exe)) == own.digest();
    if known.len() >= MAX_COPIES {
        known.clear();
    }
    known.push((version, same));
    same
}

fn digest(file: &mut File) -> Option<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut chunk = vec![0; 1 << 16];
    loop {
        match file.read(&mut chunk).ok()? {
            0 => return Some(hash.finalize().into()),
            read => hash.update(&chunk[..read]),
        }
    }
}

/// The path of an executable whose file was replaced while it runs, as proc(5) writes it.
fn undeleted(path: &Path) -> PathBuf {
    path.to_str().and_then(|path| path.strip_suffix(" (deleted)")).map_or_else(|| path.into(), PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_is_ours_and_another_is_not() {
        assert_eq!(examine(std::process::id()), Ok(()));
        let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let examined = examine(other.id());
        other.kill().and_then(|()| other.wait()).unwrap();
        assert!(matches!(examined, Err(Strange::NotConnector { .. })), "{examined:?}");
    }

    #[test]
    fn a_copy_of_the_same_bytes_is_ours_until_a_byte_differs() {
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("copy");
        fs::copy("/proc/self/exe", &copy).unwrap();
        let ours = |path: &Path| {
            let file = File::open(path).unwrap();
            is_ours(std::process::id(), &file, &file.metadata().unwrap(), path)
        };
        assert!(ours(&copy));
        let mut bytes = fs::read(&copy).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::remove_file(&copy).unwrap();
        fs::write(&copy, bytes).unwrap();
        assert!(!ours(&copy));
    }

    #[test]
    fn tracers_and_loader_variables_are_found() {
        assert_eq!(tracer("Name:\tx\nTracerPid:\t0\n"), None);
        assert_eq!(tracer("TracerPid:\t7\n"), Some(7));
        assert_eq!(loading(b"A=1\0LD_AUDIT=x\0"), Some("LD_AUDIT".into()));
        assert_eq!(loading(b"A=LD_PRELOAD=1\0"), None);
    }
}
