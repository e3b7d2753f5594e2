//! Launchers of PyPI projects: uvx, `uv run`, pipx.

use super::{Found, LaunchError, Reading, Source, base, is_python, unclear};

const SWITCHES: &[&str] = &[
    "-q",
    "--quiet",
    "-v",
    "-vv",
    "--verbose",
    "-n",
    "--no-cache",
    "--offline",
    "--isolated",
    "--refresh",
    "--native-tls",
    "--system-certs",
    "--managed-python",
    "--frozen",
    "--locked",
    "--active",
    "--exact",
    "--dev",
    "--all-extras",
    "--all-groups",
    "--compile-bytecode",
    "--reinstall",
    "-U",
    "--upgrade",
    "--show-settings",
    "--preview",
    "-s",
    "--script",
    "--all-packages",
    "--only-dev",
    "--lfs",
];
const VALUED: &[&str] = &[
    "-p",
    "--python",
    "--cache-dir",
    "--color",
    "--config-file",
    "--link-mode",
    "--resolution",
    "--prerelease",
    "--python-preference",
    "--python-platform",
    "--exclude-newer",
    "--refresh-package",
    "--reinstall-package",
    "-P",
    "--upgrade-package",
    "--keyring-provider",
    "--extra",
    "--group",
    "--no-group",
    "--only-group",
    "--no-extra",
    "--package",
    "--index-strategy",
    "--fork-strategy",
    "--torch-backend",
    "--no-build-package",
    "--no-binary-package",
    "--color",
    "--allow-insecure-host",
];
/// Options that take the package, or a part of it, from somewhere else.
const ELSEWHERE: &[&str] = &[
    "-i",
    "--index",
    "--index-url",
    "--default-index",
    "--extra-index-url",
    "-f",
    "--find-links",
    "--with-editable",
    "--with-requirements",
    "-c",
    "--constraints",
    "--overrides",
    "-C",
    "--config-setting",
    "--env-file",
];

#[derive(Default)]
struct Options {
    from: Option<String>,
    with: Vec<String>,
    directory: Option<String>,
    module: bool,
    rest: Vec<String>,
}

fn options(command: &str, words: &[String], short_with: bool) -> Result<Options, LaunchError> {
    let mut found = Options::default();
    let mut i = 0;
    while let Some(word) = words.get(i) {
        i += 1;
        if word == "--" {
            break;
        }
        if !word.starts_with('-') || word == "-" {
            i -= 1;
            break;
        }
        let (key, inline) = match word.split_once('=') {
            Some((key, value)) if key.starts_with("--") => (key, Some(value.to_owned())),
            _ => (word.as_str(), None),
        };
        if SWITCHES.contains(&key) || (key.starts_with("--no-") && !VALUED.contains(&key)) {
            continue;
        }
        if matches!(key, "-m" | "--module") {
            found.module = true;
            break;
        }
        let mut value = || {
            let value = inline.clone().or_else(|| words.get(i).cloned());
            i += usize::from(inline.is_none());
            value.ok_or_else(|| unclear(command, &format!("nothing follows {key}"), "write the whole command"))
        };
        match key {
            "--from" | "--spec" => found.from = Some(value()?),
            "--with" | "--preinstall" => found.with.push(value()?),
            "-w" if short_with => found.with.push(value()?),
            "--directory" | "--project" => found.directory = Some(value()?),
            _ if VALUED.contains(&key) => drop(value()?),
            _ if ELSEWHERE.contains(&key) => {
                return Err(unclear(
                    command,
                    &format!("{key} takes the package or a part of it from somewhere else"),
                    "write the package as the index names it",
                ));
            }
            _ => {
                return Err(unclear(
                    command,
                    &format!("its option {key} is not known"),
                    "write the command without it",
                ));
            }
        }
    }
    found.rest = words.get(i..).unwrap_or_default().to_vec();
    Ok(found)
}

/// `uvx [--from PACKAGE] SCRIPT[@VERSION|==VERSION] args`
pub(super) fn uvx(command: &str, words: &[String]) -> Found {
    let found = options(command, words, true)?;
    packaged(command, found.from.as_deref(), found.rest, requirements(command, &found.with)?)
}

/// `pipx run [--spec PACKAGE] SCRIPT args`
pub(super) fn pipx(words: &[String]) -> Found {
    match words.split_first() {
        Some((run, rest)) if run == "run" => {
            let found = options("pipx run", rest, false)?;
            packaged("pipx run", found.from.as_deref(), found.rest, requirements("pipx run", &found.with)?)
        }
        _ => Err(unclear("pipx", "only `pipx run` starts a program", "write `pipx run PACKAGE`")),
    }
}

fn no_extras(command: &str, with: &[String]) -> Result<(), LaunchError> {
    if with.is_empty() {
        return Ok(());
    }
    Err(unclear(
        command,
        "--with adds requirements to a program of this host, which is run without an index",
        "name them in the program's pyproject.toml or requirements.txt",
    ))
}

/// The requirements of `--with`, each as a project of the index and a version or range. One
/// option may hold several, with commas, which ranges and extras have too.
fn requirements(command: &str, with: &[String]) -> Result<Vec<String>, LaunchError> {
    let mut specs: Vec<String> = Vec::new();
    for text in with {
        let first = specs.len();
        for part in text.split(',') {
            let goes_on = part.trim_start().starts_with(['<', '>', '=', '~', '!']);
            match specs.get_mut(first..).and_then(<[String]>::last_mut) {
                Some(last) if goes_on || last.contains('[') && !last.contains(']') => {
                    last.push(',');
                    last.push_str(part);
                }
                _ => specs.push(part.to_owned()),
            }
        }
    }
    specs.iter().map(|spec| plain_requirement(command, spec)).collect()
}

fn plain_requirement(command: &str, spec: &str) -> Result<String, LaunchError> {
    let (package, version) = requirement(command, spec)?;
    Ok(match version {
        None => package,
        Some(version) if version.starts_with(['<', '>', '=', '~', '!']) => format!("{package}{version}"),
        Some(version) => format!("{package}=={version}"),
    })
}

/// `name`s that the index holds for one.
fn same_project(a: &str, b: &str) -> bool {
    let plain = |name: &str| {
        let name = name.split(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c))).next().unwrap_or(name);
        name.to_ascii_lowercase().replace(['_', '.'], "-")
    };
    plain(a) == plain(b)
}

fn packaged(command: &str, from: Option<&str>, mut rest: Vec<String>, with: Vec<String>) -> Found {
    if rest.is_empty() {
        return Err(unclear(command, "it names no package", "write the package after it, such as `uvx PACKAGE`"));
    }
    let first = rest.remove(0);
    match from {
        Some(spec) if is_python(base(&first)) && rest.first().is_some_and(|word| word == "-m") && rest.len() > 1 => {
            let (package, version) = requirement(command, spec)?;
            let module = rest.remove(1);
            rest.remove(0);
            Ok((Source::Pypi { package, version, script: None, module: Some(module), with }, rest))
        }
        Some(spec) => {
            let (package, version) = requirement(command, spec)?;
            let script = Some(script(command, &first)?);
            Ok((Source::Pypi { package, version, script, module: None, with }, rest))
        }
        None => {
            let (package, version) = requirement(command, &first)?;
            Ok((Source::Pypi { package, version, script: None, module: None, with }, rest))
        }
    }
}

fn script(command: &str, name: &str) -> Result<String, LaunchError> {
    if name.is_empty() || name.contains('/') || name.starts_with('-') {
        return Err(unclear(
            command,
            &format!("{name:?} is no console script of a package"),
            "write the script's name",
        ));
    }
    Ok(name.into())
}

/// `name`, `name[extras]`, each with `==1.2`, `@1.2`, `@latest` or a range such as `>=1,<2`.
pub(super) fn requirement(command: &str, spec: &str) -> Result<(String, Option<String>), LaunchError> {
    let refuse = || {
        let why = format!("{spec:?} is no project of the package index");
        Err(unclear(command, &why, "write the project and, if you like, a version: `NAME==VERSION`"))
    };
    let spec = spec.trim();
    let end = spec.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))).unwrap_or(spec.len());
    let (mut package, mut rest) = (spec[..end].to_owned(), spec[end..].trim());
    if !is_project(&package) {
        return refuse();
    }
    if let Some((extras, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let extras: Vec<&str> = extras.split(',').map(str::trim).collect();
        if !extras.iter().all(|extra| is_project(extra)) {
            return refuse();
        }
        package = format!("{package}[{}]", extras.join(","));
        rest = after.trim();
    }
    let exact = rest.strip_prefix("==").or_else(|| rest.strip_prefix('@')).map(str::trim);
    let version = exact.unwrap_or(rest);
    let plain =
        |c: u8| c.is_ascii_alphanumeric() || b".+!_-*".contains(&c) || (exact.is_none() && b"<>=~, ".contains(&c));
    let range = exact.is_some() || rest.is_empty() || rest.starts_with(['<', '>', '=', '~', '!']);
    if !range || !version.bytes().all(plain) || version.starts_with('-') {
        return refuse();
    }
    Ok((package, Some(version).filter(|version| !version.is_empty() && *version != "latest").map(str::to_owned)))
}

/// PEP 508's rule for names.
pub(super) fn is_project(name: &str) -> bool {
    let edge = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    name.len() <= 214
        && edge(name.bytes().next())
        && edge(name.bytes().last())
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
}

impl Reading {
    /// `uv [options] tool run …` and `uv [options] run …`.
    pub(super) fn uv(&mut self, words: &[String]) -> Found {
        let global = options("uv", words, false)?;
        if let Some(directory) = global.directory {
            self.cwd = self.cwd.join(directory);
        }
        let rest = global.rest;
        match rest.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["tool", "run", ..] => uvx("uv tool run", &rest[2..]),
            ["x", ..] => uvx("uv x", &rest[1..]),
            ["run", ..] => self.uv_run(&rest[1..]),
            _ => Err(unclear("uv", "only `uv run` and `uv tool run` start a program", "write `uvx PACKAGE`")),
        }
    }

    fn uv_run(&mut self, words: &[String]) -> Found {
        let command = "uv run";
        let mut found = options(command, words, true)?;
        if let Some(directory) = &found.directory {
            self.cwd = self.cwd.join(directory);
        }
        if found.module {
            found.rest.splice(0..0, ["python3".to_owned(), "-m".to_owned()]);
        }
        let Some(first) = found.rest.first().cloned() else {
            return Err(unclear(command, "no program follows", "write the program that it runs"));
        };
        if !found.with.is_empty() && !found.rest.iter().any(|word| word.ends_with(".py")) {
            // The program belongs to the requirement that is named like it, else to the first.
            let mut with = requirements(command, &found.with)?;
            let own = with.iter().position(|spec| same_project(spec, &first)).unwrap_or_default();
            let own = with.remove(own);
            return packaged(command, Some(&own), found.rest, with);
        }
        no_extras(command, &found.with)?;
        let root = self.find(command, ".")?;
        if !root.join("pyproject.toml").is_file() {
            return if first.ends_with(".py") {
                self.python("python3", &found.rest)
            } else {
                Err(unclear(
                    command,
                    &format!("{} is no project with a pyproject.toml", root.display()),
                    "name it with --directory",
                ))
            };
        }
        let args = found.rest.split_off(1);
        if first.ends_with(".py") {
            let script = self.find(command, &first)?;
            if let Ok(inside) = script.strip_prefix(&root) {
                let run = vec!["python3".into(), format!("{{src}}/{}", inside.display())];
                return Ok((Source::Local { path: root, run }, args));
            }
            return self.python("python3", &[vec![first], args].concat());
        }
        if is_python(base(&first)) {
            let run = ["python3".to_owned()].into_iter().chain(args).collect();
            return Ok((Source::Local { path: root, run }, Vec::new()));
        }
        Ok((Source::Local { path: root, run: vec![script(command, &first)?] }, args))
    }
}
