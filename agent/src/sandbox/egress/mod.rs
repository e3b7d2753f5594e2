//! The ways out of a cage: none but the hosts and ports of its definition.
//!
//! A cage stays on Docker's network `none`, which has nothing but a loopback interface, and each
//! host that is granted gets an address there by the cage's /etc/hosts. On these addresses the
//! daemon listens, from inside of the cage's network namespace ([`netns`]), before the server's
//! first instruction. What connects is carried to the host that was named and to no other
//! ([`gate`]): the daemon looks the name up itself, outside, at each connect.
//!
//! So there is no route, no DNS and no filter that could be got around: what is not granted does
//! not exist inside.

mod gate;
mod hello;
mod netns;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;

pub(super) use self::gate::Gate;
pub(crate) use self::gate::is_own;
pub use self::hello::{Hello, read as read_hello};
use crate::admission::Egress;
use crate::admission::egress::MOST;

/// What became of a server's connections, for whoever keeps records.
#[derive(Debug, Clone)]
pub struct EgressEvent {
    pub server: String,
    pub container: String,
    pub egress: Egress,
    pub what: EgressOutcome,
}

#[derive(Debug, Clone)]
pub enum EgressOutcome {
    /// The first connection of a container to this host and port.
    Opened { to: SocketAddr },
    /// The first that was refused or failed.
    Refused { why: String },
    /// The container has ended.
    Total { opened: u64, refused: u64, bytes_out: u64, bytes_in: u64 },
}

/// Told of a cage's connections: of few enough that a server cannot flood it.
pub trait EgressWitness: Send + Sync {
    fn egress(&self, event: EgressEvent);
}

/// One entry and where it is found inside of the cage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub egress: Egress,
    pub inside: SocketAddrV4,
}

/// Names get addresses of their own, one for each host; an address is itself.
pub(super) fn places(entries: &[Egress]) -> Result<Vec<Place>, String> {
    if entries.len() > MOST {
        return Err(format!("it is granted {} hosts and ports, {MOST} are the most", entries.len()));
    }
    let mut hosts = BTreeMap::new();
    let place = |egress: &Egress| {
        let next = u8::try_from(hosts.len() + 1).unwrap_or(u8::MAX);
        let inside = egress
            .address()
            .unwrap_or_else(|| *hosts.entry(egress.host().to_owned()).or_insert(Ipv4Addr::new(127, 77, 0, next)));
        Place { egress: egress.clone(), inside: SocketAddrV4::new(inside, egress.port()) }
    };
    Ok(entries.iter().map(place).collect())
}

/// Lines for the cage's /etc/hosts, as Docker takes them.
pub(super) fn hosts(places: &[Place]) -> Vec<String> {
    let mut lines: Vec<String> = places
        .iter()
        .filter(|place| place.egress.address().is_none())
        .map(|place| format!("{}:{}", place.egress.host(), place.inside.ip()))
        .collect();
    lines.dedup();
    lines
}

/// Opens the ways out of a container whose first program waits. `pid` is its first process.
pub(super) async fn open(
    server: &str,
    container: &str,
    pid: u32,
    places: Vec<Place>,
    witness: Option<Arc<dyn EgressWitness>>,
) -> Result<Gate, String> {
    let listeners = netns::listen(container, pid, places.iter().map(|place| place.inside).collect()).await?;
    Gate::start(server, container, places.into_iter().map(|place| place.egress).zip(listeners).collect(), witness)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn egress(text: &str) -> Egress {
        Egress::parse(text, true).unwrap()
    }

    #[test]
    fn each_host_has_one_address_and_literals_are_themselves() {
        let entries = [egress("a.example:80"), egress("a.example:443"), egress("b.example:443"), egress("10.0.0.1:22")];
        let places = places(&entries).unwrap();
        let inside: Vec<String> = places.iter().map(|place| place.inside.to_string()).collect();
        assert_eq!(inside, ["127.77.0.1:80", "127.77.0.1:443", "127.77.0.2:443", "10.0.0.1:22"]);
        assert_eq!(hosts(&places), ["a.example:127.77.0.1", "b.example:127.77.0.2"]);
    }

    #[test]
    fn too_many_are_refused() {
        let entries: Vec<Egress> = (0..=MOST).map(|i| egress(&format!("h{i}.example:443"))).collect();
        assert!(places(&entries).is_err());
        assert_eq!(places(&entries[1..]).unwrap()[MOST - 1].inside.ip().octets(), [127, 77, 0, 64]);
    }
}
