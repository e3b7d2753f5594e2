//! Reads all parts of one client, and remembers by what a change of them is noticed.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use lazaret_common::environment::loads_code;
use sha2::{Digest as _, Sha256};

use super::files::{Digests, Executable, Files, Found, Listing, Stamp, unmeasured};
use super::profile::{self, FileRule, Profile};
use super::select::Selection;
use super::{argv, scripts};
use crate::identity::{Part, PartKind};
use crate::kernel::tree::Process;

/// Files that one pattern may stand for, and how deep below its directory.
const MOST_FILES: usize = 256;
const DEEPEST: usize = 6;
/// Directories above the working directory that are looked into.
const HIGHEST: usize = 16;
/// Variables that put code into interpreters, as the dynamic loader's do into everything.
const LOADING: [&[u8]; 11] = [
    b"NODE_OPTIONS",
    b"NODE_PATH",
    b"BUN_OPTIONS",
    b"BUN_INSPECT_PRELOAD",
    b"PYTHONPATH",
    b"PYTHONSTARTUP",
    b"PYTHONHOME",
    b"RUBYOPT",
    b"PERL5OPT",
    b"JAVA_TOOL_OPTIONS",
    b"ELECTRON_RUN_AS_NODE",
];

/// The nearest process that is a known client, else the nearest at all.
pub(super) fn client(parents: &[Process]) -> Option<Process> {
    let known = |process: &&Process| Program::of(process.pid).is_some_and(|program| program.known().is_some());
    parents.iter().find(known).or(parents.first()).copied()
}

pub(super) struct Survey {
    parts: Vec<Part>,
    /// Paths as this process sees them, and what stood there.
    watched: Vec<(PathBuf, Option<Stamp>)>,
    /// The processes were all there while it was looked at what they are.
    whole: bool,
}

/// What can be told of a process only while it lives. Reading files, which takes longer, comes afterwards.
struct Alive<'a> {
    pid: u32,
    name: String,
    profile: &'static Profile,
    exe: Option<Executable>,
    program: Option<Program>,
    files: Option<Files<'a>>,
}

impl<'a> Alive<'a> {
    fn of(pid: u32, uid: u32, name: Option<String>, digests: &'a Digests) -> Self {
        let program = Program::of(pid);
        let known = program.as_ref().filter(|_| name.is_none()).and_then(Program::known);
        let profile = known.unwrap_or_else(profile::of_others);
        let name = name.unwrap_or_else(|| profile.name.clone());
        Self { pid, name, profile, exe: Executable::of(pid), program, files: Files::of(pid, uid, digests) }
    }
}

impl Survey {
    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }

    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    /// Whether every path still is what it was: one `stat` each.
    pub(super) fn still_holds(&self) -> bool {
        self.whole && self.watched.iter().all(|(path, stamp)| fs::metadata(path).ok().as_ref().map(Stamp::of) == *stamp)
    }

    /// `client` is measured by its profile, each process `between` it and the connector by what it runs. `alive` says
    /// whether they still are what they were.
    pub(super) fn take(
        client: u32,
        between: &[Process],
        uid: u32,
        digests: &Digests,
        alive: impl Fn() -> bool,
    ) -> Self {
        let name = |number: usize| format!("between the client and the connector, {number}");
        let between: Vec<_> = between
            .iter()
            .zip(1..)
            .map(|(process, number)| Alive::of(process.pid, uid, Some(name(number)), digests))
            .collect();
        let client = Alive::of(client, uid, None, digests);
        let mut survey = Self { parts: Vec::new(), watched: Vec::new(), whole: alive() };
        for process in between.into_iter().chain([client]) {
            survey.program(process, uid, digests);
        }
        survey
    }

    fn part(&mut self, kind: PartKind, name: impl Into<String>, digest: String) {
        self.parts.push(Part { kind, name: name.into(), digest });
    }

    /// Executable, command line, script and the variables that put code into it; then the files of its profile.
    fn program(&mut self, process: Alive<'_>, uid: u32, digests: &Digests) {
        let Alive { pid, name, profile, exe, program, files } = process;
        let (Some(exe), Some(program), Some(files)) = (exe, program, files) else {
            return self.part(PartKind::Executable, name, unmeasured("the process has ended"));
        };
        let (path, digest, stamp) = digests.executable(exe);
        self.part(PartKind::Executable, path.to_string_lossy(), digest);
        self.watched.push((PathBuf::from(format!("/proc/{pid}/exe")), Some(stamp)));
        self.part(PartKind::Argv, name.as_str(), argv::digest(&program.argv, &profile.argv));
        if let Some(digest) = program.variables(&profile.variables) {
            self.part(PartKind::Argv, format!("{name}, environment"), digest);
        }
        for script in scripts::of(&program.exe, &program.argv, &program.cwd, &files) {
            self.script(&files, &script);
        }
        if name != profile.name {
            return;
        }
        let bases = Bases::of(&program, profile, uid);
        for rule in &profile.file {
            for pattern in &rule.paths {
                self.pattern(&files, rule, pattern, &bases);
            }
        }
    }

    fn script(&mut self, files: &Files<'_>, script: &scripts::Script) {
        match script {
            scripts::Script::File(path) => drop(self.file(files, PartKind::Script, path, None)),
            scripts::Script::Unknown(name, why) => self.part(PartKind::Script, name.clone(), unmeasured(why)),
            scripts::Script::Package(root) | scripts::Script::Modules(root) => {
                let modules = matches!(script, scripts::Script::Modules(_));
                let tree = scripts::tree(root, files, modules);
                let name = root.join(if modules { "*.py" } else { "*" });
                self.part(PartKind::Script, name.to_string_lossy(), tree.digest);
                self.watched
                    .extend(tree.watched.into_iter().map(|(path, stamp)| (files.seen_from_here(&path), Some(stamp))));
            }
        }
    }

    /// Whether there is something at the path.
    fn file(&mut self, files: &Files<'_>, kind: PartKind, path: &Path, selection: Option<&Selection<'_>>) -> bool {
        let seen = files.seen_from_here(path);
        let (digest, stamp) = match files.measure(path, selection) {
            Found::Nothing => {
                let stamp = fs::metadata(&seen).ok().as_ref().map(Stamp::of);
                self.watched.push((seen, stamp));
                return false;
            }
            Found::Measured(digest, stamp) => (digest, Some(stamp)),
            Found::Unmeasured(why) => (why, fs::metadata(&seen).ok().as_ref().map(Stamp::of)),
        };
        self.watched.push((seen, stamp));
        self.part(kind, path.to_string_lossy(), digest);
        true
    }

    fn pattern(&mut self, files: &Files<'_>, rule: &FileRule, pattern: &str, bases: &Bases) {
        for base in bases.fill(pattern) {
            let Some(at) = base.find('*') else {
                let selection = Selection::of(rule, Path::new(&base), &bases.cwd);
                self.file(files, rule.kind, Path::new(&base), selection.as_ref());
                continue;
            };
            let dir_end = base[..at].rfind('/').unwrap_or(0);
            let (dir, rest) = (Path::new(&base[..dir_end]), &base[dir_end + 1..]);
            let mut left = MOST_FILES;
            self.directory(files, rule, dir, rest, DEEPEST, &mut left);
            if left == 0 {
                self.part(
                    rule.kind,
                    base.as_str(),
                    unmeasured(&format!("there are more than {MOST_FILES} files; the rest")),
                );
            }
        }
    }

    /// Files below `dir` by the pattern `rest`: a name with stars, `**/` in front for all depths, or `NAME/REST`.
    fn directory(
        &mut self,
        files: &Files<'_>,
        rule: &FileRule,
        dir: &Path,
        rest: &str,
        depth: usize,
        left: &mut usize,
    ) {
        let Some(Listing { names, whole, stamp }) = files.list(dir, MOST_FILES) else {
            let seen = files.seen_from_here(dir);
            let stamp = fs::metadata(&seen).ok().as_ref().map(Stamp::of);
            self.watched.push((seen, stamp));
            return;
        };
        self.watched.push((files.seen_from_here(dir), Some(stamp)));
        if !whole {
            *left = 0;
        }
        let (everywhere, pattern) = rest.strip_prefix("**/").map_or((false, rest), |pattern| (true, pattern));
        for (name, is_dir) in names {
            let path = dir.join(&name);
            if is_dir && depth > 0 {
                if everywhere {
                    self.directory(files, rule, &path, rest, depth - 1, left);
                } else if let Some((first, below)) = pattern.split_once('/')
                    && profile::like(first.as_bytes(), name.as_bytes())
                {
                    if below.contains('*') {
                        self.directory(files, rule, &path, below, depth - 1, left);
                    } else {
                        self.file(files, rule.kind, &path.join(below), None);
                    }
                }
            } else if !is_dir && profile::like(pattern.as_bytes(), name.as_bytes()) && *left > 0 {
                *left -= usize::from(self.file(files, rule.kind, &path, None));
            }
        }
    }
}

/// What `/proc` says of a process.
pub(super) struct Program {
    exe: String,
    argv: Vec<Vec<u8>>,
    cwd: PathBuf,
    environment: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Program {
    fn of(pid: u32) -> Option<Self> {
        let exe = fs::read_link(format!("/proc/{pid}/exe")).ok()?.to_string_lossy().into_owned();
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let variable = |variable: &[u8]| {
            let at = variable.iter().position(|byte| *byte == b'=')?;
            Some((variable[..at].to_vec(), variable[at + 1..].to_vec()))
        };
        Some(Self {
            exe: exe.strip_suffix(" (deleted)").map_or(exe.clone(), str::to_owned),
            argv: argv::words(&fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()),
            cwd: fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default(),
            environment: environment.split(|byte| *byte == 0).filter_map(variable).collect(),
        })
    }

    fn known(&self) -> Option<&'static Profile> {
        let script = scripts::named(&self.exe, &self.argv).map(|script| self.cwd.join(script));
        // A client's own name is mostly a link into its package.
        let real = script.as_ref().and_then(|script| fs::canonicalize(script).ok());
        let text = |path: &PathBuf| path.to_string_lossy().into_owned();
        profile::known(&self.exe, real.as_ref().map(text).as_deref())
            .or_else(|| profile::known(&self.exe, script.as_ref().map(text).as_deref()))
    }

    /// Digest of the variables that make another program of it; `None` if there are none.
    fn variables(&self, named: &[String]) -> Option<String> {
        let counts = |name: &[u8]| {
            loads_code(name) || LOADING.contains(&name) || named.iter().any(|known| known.as_bytes() == name)
        };
        let mut hash = Sha256::new();
        let mut any = false;
        for (name, value) in self.environment.iter().filter(|(name, _)| counts(name)) {
            any = true;
            for part in [name, value] {
                hash.update((part.len() as u64).to_le_bytes());
                hash.update(part);
            }
        }
        any.then(|| format!("sha256:{}", hex::encode(hash.finalize())))
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        let value = self.environment.get(name.as_bytes())?;
        let path = PathBuf::from(std::ffi::OsString::from_vec(value.clone()));
        path.is_absolute().then_some(path)
    }
}

/// Where patterns begin.
struct Bases {
    home: Option<String>,
    cwd: String,
    above: Vec<String>,
    moved: Vec<(String, String)>,
}

impl Bases {
    fn of(program: &Program, profile: &Profile, uid: u32) -> Self {
        let text = |path: &Path| path.to_string_lossy().trim_end_matches('/').to_owned();
        let home = program.path("HOME").or_else(|| home_of(uid)).map(|home| text(&home));
        let cwd = text(&program.cwd);
        let above = program.cwd.ancestors().take(HIGHEST).map(text).collect();
        let moved =
            profile.moved.iter().filter_map(|(from, variable)| Some((from.clone(), text(&program.path(variable)?))));
        Self { home, cwd, above, moved: moved.collect() }
    }

    fn fill(&self, pattern: &str) -> Vec<String> {
        for (from, to) in &self.moved {
            if let Some(rest) = pattern.strip_prefix(from.as_str()).filter(|rest| rest.starts_with('/')) {
                return vec![format!("{to}{rest}")];
            }
        }
        if let Some(rest) = pattern.strip_prefix('~') {
            return self.home.iter().map(|home| format!("{home}{rest}")).collect();
        }
        if let Some(rest) = pattern.strip_prefix('^') {
            return self.above.iter().map(|dir| format!("{dir}{rest}")).collect();
        }
        match pattern.strip_prefix('.') {
            Some(rest) if rest.starts_with('/') => vec![format!("{}{rest}", self.cwd)],
            _ => vec![pattern.to_owned()],
        }
    }
}

fn home_of(uid: u32) -> Option<PathBuf> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':').skip(2);
        (fields.next()?.parse() == Ok(uid)).then_some(())?;
        fields.nth(2).map(PathBuf::from)
    })
}
