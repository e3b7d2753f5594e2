//! Where a connect is evidence: sockets of container engines, and remote MCP servers that client
//! configs name.
//!
//! A name may stand for ever new addresses, so that the kernel knows each that was seen within the
//! last hour. Resolving takes its time and fails on its own; addresses that are written out, and
//! `localhost`, never wait for it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aya::Ebpf;
use lazaret_common::plain::Plain as _;
use lazaret_common::settings::{Endpoint, MAX_ENDPOINTS, UNIX_PATH};
use url::{Host, Url};

use super::{KernelError, maps};
use crate::admission::clients::Scan;

/// Last components of the names that container engines bind their sockets to, rootless and desktop
/// ones included, wherever those are.
const ENGINES: &[&str] = &["docker.sock", "podman.sock", "containerd.sock", "crio.sock"];
/// An address that a name has stood for counts for so long.
const KEPT: Duration = Duration::from_secs(3600);
/// Addresses of one name that are kept.
const MAX_ADDRESSES: usize = 256;

/// Tells the kernel which UNIX sockets are a container engine's: by whole name, and by its last component.
pub(super) fn protect(ebpf: &mut Ebpf, known: &[[u8; UNIX_PATH]], engines: &[PathBuf]) -> Result<(), KernelError> {
    let mut table = maps::table::<UNIX_PATH, 4>(ebpf, "PROTECTED")?;
    let named = engines.iter().flat_map(|path| [Some(path.clone()), std::fs::canonicalize(path).ok()]).flatten();
    let more = named.chain(ENGINES.iter().map(PathBuf::from)).filter_map(|path| padded(&path));
    for name in known.iter().copied().chain(more) {
        table.put_bytes(name, [1, 0, 0, 0])?;
    }
    Ok(())
}

/// `None`: too long for a socket's name.
fn padded(path: &Path) -> Option<[u8; UNIX_PATH]> {
    let bytes = path.as_os_str().as_bytes();
    let mut name = [0; UNIX_PATH];
    name.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(name)
}

/// Replaces the remote servers that the kernel knows. What stays is never missing in between.
pub(super) fn write(ebpf: &mut Ebpf, addresses: &[SocketAddr]) -> Result<(), KernelError> {
    let wanted: HashSet<[u8; size_of::<Endpoint>()]> =
        addresses.iter().take(MAX_ENDPOINTS as usize / 2).flat_map(keys).collect();
    let mut table = maps::table::<{ size_of::<Endpoint>() }, 4>(ebpf, "ENDPOINTS")?;
    for (key, _) in table.all() {
        if !wanted.contains(&key) {
            table.remove(key);
        }
    }
    for key in &wanted {
        table.put_bytes(*key, [1, 0, 0, 0])?;
    }
    Ok(())
}

/// As the kernel programs look it up. A server on this host's loopback can be reached over both protocols.
fn keys(address: &SocketAddr) -> Vec<[u8; size_of::<Endpoint>()]> {
    let ip = address.ip().to_canonical();
    let ips = if ip.is_loopback() || ip.is_unspecified() {
        vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]
    } else {
        vec![ip]
    };
    ips.into_iter()
        .map(|ip| {
            let octets = match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                IpAddr::V6(ip) => ip.octets(),
            };
            let mut bytes = [0; size_of::<Endpoint>()];
            bytes.copy_from_slice(Endpoint { address: octets, port: address.port(), reserved: 0 }.bytes());
            bytes
        })
        .collect()
}

/// A server that an entry names by url.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Remote {
    At(SocketAddr),
    Named(String, u16),
}

impl Remote {
    /// `None`: not an address that can be connected to.
    fn of(url: &str) -> Option<Self> {
        let url = Url::parse(url).ok()?;
        let port = url.port_or_known_default()?;
        Some(match url.host()? {
            Host::Ipv4(ip) => Remote::At((ip, port).into()),
            Host::Ipv6(ip) => Remote::At((ip, port).into()),
            Host::Domain(name) => {
                let name = name.trim_end_matches('.').to_ascii_lowercase();
                if name == "localhost" || name.ends_with(".localhost") {
                    Remote::At((Ipv4Addr::LOCALHOST, port).into())
                } else {
                    Remote::Named(name, port)
                }
            }
        })
    }
}

/// What the configs' urls have led to.
#[derive(Debug, Default)]
pub struct Endpoints {
    remotes: BTreeSet<Remote>,
    seen: HashMap<(String, u16), BTreeMap<SocketAddr, Instant>>,
}

/// What one round of look-ups found.
pub type Found = Vec<((String, u16), Vec<SocketAddr>)>;

impl Endpoints {
    /// Takes the entries of a scan. The door itself is none.
    pub fn learn(&mut self, scan: &Scan) {
        let servers = scan.files.iter().flat_map(|file| &file.servers).filter(|server| !server.door);
        self.remotes = servers.filter_map(|server| Remote::of(server.url.as_deref()?)).collect();
        self.seen.retain(|(name, port), _| self.remotes.contains(&Remote::Named(name.clone(), *port)));
    }

    /// Names that have to be looked up.
    pub fn names(&self) -> Vec<(String, u16)> {
        let name = |remote: &Remote| match remote {
            Remote::Named(name, port) => Some((name.clone(), *port)),
            Remote::At(_) => None,
        };
        self.remotes.iter().filter_map(name).collect()
    }

    /// Takes what was looked up.
    pub fn found(&mut self, found: Found, now: Instant) {
        for (name, addresses) in found {
            if !self.remotes.contains(&Remote::Named(name.0.clone(), name.1)) {
                continue;
            }
            let seen = self.seen.entry(name).or_default();
            seen.retain(|_, at| now.saturating_duration_since(*at) < KEPT);
            seen.extend(addresses.into_iter().take(MAX_ADDRESSES).map(|address| (address, now)));
        }
    }

    /// Every address that a connect to is evidence. Those that are written out come first.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let written = self.remotes.iter().filter_map(|remote| match remote {
            Remote::At(address) => Some(*address),
            Remote::Named(..) => None,
        });
        written.chain(self.seen.values().flat_map(|addresses| addresses.keys().copied())).collect()
    }
}

/// Every address that a URL leads to now; takes as long as the resolver does.
pub fn addresses_of(url: &str) -> Vec<SocketAddr> {
    match Remote::of(url) {
        Some(Remote::At(address)) if address.ip().is_loopback() => {
            vec![address, SocketAddr::new(Ipv6Addr::LOCALHOST.into(), address.port())]
        }
        Some(Remote::At(address)) => vec![address],
        Some(Remote::Named(name, port)) => {
            look_up(vec![(name, port)]).into_iter().flat_map(|(_, addresses)| addresses).collect()
        }
        None => Vec::new(),
    }
}

/// Looks names up; takes as long as the resolver does. A name that is not found has no address now.
pub fn look_up(names: Vec<(String, u16)>) -> Found {
    let look_up = |name: (String, u16)| {
        let addresses = name.to_socket_addrs().map(Iterator::collect).unwrap_or_else(|e| {
            tracing::debug!("cannot resolve {}: {e}", name.0);
            Vec::new()
        });
        (name, addresses)
    };
    names.into_iter().map(look_up).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::clients::{Client, ClientFile, ClientServer};

    fn scan(urls: &[(&str, bool)]) -> Scan {
        let server = |(url, door): &(&str, bool)| ClientServer {
            name: "x".into(),
            command: None,
            args: Vec::new(),
            env: BTreeMap::new(),
            url: Some((*url).to_owned()),
            headers: BTreeMap::new(),
            cwd: None,
            project: None,
            door: *door,
            disabled: false,
            dynamic: false,
        };
        let file = ClientFile {
            client: Client::Cursor,
            path: "/home/a/.cursor/mcp.json".into(),
            home: None,
            project: None,
            servers: urls.iter().map(server).collect(),
            error: None,
        };
        Scan { files: vec![file], ..Scan::default() }
    }

    fn learned(urls: &[(&str, bool)]) -> Endpoints {
        let mut endpoints = Endpoints::default();
        endpoints.learn(&scan(urls));
        endpoints
    }

    #[test]
    fn an_address_that_is_written_out_needs_no_resolver() {
        let endpoints = learned(&[("http://10.1.2.3:8080/mcp", false), ("https://[2001:db8::1]/sse", false)]);
        assert!(endpoints.names().is_empty());
        let addresses: HashSet<SocketAddr> = endpoints.addresses().into_iter().collect();
        assert_eq!(addresses, HashSet::from(["10.1.2.3:8080".parse().unwrap(), "[2001:db8::1]:443".parse().unwrap()]));
    }

    #[test]
    fn localhost_is_both_loopback_addresses() {
        let [address] = learned(&[("http://LocalHost:3000/mcp", false)]).addresses()[..] else { panic!("not one") };
        let ips: Vec<Vec<u8>> = keys(&address).into_iter().map(|key| key[..16].to_vec()).collect();
        assert!(ips.contains(&Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets().to_vec()));
        assert!(ips.contains(&Ipv6Addr::LOCALHOST.octets().to_vec()));
    }

    #[test]
    fn the_door_is_no_remote_server() {
        assert!(learned(&[("http://127.0.0.1:7777/mcp", true)]).addresses().is_empty());
    }

    #[test]
    fn a_name_keeps_its_former_addresses_for_a_while_and_loses_them_with_its_entry() {
        let mut endpoints = learned(&[("https://mcp.example.com/mcp", false)]);
        let names = endpoints.names();
        assert_eq!(names, [("mcp.example.com".to_owned(), 443)]);
        let start = Instant::now();
        let at = |ip: &str| vec![(names[0].clone(), vec![SocketAddr::new(ip.parse().unwrap(), 443)])];
        endpoints.found(at("192.0.2.1"), start);
        endpoints.found(at("192.0.2.2"), start + KEPT / 2);
        assert_eq!(endpoints.addresses().len(), 2);
        endpoints.found(at("192.0.2.3"), start + KEPT);
        assert_eq!(endpoints.addresses().len(), 2, "the first is too old");
        endpoints.learn(&Scan::default());
        assert!(endpoints.addresses().is_empty());
    }

    proptest::proptest! {
        #[test]
        fn any_url_is_a_remote_server_or_none(url in ".{0,80}") {
            let _ = learned(&[(&url, false)]).addresses();
        }
    }
}
