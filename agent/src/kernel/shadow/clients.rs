//! What client configs say about a shadow process: which entry names it, and which client it is.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::super::{Ancestor, ConfigEntry, endpoints};
use crate::admission::LaunchDefinition;
use crate::admission::clients::{ClientServer, EntryError, Leave, Scan};

/// The entry of a client config that names a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigSource {
    pub client: String,
    pub path: PathBuf,
    /// The server's name in that config.
    pub name: String,
    /// The project that the entry belongs to, where configs have such.
    pub project: Option<PathBuf>,
}

/// An entry's number is made from what it starts, so that it is the same after every rescan.
pub(super) fn entry(command: &str, args: &[String], uid: Option<u32>) -> ConfigEntry {
    let mut hash = Sha256::new();
    for part in std::iter::once(command).chain(args.iter().map(String::as_str)) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let mut id = [0; 8];
    id.copy_from_slice(&hash.finalize()[..8]);
    ConfigEntry { id: u64::from_le_bytes(id), command: command.into(), args: args.to_vec(), uid }
}

/// Whose processes an entry of this file convicts: those of the user who could have written it. What nobody
/// but root can write, or put in its place, counts for everybody. A project's config counts for its owner,
/// also where others work in that project: only the handshake convicts their servers.
fn counts_for(path: &Path) -> Option<u32> {
    let owners = |path: &Path| [std::fs::symlink_metadata(path).ok(), std::fs::metadata(path).ok()];
    path.ancestors().flat_map(owners).flatten().map(|meta| meta.uid()).find(|uid| *uid != 0)
}

/// A place in a config that names a server.
#[derive(Debug, Clone)]
pub(super) struct Named {
    pub(super) source: ConfigSource,
    pub(super) env: BTreeMap<String, String>,
    pub(super) cwd: Option<PathBuf>,
    /// Owner of the home directory that the config lies in.
    owner: Option<u32>,
    counts_for: Option<u32>,
}

/// The entries of all configs that are not our own door: stdio ones by their number, and the remote ones.
#[derive(Debug, Default)]
pub(super) struct Known(HashMap<u64, (ConfigEntry, Vec<Named>)>, Vec<NamedRemote>);

/// A place in a config that says where a server is.
#[derive(Debug, Clone)]
pub(super) struct NamedRemote {
    pub(super) source: ConfigSource,
    server: ClientServer,
    home: Option<PathBuf>,
    owner: Option<u32>,
    counts_for: Option<u32>,
}

impl NamedRemote {
    /// Whether the URL leads to one of these addresses, now; a name is looked up for that.
    pub(super) fn is_at(&self, addresses: &[String]) -> bool {
        let at = self.server.url.as_deref().map(endpoints::addresses_of).unwrap_or_default();
        at.iter().any(|address| addresses.contains(&address.to_string()))
    }

    /// A shadow loosens nothing: what is private or without TLS is added by hand, where that is said.
    pub(super) fn definition(&self) -> Result<LaunchDefinition, EntryError> {
        self.server.definition(self.home.as_deref().unwrap_or(Path::new("/")), &Leave::default())
    }
}

impl Known {
    /// At most `limit` entries, taken from each home in turn, so that nobody's config crowds out
    /// another's.
    pub(super) fn of(scan: &Scan, limit: usize) -> Self {
        let mut remotes = Vec::new();
        let mut homes: BTreeMap<Option<&Path>, Vec<(ConfigEntry, Named)>> = BTreeMap::new();
        for file in &scan.files {
            let owner = file.home.as_ref().and_then(|home| std::fs::metadata(home).ok()).map(|meta| meta.uid());
            let counts_for = counts_for(&file.path);
            for server in file.servers.iter().filter(|server| !server.door) {
                let source = ConfigSource {
                    client: file.client.to_string(),
                    path: file.path.clone(),
                    name: server.name.clone(),
                    project: server.project.clone(),
                };
                let Some(command) = server.command.as_deref().filter(|command| !command.is_empty()) else {
                    let (server, home) = (server.clone(), file.home.clone());
                    remotes.push(NamedRemote { source, server, home, owner, counts_for });
                    continue;
                };
                let named = Named { source, env: server.env.clone(), cwd: server.cwd.clone(), owner, counts_for };
                let entry = entry(command, &server.args, counts_for);
                homes.entry(file.home.as_deref()).or_default().push((entry, named));
            }
        }
        let mut known: HashMap<u64, (ConfigEntry, Vec<Named>)> = HashMap::new();
        let mut keys = HashSet::new();
        let mut turns: Vec<_> = homes.into_values().map(Vec::into_iter).collect();
        let mut left_out = 0;
        while !turns.is_empty() {
            turns.retain_mut(|home| {
                let Some((entry, named)) = home.next() else { return false };
                if keys.len() < limit || keys.contains(&(entry.id, entry.uid)) {
                    keys.insert((entry.id, entry.uid));
                    known.entry(entry.id).or_insert_with(|| (entry, Vec::new())).1.push(named);
                } else {
                    left_out += 1;
                }
                true
            });
        }
        if left_out > 0 {
            tracing::error!(
                "{left_out} entries of client configs are too many for the kernel; only the handshake convicts those servers"
            );
        }
        Self(known, remotes)
    }

    /// Each entry once for everybody, or else once for each user whom it counts for.
    pub(super) fn entries(&self) -> impl Iterator<Item = ConfigEntry> {
        self.0.values().flat_map(|(entry, places)| {
            let users: BTreeSet<Option<u32>> = places.iter().map(|named| named.counts_for).collect();
            let users = if users.contains(&None) { BTreeSet::from([None]) } else { users };
            users.into_iter().map(|uid| ConfigEntry { uid, ..entry.clone() })
        })
    }

    pub(super) fn entry(&self, id: u64) -> Option<&ConfigEntry> {
        self.0.get(&id).map(|(entry, _)| entry)
    }

    /// What the configs of this user, or those of nobody in particular that count for this user, say of remote servers.
    pub(super) fn remotes_of(&self, uid: u32) -> Vec<NamedRemote> {
        let counts = |named: &&NamedRemote| {
            named.owner == Some(uid) || named.owner.is_none() && named.counts_for.is_none_or(|owner| owner == uid)
        };
        self.1.iter().filter(counts).cloned().collect()
    }

    /// Where the config of this user names it. One user's server never gets another's environment:
    /// a config of nobody in particular (a project's, the host's) that counts for this user is the second choice.
    pub(super) fn named_by(&self, id: u64, uid: u32) -> Option<&Named> {
        let (_, places) = self.0.get(&id)?;
        let own = places.iter().find(|named| named.owner == Some(uid));
        let counts = |named: &&Named| named.counts_for.is_none_or(|owner| owner == uid);
        own.or_else(|| places.iter().find(|named| named.owner.is_none() && counts(named)))
    }
}

/// The nearest parent that is a known MCP client, by its command line.
pub(super) fn client_among(ancestors: &[Ancestor]) -> Option<String> {
    const CLIENTS: [(&str, &str); 9] = [
        ("claude", "claude-code"),
        ("gemini", "gemini-cli"),
        ("codex", "codex"),
        ("cursor", "cursor"),
        ("windsurf", "windsurf"),
        ("opencode", "opencode"),
        ("qwen", "qwen-code"),
        ("zed", "zed"),
        ("code", "vscode"),
    ];
    let client = |word: &str| {
        let base = word.rsplit('/').next().unwrap_or(word);
        CLIENTS.iter().find(|(name, _)| *name == base).map(|(_, client)| (*client).to_owned())
    };
    ancestors.iter().find_map(|ancestor| {
        let cmdline = std::fs::read(format!("/proc/{}/cmdline", ancestor.pid)).unwrap_or_default();
        let words = cmdline.split(|b| *b == 0).take(2).map(|word| String::from_utf8_lossy(word).into_owned());
        client(&ancestor.comm).or_else(|| words.into_iter().find_map(|word| client(&word)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::clients::{Client, ClientFile};

    fn server(name: &str, args: &[&str], secret: &str) -> ClientServer {
        ClientServer {
            name: name.into(),
            command: Some("npx".into()),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            env: BTreeMap::from([("TOKEN".to_owned(), secret.to_owned())]),
            url: None,
            headers: BTreeMap::new(),
            cwd: None,
            project: None,
            door: false,
            disabled: false,
            dynamic: false,
        }
    }

    fn file(home: Option<&Path>, servers: Vec<ClientServer>) -> ClientFile {
        ClientFile {
            client: Client::ClaudeCode,
            path: home.unwrap_or(Path::new("/project")).join(".claude.json"),
            home: home.map(Path::to_owned),
            project: None,
            servers,
            error: None,
        }
    }

    #[test]
    fn a_full_config_of_one_user_leaves_room_for_anothers() {
        let many = (0..100).map(|n| server("x", &[&n.to_string()], "")).collect();
        let (a, b) = (Path::new("/home/a"), Path::new("/home/b"));
        let scan = Scan {
            files: vec![file(Some(a), many), file(Some(b), vec![server("y", &["only"], "")])],
            ..Scan::default()
        };
        let known = Known::of(&scan, 10);
        assert_eq!(known.entries().count(), 10);
        assert!(known.entries().any(|entry| entry.args == ["only"]));
    }

    #[test]
    fn a_remote_entry_is_found_by_the_address_it_leads_to_and_only_for_its_user() {
        let home = tempfile::tempdir().unwrap();
        let uid = std::fs::metadata(home.path()).unwrap().uid();
        let at = |name: &str, url: &str| ClientServer {
            command: None,
            url: Some(url.into()),
            headers: BTreeMap::from([("X-Key".into(), "mine".into())]),
            ..server(name, &[], "")
        };
        let entries = vec![at("a", "https://8.8.8.8/mcp"), at("b", "https://[2001:db8::1]:8443/"), at("c", "nonsense")];
        let scan = Scan { files: vec![file(Some(home.path()), entries)], ..Scan::default() };
        let known = Known::of(&scan, 10);
        let found = |uid: u32, address: &str| -> Vec<String> {
            let at = known.remotes_of(uid).into_iter().filter(|named| named.is_at(&[address.to_owned()]));
            at.map(|named| named.source.name).collect()
        };
        assert_eq!(found(uid, "8.8.8.8:443"), ["a"]);
        assert_eq!(found(uid, "[2001:db8::1]:8443"), ["b"]);
        assert!(found(uid, "8.8.8.8:80").is_empty() && found(uid + 1, "8.8.8.8:443").is_empty());
        assert_eq!(known.remotes_of(uid)[0].definition().unwrap().env["X_KEY"], "mine");
    }

    #[test]
    fn a_server_never_gets_the_environment_of_another_users_config() {
        let home = tempfile::tempdir().unwrap();
        let uid = std::fs::metadata(home.path()).unwrap().uid();
        let scan = Scan { files: vec![file(Some(home.path()), vec![server("x", &["-y"], "mine")])], ..Scan::default() };
        let known = Known::of(&scan, 10);
        let id = known.entries().next().unwrap().id;
        assert_eq!(known.named_by(id, uid).unwrap().env["TOKEN"], "mine");
        assert!(known.named_by(id, uid + 1).is_none());
    }
}
