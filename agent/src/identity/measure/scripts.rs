//! The script that an interpreter runs, and the package that it belongs to.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::files::{Files, Found, Listing, Stamp};
use super::python;

const INTERPRETERS: [&str; 9] = ["node", "nodejs", "bun", "deno", "python", "ruby", "perl", "electron", "tsx"];
/// Flags of those whose value is a word of its own; where it is a file, that is code too.
const WITH_VALUE: [&str; 14] = [
    "-r",
    "--require",
    "--import",
    "--loader",
    "--experimental-loader",
    "-C",
    "--conditions",
    "--env-file",
    "-W",
    "-X",
    "-I",
    "--preload",
    "--title",
    "--cwd",
];
/// Files that hold code or say what is loaded.
const CODE: [&str; 11] = ["js", "mjs", "cjs", "json", "node", "wasm", "ts", "py", "pyc", "so", "rb"];
/// Those of them that Python imports.
const PYTHON: [&str; 3] = ["py", "pyc", "so"];
const MOST_FILES: usize = 512;
const MOST_DIRS: usize = 256;
const DEEPEST: usize = 8;
/// How far above a script its package is looked for.
const HIGHEST: usize = 6;

pub(super) enum Script {
    File(PathBuf),
    Package(PathBuf),
    /// Python's modules in a directory.
    Modules(PathBuf),
    /// What is run, and why it has no digest.
    Unknown(String, &'static str),
}

fn is_interpreter(exe: &str) -> bool {
    let name = exe.rsplit('/').next().unwrap_or_default();
    let name = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    INTERPRETERS.contains(&name)
}

/// The words that may be files of code, the script itself last.
fn candidates(argv: &[Vec<u8>]) -> (Vec<&[u8]>, bool) {
    let mut found = Vec::new();
    let mut value = false;
    for word in argv.iter().skip(1) {
        if std::mem::take(&mut value) {
            found.push(word.as_slice());
            continue;
        }
        if word.starts_with(b"-") {
            if [b"-m".as_slice(), b"-c", b"-e", b"-p", b"--eval", b"--print"].contains(&word.as_slice()) {
                return (found, false);
            }
            value = WITH_VALUE.iter().any(|flag| flag.as_bytes() == word.as_slice());
            if let Some(at) = word.iter().position(|byte| *byte == b'=') {
                found.push(&word[at + 1..]);
            }
            continue;
        }
        // `bun run x`, `deno run x`.
        if word == b"run" {
            continue;
        }
        found.push(word);
        return (found, true);
    }
    (found, false)
}

/// The script that the command line names, as it names it.
pub(super) fn named<'a>(exe: &str, argv: &'a [Vec<u8>]) -> Option<&'a Path> {
    if !is_interpreter(exe) {
        return None;
    }
    let (found, script) = candidates(argv);
    found.last().filter(|_| script).map(|word| Path::new(OsStr::from_bytes(word)))
}

pub(super) fn of(exe: &str, argv: &[Vec<u8>], cwd: &Path, files: &Files<'_>) -> Vec<Script> {
    if !is_interpreter(exe) {
        return Vec::new();
    }
    let (found, script) = candidates(argv);
    let mut scripts = Vec::new();
    for (at, word) in found.iter().enumerate() {
        let word = Path::new(OsStr::from_bytes(word));
        let Some(real) = files.resolve(&cwd.join(word)).filter(|_| !word.as_os_str().is_empty()) else { continue };
        if script && at + 1 == found.len() {
            match package(&real, files) {
                Some(package) => scripts.push(Script::Package(package)),
                None if python::is_python(exe) => scripts.extend(python::of_script(&real, files)),
                None => {}
            }
        }
        scripts.push(Script::File(real));
    }
    if let Some(at) = argv.iter().position(|word| word == b"-m").filter(|_| !script) {
        let module = argv.get(at + 1).map(|module| String::from_utf8_lossy(module).into_owned()).unwrap_or_default();
        let called = argv.first().map(|word| cwd.join(OsStr::from_bytes(word))).unwrap_or_default();
        let found = python::of_module(&module, &[&called, Path::new(exe)], cwd, files);
        scripts.push(found.unwrap_or_else(|| {
            Script::Unknown(format!("module {module}"), "the interpreter finds the module by itself")
        }));
    }
    scripts
}

/// The nearest directory above with a `package.json`.
fn package(script: &Path, files: &Files<'_>) -> Option<PathBuf> {
    let mut above = script.ancestors().skip(1).take(HIGHEST);
    above
        .find(|dir| matches!(files.measure(&dir.join("package.json"), None), Found::Measured(..)))
        .map(Path::to_path_buf)
}

pub(super) struct Tree {
    pub(super) digest: String,
    pub(super) watched: Vec<(PathBuf, Stamp)>,
}

/// One digest over the names and digests of a package's files of code, without the packages that it depends on. Of
/// `modules` only those that Python can import from `root` count: what lies there otherwise may be somebody's home.
pub(super) fn tree(root: &Path, files: &Files<'_>, modules: bool) -> Tree {
    let mut watched = Vec::new();
    let mut listed: Vec<(PathBuf, String)> = Vec::new();
    let mut bounded = false;
    let mut dirs = vec![(root.to_path_buf(), 0)];
    let mut seen_dirs = 0;
    let counts = |path: &Path| {
        let kind = path.extension().unwrap_or_default();
        CODE.iter().any(|code| kind == *code) && (!modules || PYTHON.iter().any(|code| kind == *code))
    };
    while let Some((dir, depth)) = dirs.pop() {
        let listing = files.list(&dir, 4 * MOST_FILES);
        let Some(Listing { names, whole, stamp }) = listing else { continue };
        if modules && depth > 0 && !names.iter().any(|(name, _)| name == "__init__.py") {
            continue;
        }
        seen_dirs += 1;
        if seen_dirs > MOST_DIRS || listed.len() >= MOST_FILES {
            bounded = true;
            break;
        }
        bounded |= !whole;
        watched.push((dir.clone(), stamp));
        for (name, is_dir) in names.into_iter().rev() {
            let path = dir.join(&name);
            if is_dir {
                if depth < DEEPEST && name != "node_modules" && name != ".git" && name != "__pycache__" {
                    dirs.push((path, depth + 1));
                }
            } else if counts(&path) {
                if listed.len() >= MOST_FILES {
                    bounded = true;
                    continue;
                }
                match files.measure(&path, None) {
                    Found::Nothing => {}
                    Found::Unmeasured(why) => listed.push((path, why)),
                    Found::Measured(digest, stamp) => {
                        watched.push((path.clone(), stamp));
                        listed.push((path, digest));
                    }
                }
            }
        }
    }
    listed.sort();
    let mut hash = Sha256::new();
    for (path, digest) in &listed {
        let name = path.strip_prefix(root).unwrap_or(path).as_os_str().as_bytes();
        for part in [name, digest.as_bytes()] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    let digest = hex::encode(hash.finalize());
    let kind = if bounded { format!("sha256-of-{}-files:", listed.len()) } else { "sha256:".into() };
    Tree { digest: format!("{kind}{digest}"), watched }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(line: &str) -> Vec<Vec<u8>> {
        line.split(' ').map(|word| word.as_bytes().to_vec()).collect()
    }

    #[test]
    fn the_script_is_told_from_flags_and_their_values() {
        let named = |exe: &str, line: &str| {
            let argv = argv(line);
            super::named(exe, &argv).map(|path| path.to_string_lossy().into_owned())
        };
        let node = "/usr/bin/node";
        assert_eq!(named(node, "node x.js y"), Some("x.js".into()));
        assert_eq!(named(node, "node --max-old-space-size=9 -r pre.js x.js"), Some("x.js".into()));
        assert_eq!(named("/usr/bin/python3.12", "python3 -u x.py"), Some("x.py".into()));
        assert_eq!(named("/usr/bin/bun", "bun run x.ts"), Some("x.ts".into()));
        assert_eq!(named(node, "node -e code x.js"), None);
        assert_eq!(named("/usr/bin/python3", "python3 -m http.server"), None);
        assert_eq!(named("/bin/sh", "sh x.sh"), None);
    }

    #[test]
    fn preloaded_code_is_measured_with_the_script() {
        let line = argv("node --require pre.js --import=also.mjs x.js");
        let (found, script) = candidates(&line);
        assert_eq!(found, [b"pre.js".as_slice(), b"also.mjs", b"x.js"]);
        assert!(script);
    }
}
