//! From a command line to a launch definition: what is it that this starts?
//!
//! Nothing is run for the answer, only files are read. What cannot be told for certain is an
//! error, never a guess at another server; a person reads the result before anything starts.

mod container;
mod dist;
mod local;
mod npm;
mod python;
mod uv;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::model::{LaunchDefinition, Mount, Source};

/// Wrappers may stand in wrappers: `sh -c`, `env`, shebangs. Deeper than this is a trick.
const MAX_DEPTH: usize = 8;

/// Environment that describes the host and has no meaning in a cage.
const HOST_ENV: &[&str] =
    &["PATH", "HOME", "PWD", "OLDPWD", "SHELL", "USER", "LOGNAME", "TMPDIR", "LD_PRELOAD", "LD_LIBRARY_PATH"];

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LaunchError {
    #[error("cannot read the command of the server: it is empty; write it after `--`, such as `-- npx -y PACKAGE`")]
    Empty,
    #[error("cannot tell what {command} starts: {why}; {hint}")]
    Unclear { command: String, why: String, hint: String },
    #[error(
        "cannot tell what {command} starts: {path} cannot be read ({cause}); check the path, relative ones start at {cwd}"
    )]
    Unreadable { command: String, path: PathBuf, cause: String, cwd: PathBuf },
}

/// One reading of a command line, handed from the outer command to the inner ones.
#[derive(Clone)]
struct Reading {
    env: BTreeMap<String, String>,
    cwd: PathBuf,
    mounts: Vec<Mount>,
    depth: usize,
}

type Found = Result<(Source, Vec<String>), LaunchError>;

/// Reads `argv`, as a client's config has it or as the kernel saw it. `env` is the environment
/// that the config's entry sets for the server, and never the client's own, which holds its
/// secrets; `cwd` is where relative paths start.
pub fn from_argv(argv: &[String], env: &BTreeMap<String, String>, cwd: &Path) -> Result<LaunchDefinition, LaunchError> {
    let mut reading = Reading { env: env.clone(), cwd: cwd.into(), mounts: Vec::new(), depth: 0 };
    let (source, args) = reading.command(argv)?;
    let mut env = reading.env;
    env.retain(|name, _| !HOST_ENV.contains(&name.as_str()) && !name.is_empty() && !name.contains(['=', '\0']));
    Ok(LaunchDefinition {
        source,
        args,
        env,
        mounts: reading.mounts,
        egress: Vec::new(),
        secrets: BTreeSet::new(),
        isolation: Default::default(),
        configured: argv.to_vec(),
    })
}

/// Programs that only start others: what they would start is not theirs to say.
const WRAPPERS: &[&str] = &[
    "sudo",
    "doas",
    "su",
    "nohup",
    "setsid",
    "nice",
    "ionice",
    "timeout",
    "stdbuf",
    "chroot",
    "unshare",
    "nsenter",
    "bwrap",
    "firejail",
    "systemd-run",
    "xargs",
    "strace",
    "ltrace",
    "gdb",
    "perf",
    "ssh",
    "make",
    "direnv",
    "dotenv",
    "mise",
    "asdf",
    "volta",
    "script",
    "busybox",
    "watch",
    "flock",
];
/// Interpreters that the cage has not.
const FOREIGN: &[&str] = &[
    "deno",
    "ruby",
    "perl",
    "php",
    "java",
    "go",
    "cargo",
    "dotnet",
    "lua",
    "Rscript",
    "tsx",
    "ts-node",
    "osascript",
    "pwsh",
];

impl Reading {
    fn command(&mut self, argv: &[String]) -> Found {
        let Some((first, rest)) = argv.split_first().filter(|(first, _)| !first.is_empty()) else {
            return Err(LaunchError::Empty);
        };
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(unclear(first, "it starts itself again and again", "name the server's own program"));
        }
        let name = base(first);
        match name {
            "env" => self.env_command(first, rest),
            "sh" | "bash" | "dash" | "zsh" | "ash" | "ksh" => self.shell(first, rest),
            "npx" | "npx-cli.js" | "pnpx" => npm::npx(name, rest),
            "bunx" => npm::bunx(name, rest),
            "npm" | "npm-cli.js" | "pnpm" | "pnpm.cjs" | "yarn" | "yarn.js" | "yarnpkg" => npm::manager(name, rest),
            "node" | "nodejs" => self.node(first, rest),
            "bun" => match rest.split_first() {
                Some((x, rest)) if x == "x" => npm::bunx("bun x", rest),
                Some((run, rest)) if run == "run" => self.node(first, rest),
                _ => self.node(first, rest),
            },
            "uvx" => uv::uvx("uvx", rest),
            "uv" => self.uv(rest),
            "pipx" => uv::pipx(rest),
            "docker" | "podman" | "nerdctl" => self.container(name, rest),
            _ if is_python(name) => self.python(first, rest),
            _ if WRAPPERS.contains(&name) => Err(unclear(
                first,
                "it only starts another program",
                "leave it out and write that program's own command",
            )),
            _ if FOREIGN.contains(&name) => Err(unclear(
                first,
                "the cage has no such interpreter",
                "put the server into a container image and add it as `docker run -i IMAGE`",
            )),
            _ => self.program(first, rest),
        }
    }

    /// `env [-i] [-u NAME] [-C DIR] [-S WORDS] [NAME=VALUE…] COMMAND…`
    fn env_command(&mut self, first: &str, rest: &[String]) -> Found {
        let mut rest = rest.to_vec();
        loop {
            let Some(word) = rest.first().cloned() else {
                return Err(unclear(first, "no command follows", "write the server's command after it"));
            };
            match word.as_str() {
                "-i" | "-" | "--ignore-environment" | "--" | "-v" | "--debug" => drop(rest.remove(0)),
                "-u" | "--unset" | "-C" | "--chdir" => {
                    rest.remove(0);
                    if rest.is_empty() {
                        continue;
                    }
                    let value = rest.remove(0);
                    if matches!(word.as_str(), "-C" | "--chdir") {
                        self.cwd = self.cwd.join(value);
                    } else {
                        self.env.remove(&value);
                    }
                }
                "-S" | "--split-string" => {
                    rest.remove(0);
                    if rest.is_empty() {
                        continue;
                    }
                    let text = rest.remove(0);
                    rest.splice(0..0, self.simple(first, &text)?);
                }
                _ if word.starts_with("-S") && word.len() > 2 => {
                    rest.remove(0);
                    rest.splice(0..0, self.simple(first, &word[2..])?);
                }
                _ if word.starts_with('-') => {
                    return Err(unclear(
                        first,
                        &format!("its option {word} is not known"),
                        "write the server's command without it",
                    ));
                }
                _ => match word.split_once('=') {
                    Some((name, value)) if !name.is_empty() && !name.contains('/') => {
                        self.env.insert(name.into(), value.into());
                        rest.remove(0);
                    }
                    _ => return self.command(&rest),
                },
            }
        }
    }

    /// `sh -c "COMMAND"` with one simple command, or a script.
    fn shell(&mut self, first: &str, rest: &[String]) -> Found {
        let options = rest.iter().take_while(|word| word.starts_with('-') && word.len() > 1).count();
        let has_c = rest[..options].iter().any(|word| !word.starts_with("--") && word.contains('c'));
        let Some(operand) = rest.get(options) else {
            return Err(unclear(first, "it is an interactive shell", "write the server's command"));
        };
        if !has_c {
            return self.script(first, operand, &rest[options + 1..]);
        }
        let mut words = self.simple(first, operand)?;
        while let Some((name, value)) =
            words.first().and_then(|word| word.split_once('=')).filter(|(name, _)| words::is_name(name))
        {
            self.env.insert(name.into(), value.into());
            words.remove(0);
        }
        if words.first().is_some_and(|word| word == "exec") {
            words.remove(0);
        }
        self.command(&words)
    }

    fn simple(&self, first: &str, text: &str) -> Result<Vec<String>, LaunchError> {
        words::simple_command(text)
            .map_err(|why| unclear(first, &why, "write the one command that starts the server, without a shell"))
    }

    /// Where `path` is on this host: absolute, below `cwd`, or for a bare name on the usual path.
    fn find(&self, command: &str, path: &str) -> Result<PathBuf, LaunchError> {
        let missing = |path: PathBuf, cause: String| LaunchError::Unreadable {
            command: base(command).into(),
            path,
            cause,
            cwd: self.cwd.clone(),
        };
        if path.contains('\0') {
            return Err(missing(PathBuf::from(path.replace('\0', "\u{fffd}")), "it has a NUL character".into()));
        }
        let full = self.cwd.join(path);
        match std::fs::metadata(&full) {
            Ok(meta) if meta.is_file() || meta.is_dir() => {
                std::path::absolute(&full).map_err(|e| missing(full, e.to_string()))
            }
            Ok(_) => Err(missing(full, "it is no regular file".into())),
            Err(e) => Err(missing(full, e.to_string())),
        }
    }
}

fn is_python(name: &str) -> bool {
    name.strip_prefix("python")
        .or_else(|| name.strip_prefix("pypy"))
        .is_some_and(|rest| rest.bytes().all(|c| c.is_ascii_digit() || c == b'.'))
}

fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn unclear(command: &str, why: &str, hint: &str) -> LaunchError {
    LaunchError::Unclear { command: base(command).into(), why: why.into(), hint: hint.into() }
}

/// A short name for people: the package without scope and `server-`/`mcp-` noise. The caller
/// makes it unique ([`super::Admission::free_name`]). Always a valid name of a server.
pub fn suggest_name(launch: &LaunchDefinition) -> String {
    let (scope, name) = match &launch.source {
        Source::Npm { package, .. } => match package.strip_prefix('@').and_then(|p| p.split_once('/')) {
            Some((scope, name)) => (Some(scope.to_owned()), name.to_owned()),
            None => (None, package.clone()),
        },
        Source::Pypi { package, .. } => (None, package.clone()),
        Source::Local { path, .. } => {
            let text = |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned());
            let stem = if path.is_dir() { text(path.file_name()) } else { text(path.file_stem()) };
            (text(path.parent().and_then(Path::file_name)), stem.unwrap_or_default())
        }
        Source::Image { image, .. } => {
            let repository = image.split('@').next().unwrap_or(image);
            let mut parts = repository.rsplit('/');
            let last = parts.next().unwrap_or_default();
            (parts.next().map(str::to_owned), last.split(':').next().unwrap_or(last).to_owned())
        }
        Source::Remote(remote) => (None, remote.url().host_str().unwrap_or_default().to_owned()),
    };
    let clean = |text: &str| {
        let lower = text.to_lowercase();
        let words = lower.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        let telling: Vec<&str> =
            words.filter(|word| !matches!(*word, "mcp" | "server" | "servers" | "main" | "index")).collect();
        let mut name = telling.join("-");
        name.truncate(64);
        name.trim_matches('-').to_owned()
    };
    let short = clean(&name);
    if !short.is_empty() {
        return short;
    }
    match scope.map(|scope| clean(&scope)) {
        Some(scope) if !scope.is_empty() => scope,
        _ => "server".into(),
    }
}

#[cfg(test)]
mod tests;
