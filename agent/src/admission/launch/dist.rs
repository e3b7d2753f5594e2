//! Installed Python distributions, read from their metadata files. Nothing of them is run.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::super::files;

/// Metadata beyond this size is not read: the files are small.
const MAX_BYTES: u64 = 4 << 20;

pub(super) enum Origin {
    Index,
    /// An editable install or one from a directory (PEP 610, direct_url.json).
    Directory(PathBuf),
    Elsewhere(String),
}

pub(super) struct Distribution {
    pub name: String,
    pub version: String,
    pub origin: Origin,
}

/// The site-packages directories that an interpreter at `python` imports from.
pub(super) fn sites(python: &Path, env: &BTreeMap<String, String>) -> Vec<PathBuf> {
    let mut prefixes = Vec::new();
    let prefix_of = |python: &Path| python.parent().and_then(Path::parent).map(Path::to_path_buf);
    prefixes.extend(env.get("VIRTUAL_ENV").map(PathBuf::from));
    prefixes.extend(prefix_of(python));
    let in_venv = prefixes.iter().any(|prefix| prefix.join("pyvenv.cfg").is_file());
    if !in_venv {
        prefixes.extend(std::fs::canonicalize(python).ok().and_then(|real| prefix_of(&real)));
        prefixes.push(PathBuf::from("/usr/local"));
    }
    prefixes.iter().flat_map(|prefix| sites_of_prefix(prefix)).collect()
}

/// `lib/python3*/site-packages` (and Debian's dist-packages) below a prefix.
pub(super) fn sites_of_prefix(prefix: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for lib in ["lib", "lib64"] {
        for python in entries(&prefix.join(lib), |name| name.starts_with("python3") || name.starts_with("pypy3")) {
            found.extend(
                ["site-packages", "dist-packages"].map(|name| python.join(name)).into_iter().filter(|dir| dir.is_dir()),
            );
        }
    }
    found
}

/// The distribution whose files include the module `a.b`: as a file, a package, or an editable one.
pub(super) fn by_module(sites: &[PathBuf], module: &str) -> Option<Distribution> {
    let path = module.replace('.', "/");
    let files = [format!("{path}/__main__.py"), format!("{path}/__init__.py"), format!("{path}.py")];
    let top = module.split('.').next().unwrap_or(module);
    let infos = || infos(sites);
    infos()
        .find(|info| {
            read(&info.join("RECORD"))
                .is_some_and(|record| record.lines().any(|line| files.iter().any(|file| record_path(line) == file)))
        })
        .or_else(|| {
            infos().find(|info| {
                // An editable install lists no files of its own.
                info.join("direct_url.json").is_file()
                    && (read(&info.join("top_level.txt"))
                        .is_some_and(|names| names.lines().any(|name| name.trim() == top))
                        || info.file_name().and_then(|name| name.to_str()).is_some_and(|name| {
                            name.split('-')
                                .next()
                                .is_some_and(|name| name.replace(['.', '-'], "_").eq_ignore_ascii_case(top))
                        }))
            })
        })
        .and_then(|info| distribution(&info))
}

/// The distribution that installs the console script `name`.
pub(super) fn by_script(sites: &[PathBuf], name: &str) -> Option<Distribution> {
    infos(sites)
        .find(|info| {
            let Some(text) = read(&info.join("entry_points.txt")) else { return false };
            let mut console = false;
            text.lines().map(str::trim).any(|line| {
                if line.starts_with('[') {
                    console = line == "[console_scripts]";
                    return false;
                }
                console && line.split_once('=').is_some_and(|(key, _)| key.trim() == name)
            })
        })
        .and_then(|info| distribution(&info))
}

fn infos(sites: &[PathBuf]) -> impl Iterator<Item = PathBuf> + '_ {
    sites.iter().flat_map(|site| entries(site, |name| name.ends_with(".dist-info")))
}

fn entries(dir: &Path, want: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let Ok(read) = std::fs::read_dir(dir) else { return Vec::new() };
    let named = |entry: &std::fs::DirEntry| entry.file_name().to_str().is_some_and(&want);
    let mut found: Vec<PathBuf> = read.flatten().filter(named).map(|entry| entry.path()).collect();
    found.sort();
    found
}

/// The first column of a line of RECORD (CSV; a path with a comma is quoted).
fn record_path(line: &str) -> &str {
    match line.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next().unwrap_or_default(),
        None => line.split(',').next().unwrap_or_default(),
    }
}

fn distribution(info: &Path) -> Option<Distribution> {
    let metadata = read(&info.join("METADATA"))?;
    let header = |key: &str| {
        let mut lines = metadata.lines().take_while(|line| !line.is_empty());
        lines.find_map(|line| line.strip_prefix(key)).map(|value| value.trim().to_owned())
    };
    let (name, version) = (header("Name:")?, header("Version:")?);
    let plain =
        |text: &str| text.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'+' | b'!' | b'_' | b'-'));
    if !super::uv::is_project(&name) || version.is_empty() || !plain(&version) {
        return None;
    }
    Some(Distribution { name, version, origin: origin(info) })
}

fn origin(info: &Path) -> Origin {
    let Some(text) = read(&info.join("direct_url.json")) else { return Origin::Index };
    let Ok(value) = serde_json::from_str::<serde_json::Value>(&text) else {
        return Origin::Elsewhere("an unreadable place".into());
    };
    let url = value["url"].as_str().unwrap_or_default();
    match url.strip_prefix("file://") {
        Some(path) if value.get("dir_info").is_some() && !path.contains('%') => Origin::Directory(PathBuf::from(path)),
        _ => Origin::Elsewhere(url.into()),
    }
}

fn read(path: &Path) -> Option<String> {
    let mut text = String::new();
    files::open(path).ok()?.take(MAX_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}
