//! Programs of this host: node scripts, script files, binaries, and what their shebangs say.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::super::files;
use super::{Found, LaunchError, Reading, Source, base, is_python, npm, unclear};

/// Node's options that take the next word when they have no `=`.
const NODE_VALUED: &[&str] = &[
    "-r",
    "--require",
    "--import",
    "--loader",
    "--experimental-loader",
    "-C",
    "--conditions",
    "--title",
    "--inspect-port",
    "--env-file",
    "--env-file-if-exists",
    "--input-type",
    "--icu-data-dir",
    "--openssl-config",
    "--preload",
];

/// The directories that a bare name is looked up in: the entry's own PATH, else the usual ones.
/// Never the daemon's.
pub(super) fn search_path(env: &BTreeMap<String, String>) -> impl Iterator<Item = PathBuf> {
    let usual = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let dirs: Vec<PathBuf> =
        std::env::split_paths(env.get("PATH").map_or(usual, String::as_str)).filter(|dir| dir.is_absolute()).collect();
    dirs.into_iter()
}

impl Reading {
    /// `node [options] SCRIPT args`, where the script may be npx itself.
    pub(super) fn node(&mut self, first: &str, rest: &[String]) -> Found {
        let mut i = 0;
        while let Some(word) = rest.get(i).filter(|word| word.starts_with('-') && *word != "-") {
            i += 1;
            match word.as_str() {
                "--" => break,
                "-e" | "--eval" | "-p" | "--print" | "-pe" => {
                    return Err(unclear(
                        first,
                        "it runs a program text",
                        "put the text into a file, and write `node FILE`",
                    ));
                }
                word if NODE_VALUED.contains(&word) => i += 1,
                _ => {}
            }
        }
        let Some(script) = rest.get(i).filter(|script| *script != "-") else {
            return Err(unclear(first, "it names no program", "write the script that it runs"));
        };
        let args = &rest[i + 1..];
        match base(script) {
            "npx" | "npx-cli.js" | "npm" | "npm-cli.js" | "pnpm" | "pnpm.cjs" | "yarn" | "yarn.js" | "bunx" => {
                return self.command(&[std::slice::from_ref(script), args].concat());
            }
            _ => {}
        }
        Ok((node_script(first, &self.find(first, script)?)?, args.to_vec()))
    }

    /// `sh SCRIPT args`.
    pub(super) fn script(&mut self, first: &str, script: &str, args: &[String]) -> Found {
        let path = self.find(first, script)?;
        let shell = base(first).to_owned();
        Ok((around(first, &path, &[], |inside| vec![shell, inside])?, args.to_vec()))
    }

    /// Anything else that can be run: by its shebang, or as a binary.
    pub(super) fn program(&mut self, first: &str, rest: &[String]) -> Found {
        let path = if first.contains('/') {
            self.find(first, first)?
        } else {
            let found = search_path(&self.env).map(|dir| dir.join(first)).find(|path| path.is_file());
            found.ok_or_else(|| {
                unclear(
                    first,
                    "no program of that name is on the usual path",
                    "write its full path, or `npx PACKAGE` or `uvx PACKAGE`",
                )
            })?
        };
        if path.is_dir() {
            return Err(unclear(first, "it is a directory", "write the program in it that starts the server"));
        }
        let head = head(&path).map_err(|e| LaunchError::Unreadable {
            command: base(first).into(),
            path: path.clone(),
            cause: e.to_string(),
            cwd: self.cwd.clone(),
        })?;
        if let Some(interpreter) = shebang(&head) {
            let script = path.display().to_string();
            if interpreter.first().is_some_and(|first| is_python(base(first))) {
                return self.python_script(&interpreter[0], &script, rest);
            }
            return self.command(&[interpreter.as_slice(), &[script], rest].concat());
        }
        // A package's binary below node_modules is the package's business, not a lone file.
        if let Ok(real) = std::fs::canonicalize(&path)
            && let Some(package) = Package::around(&real)
            && package.installed()
        {
            return Ok((package.npm(first, &real)?, rest.to_vec()));
        }
        Ok((around(first, &path, &[], |inside| vec![inside])?, rest.to_vec()))
    }
}

fn head(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    files::open(path)?.take(1024).read_to_end(&mut head)?;
    Ok(head)
}

/// The interpreter and its one argument, as the kernel reads them; `env -S` is left to `env`.
/// pip writes long interpreter paths as a `/bin/sh` script whose second line has the real one.
fn shebang(head: &[u8]) -> Option<Vec<String>> {
    let text = String::from_utf8_lossy(head.strip_prefix(b"#!")?).into_owned();
    let mut lines = text.lines();
    let line = lines.next()?.trim();
    if line == "/bin/sh"
        && let Some(exec) = lines.next().and_then(|line| line.strip_prefix("'''exec' "))
    {
        let python = exec.trim_start_matches('"').split(['"', ' ']).next()?;
        return Some(vec![python.to_owned()]);
    }
    let (program, argument) = line.split_once([' ', '\t']).map_or((line, ""), |(program, rest)| (program, rest.trim()));
    let mut words = vec![program.to_owned()];
    words.extend(Some(argument.to_owned()).filter(|argument| !argument.is_empty()));
    Some(words).filter(|_| !program.is_empty())
}

/// The npm package that a script belongs to, or the script itself.
fn node_script(first: &str, path: &Path) -> Result<Source, LaunchError> {
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.into());
    if let Some(package) = Package::around(&real) {
        if package.installed() {
            return package.npm(first, &real);
        }
        if check_root(first, &package.root).is_ok()
            && let Ok(inside) = real.strip_prefix(&package.root)
        {
            needs_node(first, path)?;
            let run = vec!["node".into(), format!("{{src}}/{}", inside.display())];
            return Ok(Source::Local { path: package.root.clone(), run });
        }
    }
    needs_node(first, path)?;
    Ok(Source::Local { path: path.into(), run: vec!["node".into(), "{src}".into()] })
}

/// The cage has node alone, which does not run everything that bun runs.
fn needs_node(first: &str, path: &Path) -> Result<(), LaunchError> {
    if base(first) == "bun" && path.extension().is_some_and(|extension| extension != "js" && extension != "mjs") {
        let why = "the cage has no bun, and node does not run such a file";
        return Err(unclear(first, why, "build it, and write `node dist/index.js`"));
    }
    Ok(())
}

/// The directory of `path` where one of `marks` lies beside it, else the file alone.
pub(super) fn around(
    first: &str,
    path: &Path,
    marks: &[&str],
    run: impl FnOnce(String) -> Vec<String>,
) -> Result<Source, LaunchError> {
    if path.is_dir() {
        check_root(first, path)?;
        return Ok(Source::Local { path: path.into(), run: run("{src}".into()) });
    }
    if let Some(dir) = path.parent().filter(|dir| marks.iter().any(|mark| dir.join(mark).is_file()))
        && check_root(first, dir).is_ok()
        && let Some(name) = path.file_name()
    {
        return Ok(Source::Local { path: dir.into(), run: run(format!("{{src}}/{}", name.to_string_lossy())) });
    }
    Ok(Source::Local { path: path.into(), run: run("{src}".into()) })
}

/// A directory that is copied into an image must be a project's, not somebody's whole home.
pub(super) fn check_root(first: &str, dir: &Path) -> Result<(), LaunchError> {
    let home = [".ssh", ".bash_history", ".bashrc", ".profile", ".claude.json", ".gnupg"];
    if dir.components().count() < 3 || home.iter().any(|name| dir.join(name).exists()) {
        return Err(unclear(
            first,
            &format!("{} is no project's directory but a home or a part of the system", dir.display()),
            "move the server into a directory of its own",
        ));
    }
    Ok(())
}

/// The nearest package.json with a name and a version.
struct Package {
    root: PathBuf,
    name: String,
    version: String,
    json: serde_json::Value,
}

impl Package {
    fn around(script: &Path) -> Option<Self> {
        script.ancestors().skip(1).take(6).find_map(|dir| {
            let file = files::open(&dir.join("package.json")).ok()?;
            let json: serde_json::Value = serde_json::from_reader(std::io::BufReader::new(file.take(1 << 20))).ok()?;
            let (name, version) = (json["name"].as_str()?.to_owned(), json["version"].as_str()?.to_owned());
            Some(Package { root: dir.into(), name, version, json })
        })
    }

    /// Below a node_modules directory: put there by a package manager, not written there.
    fn installed(&self) -> bool {
        self.root.components().any(|part| part.as_os_str() == "node_modules")
    }

    fn npm(&self, first: &str, script: &Path) -> Result<Source, LaunchError> {
        let plain =
            |version: &str| version.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'+'));
        if !npm::is_package(&self.name) || !plain(&self.version) || self.version.starts_with('-') {
            return Err(unclear(
                first,
                &format!("{}'s package.json has no proper name and version", self.root.display()),
                "write `npx PACKAGE`",
            ));
        }
        let same = |target: &str| std::fs::canonicalize(self.root.join(target)).is_ok_and(|target| target == script);
        let bin = match &self.json["bin"] {
            serde_json::Value::String(target) if same(target) => None,
            serde_json::Value::Object(bins) => {
                let found = bins.iter().find(|(_, target)| target.as_str().is_some_and(same));
                match found {
                    Some(_) if bins.len() == 1 => None,
                    Some((name, _)) => Some(name.clone()),
                    None => return Err(self.no_bin(first, script)),
                }
            }
            _ => return Err(self.no_bin(first, script)),
        };
        Ok(Source::Npm { package: self.name.clone(), version: Some(self.version.clone()), bin })
    }

    fn no_bin(&self, first: &str, script: &Path) -> LaunchError {
        unclear(
            first,
            &format!("{} is no command of the package {}", script.display(), self.name),
            "write `npx PACKAGE`, or copy the server into a directory of its own",
        )
    }
}
