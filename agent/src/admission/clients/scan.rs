//! Reads every config that there is. A file that did not change is not read again.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use url::{Host, Url};

use super::super::files::{self, Stamp};
use super::places::{self, Place};
use super::{ClientFile, ClientServer, Format, Parsed, Scan, expand, plugins, vscode};
use crate::config;

/// Projects that are looked at; those of the configuration come first.
pub(in crate::admission) const MAX_PROJECTS: usize = 4096;
/// VS Code's profiles per home.
const MAX_PROFILES: usize = 64;
/// VS Code's recent folders per home.
const MAX_WORKSPACES: usize = 256;

/// What was read before, by path.
#[derive(Default)]
pub(in crate::admission) struct Cache {
    files: HashMap<PathBuf, (Stamp, Result<Parsed, String>)>,
    /// What was last read without an error: a config that is broken (or half written) does not
    /// make the kernel forget the servers that it had.
    good: HashMap<PathBuf, Parsed>,
}

/// Reads the configs of the host, of `homes` and of `projects`, and of the projects that they
/// name. `run_dir` is where this instance's sockets are: only a connector to those is its door.
pub fn scan(homes: &[PathBuf], projects: &[PathBuf], run_dir: &Path) -> Scan {
    scan_with(&mut Cache::default(), homes, projects, run_dir).0
}

/// Also returns every path where a config may appear, each with the directory that its search began at.
pub(in crate::admission) fn scan_with(
    cache: &mut Cache,
    homes: &[PathBuf],
    projects: &[PathBuf],
    run_dir: &Path,
) -> (Scan, Vec<(PathBuf, PathBuf)>) {
    let mut reader = Reader {
        cache,
        run_dir,
        http: http_door(run_dir),
        seen: HashSet::new(),
        found: Vec::new(),
        files: Vec::new(),
        projects: Vec::new(),
        plugins: Vec::new(),
    };
    reader.read(places::of_host(), Path::new("/"));
    for home in homes {
        reader.read(places::of_home(home), home);
        reader.plugins(home);
        reader.profiles(home);
        reader.workspaces(home);
    }
    let mut done = HashSet::new();
    let mut queue: Vec<PathBuf> = projects.to_vec();
    queue.append(&mut reader.projects);
    // A project's config may know further projects: one more round, not a chain without an end.
    for _ in 0..2 {
        for project in std::mem::take(&mut queue) {
            // Only what exists takes a place: a list of made-up projects crowds out nobody's.
            if project.is_absolute() && done.len() < MAX_PROJECTS && project.is_dir() && done.insert(project.clone()) {
                reader.read(places::of_project(&project), &project);
            }
        }
        queue.append(&mut reader.projects);
    }
    let mut warnings = Vec::new();
    if done.len() == MAX_PROJECTS {
        warnings.push(format!(
            "only the first {MAX_PROJECTS} projects are watched; name the important ones in [clients] projects"
        ));
    }
    let Reader { files, found, .. } = reader;
    let paths: HashSet<&PathBuf> = found.iter().map(|(path, _)| path).collect();
    cache.files.retain(|path, _| paths.contains(path) || path.ends_with("workspace.json"));
    cache.good.retain(|path, _| paths.contains(path));
    (Scan { generation: 0, files, warnings }, found)
}

struct Reader<'a> {
    cache: &'a mut Cache,
    run_dir: &'a Path,
    /// Where this instance's daemon serves HTTP clients.
    http: Option<SocketAddr>,
    seen: HashSet<PathBuf>,
    found: Vec<(PathBuf, PathBuf)>,
    files: Vec<ClientFile>,
    projects: Vec<PathBuf>,
    plugins: Vec<PathBuf>,
}

impl Reader<'_> {
    fn read(&mut self, places: Vec<Place>, base: &Path) {
        for place in places {
            if !self.seen.insert(place.path.clone()) {
                continue;
            }
            self.found.push((place.path.clone(), base.into()));
            if let Some(file) = self.file(place) {
                self.files.push(file);
            }
        }
    }

    fn file(&mut self, place: Place) -> Option<ClientFile> {
        let result = match files::stamp(&place.path) {
            None => {
                self.cache.files.remove(&place.path);
                self.cache.good.remove(&place.path);
                return None;
            }
            Some(Err(what)) => Err(what),
            Some(Ok(stamp)) => self.cached(&place.path, stamp, |text| place.format.parse(text)),
        };
        let (parsed, error) = match result {
            Ok(parsed) => {
                self.cache.good.insert(place.path.clone(), parsed.clone());
                let error = parsed.error.clone();
                (parsed, error)
            }
            Err(what) => match self.cache.good.get(&place.path) {
                Some(before) => (before.clone(), Some(format!("{what}; its servers are those of before"))),
                None => (Parsed::default(), Some(what)),
            },
        };
        self.projects.extend(parsed.projects);
        self.plugins.extend(parsed.plugins);
        if place.shared && parsed.servers.is_empty() && error.is_none() {
            return None;
        }
        let mut servers = parsed.servers;
        for server in &mut servers {
            if server.project.is_none() {
                server.project.clone_from(&place.project);
            }
            if place.format == Format::ClaudePlugin {
                let file = &place.path;
                let above = if file.ends_with(".claude-plugin/plugin.json") { 2 } else { 1 };
                file.ancestors().nth(above).into_iter().for_each(|plugin| plugins::place(server, plugin));
            }
            expand::server(server, place.home.as_deref());
            server.door = is_door(server, self.run_dir) || is_http_door(server, self.http);
        }
        let error = error.map(|what| format!("{}: {what}", place.path.display()));
        Some(ClientFile {
            client: place.client,
            path: place.path,
            home: place.home,
            project: place.project,
            servers,
            error,
        })
    }

    /// The plugins that the home's list of them names.
    fn plugins(&mut self, home: &Path) {
        for plugin in std::mem::take(&mut self.plugins) {
            if plugin.is_dir() {
                self.read(places::of_plugin(&plugin, Some(home)), &plugin);
            }
        }
    }

    fn profiles(&mut self, home: &Path) {
        for profiles in places::PROFILES {
            let entries = std::fs::read_dir(home.join(profiles)).into_iter().flatten().flatten();
            for profile in entries.take(MAX_PROFILES) {
                self.read(places::of_profile(&profile.path(), home), home);
            }
        }
    }

    /// VS Code and its kin know projects by the folders that were opened.
    fn workspaces(&mut self, home: &Path) {
        for storage in places::WORKSPACES {
            let Ok(entries) = std::fs::read_dir(home.join(storage)) else { continue };
            for entry in entries.flatten().take(MAX_WORKSPACES) {
                let path = entry.path().join("workspace.json");
                if let Some(Ok(stamp)) = files::stamp(&path)
                    && let Ok(parsed) = self.cached(&path, stamp, vscode::parse_workspace)
                {
                    self.projects.extend(parsed.projects);
                }
            }
        }
    }

    fn cached(
        &mut self,
        path: &Path,
        stamp: Stamp,
        parse: impl FnOnce(&str) -> Result<Parsed, String>,
    ) -> Result<Parsed, String> {
        match self.cache.files.get(path) {
            Some((known, result)) if *known == stamp => result.clone(),
            _ => {
                let result = files::read(path).and_then(|text| parse(&text));
                self.cache.files.insert(path.into(), (stamp, result.clone()));
                result
            }
        }
    }
}

/// Whether an entry starts our connector to this instance. The name alone proves nothing: it has to be an
/// executable that nobody but root (or the user that this process runs as) could have put there,
/// and the entry must not tell the loader to put other code into it.
fn is_door(server: &ClientServer, run_dir: &Path) -> bool {
    let Some(command) = &server.command else { return false };
    if server.env.keys().any(|name| name.starts_with("LD_") || name == "GLIBC_TUNABLES") {
        return false;
    }
    if server.args.first().is_none_or(|arg| arg != "connect") {
        return false;
    }
    if !reaches(server, run_dir) {
        return false;
    }
    let path = if command.contains('/') {
        Some(PathBuf::from(command))
    } else {
        ["/usr/local/bin", "/usr/bin"].iter().map(|dir| Path::new(dir).join(command)).find(|path| path.is_file())
    };
    let Some(real) = path.filter(|path| path.is_absolute()).and_then(|path| std::fs::canonicalize(path).ok()) else {
        return false;
    };
    let own = std::fs::metadata("/proc/self").map_or(0, |meta| meta.uid());
    real.file_name().is_some_and(|name| name == "lazaret")
        && std::fs::metadata(&real)
            .is_ok_and(|meta| meta.is_file() && (meta.uid() == 0 || meta.uid() == own) && meta.mode() & 0o002 == 0)
}

/// What the daemon says in its own directory, where nobody else can write.
fn http_door(run_dir: &Path) -> Option<SocketAddr> {
    let text = std::fs::read_to_string(run_dir.join(config::HTTP_URL_FILE)).ok()?;
    authority(text.trim())
}

/// Whether an entry names that very address: another spelling may lead to another's port.
fn is_http_door(server: &ClientServer, http: Option<SocketAddr>) -> bool {
    server.command.is_none() && http.is_some() && server.url.as_deref().and_then(authority) == http
}

fn authority(url: &str) -> Option<SocketAddr> {
    let url = Url::parse(url).ok().filter(|url| url.scheme() == "http" && url.username().is_empty())?;
    let ip = match url.host()? {
        Host::Ipv4(ip) => IpAddr::V4(ip),
        Host::Ipv6(ip) => IpAddr::V6(ip),
        Host::Domain(_) => return None,
    };
    Some(SocketAddr::new(ip, url.port_or_known_default()?))
}

/// Whether the connector would go to the sockets in `run_dir`, and to no others. An option wins
/// over a variable, as in the connector itself; of two, which it would refuse, none is believed.
fn reaches(server: &ClientServer, run_dir: &Path) -> bool {
    let mut named: Vec<&str> = Vec::new();
    let mut words = server.args.iter();
    while let Some(word) = words.next() {
        match word.strip_prefix("--run-dir") {
            Some("") => named.extend(words.next().map(String::as_str)),
            Some(value) => named.extend(value.strip_prefix('=')),
            None => {}
        }
    }
    let named = match named.as_slice() {
        [] => server.env.get("LAZARET_RUN_DIR").map_or(config::DEFAULT_RUN_DIR, String::as_str),
        [one] => one,
        _ => return false,
    };
    let real = |dir: &Path| std::fs::canonicalize(dir).unwrap_or_else(|_| dir.to_path_buf());
    Path::new(named).is_absolute() && real(Path::new(named)) == real(run_dir)
}
