//! Python: `python -m module`, console scripts, script files, and which installed distribution
//! they belong to.

use std::path::{Path, PathBuf};

use super::{Found, Reading, Source, base, dist, local, unclear, uv};

impl Reading {
    /// `python [options] -m MODULE args`, `python [options] SCRIPT args`.
    pub(super) fn python(&mut self, first: &str, rest: &[String]) -> Found {
        let mut i = 0;
        while let Some(word) = rest.get(i).filter(|word| word.starts_with('-') && *word != "-") {
            i += 1;
            if word == "--" {
                break;
            }
            if word.starts_with("--") {
                i += usize::from(word == "--check-hash-based-pycs");
                continue;
            }
            // A cluster of letters; m, c, X and W take the rest of the word, or the next one.
            let letters = &word[1..];
            let Some(at) = letters.find(['m', 'c', 'X', 'W']) else { continue };
            let inline = &letters[at + 1..];
            let value = if inline.is_empty() {
                i += 1;
                rest.get(i - 1).cloned()
            } else {
                Some(inline.to_owned())
            };
            match (letters.as_bytes()[at], value) {
                (b'm', Some(module)) => return self.python_module(first, &module, rest.get(i..).unwrap_or_default()),
                (b'X' | b'W', Some(_)) => {}
                (b'c', _) => {
                    return Err(unclear(
                        first,
                        "it runs a program text",
                        "put the text into a file, and write `python3 FILE`",
                    ));
                }
                _ => return Err(unclear(first, "nothing follows its last option", "write the whole command")),
            }
        }
        match rest.get(i) {
            Some(script) if script != "-" => self.python_script(first, script, &rest[i + 1..]),
            _ => Err(unclear(first, "it names no program", "write the script or `-m MODULE` that it runs")),
        }
    }

    fn python_module(&self, first: &str, module: &str, args: &[String]) -> Found {
        let part = |part: &str| !part.is_empty() && part.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_');
        if !module.split('.').all(part) {
            return Err(unclear(first, &format!("{module:?} is no module's name"), "write `-m MODULE`"));
        }
        let top = module.split('.').next().unwrap_or(module);
        if matches!(top, "pip" | "venv" | "http" | "pdb" | "runpy" | "cProfile" | "debugpy") {
            return Err(unclear(first, &format!("{top} is a tool of Python's own"), "write the server's own module"));
        }
        let installed = self.interpreter(first).map(|python| dist::sites(&python, &self.env)).unwrap_or_default();
        if let Some(found) = dist::by_module(&installed, module) {
            return Ok((self.distribution(first, found, None, Some(module))?, args.to_vec()));
        }
        // `python -m` looks into the working directory first.
        let path = module.replace('.', "/");
        if let Ok(root) = self.find(first, ".")
            && (root.join(&path).join("__main__.py").is_file() || root.join(format!("{path}.py")).is_file())
        {
            local::check_root(first, &root)?;
            return Ok((
                Source::Local { path: root, run: vec!["python3".into(), "-m".into(), module.into()] },
                args.to_vec(),
            ));
        }
        let package = top.trim_matches('_').replace('_', "-");
        if !uv::is_project(&package) {
            return Err(unclear(
                first,
                &format!("no project is named after the module {module}"),
                "write `uvx PROJECT`",
            ));
        }
        let module = Some(module.into());
        Ok((Source::Pypi { package, version: None, script: None, module, with: Vec::new() }, args.to_vec()))
    }

    /// A console script of an installed distribution, or a file of its own.
    pub(super) fn python_script(&self, first: &str, script: &str, args: &[String]) -> Found {
        let path = self.find(first, script)?;
        if let Some(name) = path.file_name().and_then(|name| name.to_str())
            && let Some(bin) = path.parent().filter(|bin| bin.file_name().is_some_and(|name| name == "bin"))
        {
            let mut sites = dist::sites_of_prefix(bin.parent().unwrap_or(bin));
            if let Some(python) = self.interpreter(first) {
                sites.extend(dist::sites(&python, &self.env));
            }
            // Where the script is a link (uv, pipx), the environment is where it leads.
            if let Ok(real) = std::fs::canonicalize(&path)
                && let Some(prefix) = real.parent().and_then(Path::parent)
            {
                sites.extend(dist::sites_of_prefix(prefix));
            }
            if let Some(found) = dist::by_script(&sites, name) {
                return Ok((self.distribution(first, found, Some(name), None)?, args.to_vec()));
            }
        }
        let run = |inside: String| vec!["python3".to_owned(), inside];
        Ok((local::around(first, &path, &["pyproject.toml", "setup.py", "requirements.txt"], run)?, args.to_vec()))
    }

    fn distribution(
        &self,
        first: &str,
        found: dist::Distribution,
        script: Option<&str>,
        module: Option<&str>,
    ) -> Result<Source, super::LaunchError> {
        match found.origin {
            dist::Origin::Index => Ok(Source::Pypi {
                package: found.name,
                version: Some(found.version),
                script: script.map(str::to_owned),
                module: module.map(str::to_owned),
                with: Vec::new(),
            }),
            dist::Origin::Directory(path) => {
                let run = match (script, module) {
                    (Some(script), _) => vec![script.to_owned()],
                    (None, module) => vec!["python3".into(), "-m".into(), module.unwrap_or_default().into()],
                };
                local::check_root(first, &path)?;
                Ok(Source::Local { path, run })
            }
            dist::Origin::Elsewhere(url) => Err(unclear(
                first,
                &format!("{} was installed from {url}, which is no package index", found.name),
                "clone it, and write `uv run --directory DIR SCRIPT`",
            )),
        }
    }

    /// The interpreter's path with its links kept: a virtual environment's is a link out of it.
    fn interpreter(&self, first: &str) -> Option<PathBuf> {
        if first.contains('/') {
            return Some(self.cwd.join(first));
        }
        local::search_path(&self.env).map(|dir| dir.join(base(first))).find(|path| path.is_file())
    }
}
