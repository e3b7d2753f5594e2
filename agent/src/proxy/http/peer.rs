//! Whose process is at the other end of a loopback connection, by the kernel's table of TCP sockets.
//!
//! Both ends are on this host and in this network namespace, so that the client's own socket stands in the table, with
//! the uid that made it. Only an established socket of a living process counts: what a process has let go of is listed
//! as root's.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::net::{IpAddr, SocketAddr};

const ESTABLISHED: &str = "01";

/// The uid of the process at `client`, which is connected to `server`; `None` if the kernel lists none.
pub(super) fn uid_of(client: SocketAddr, server: SocketAddr) -> io::Result<Option<u32>> {
    let mut tables = vec![("/proc/self/net/tcp6", spelt(client, true), spelt(server, true))];
    if client.is_ipv4() {
        // Of this protocol, unless the client's socket is of the other one and speaks this.
        tables.insert(0, ("/proc/self/net/tcp", spelt(client, false), spelt(server, false)));
    }
    for (table, client, server) in tables {
        let lines = match File::open(table) {
            Ok(file) => BufReader::with_capacity(64 << 10, file).lines(),
            // A host without IPv6 has no such table.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        for line in lines {
            if let Some(uid) = uid_in(&line?, &client, &server) {
                return Ok(Some(uid));
            }
        }
    }
    Ok(None)
}

/// `sl local remote st queues timer retransmits uid timeout inode ...`
fn uid_in(line: &str, local: &str, remote: &str) -> Option<u32> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let is_it = words.next() == Some(local) && words.next() == Some(remote) && words.next() == Some(ESTABLISHED);
    if !is_it {
        return None;
    }
    let uid = words.nth(3)?.parse().ok()?;
    let inode: u64 = words.nth(1)?.parse().ok()?;
    (inode != 0).then_some(uid)
}

/// As the kernel prints it: words of 32 bits in the machine's own order.
fn spelt(address: SocketAddr, six: bool) -> String {
    let octets = match address.ip() {
        IpAddr::V4(ip) if six => ip.to_ipv6_mapped().octets().to_vec(),
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let words = octets.as_chunks::<4>().0.iter().map(|word| format!("{:08X}", u32::from_ne_bytes(*word)));
    format!("{}:{:04X}", words.collect::<String>(), address.port())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::fs::MetadataExt as _;

    use proptest::prelude::*;

    use super::*;

    fn own() -> u32 {
        std::fs::metadata("/proc/self").unwrap().uid()
    }

    #[test]
    fn the_kernel_names_the_uid_of_a_living_client_and_of_no_other() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                eprintln!("skipped: {address} cannot be had here");
                continue;
            };
            let server = listener.local_addr().unwrap();
            let client = TcpStream::connect(server).unwrap();
            let here = client.local_addr().unwrap();
            let _accepted = listener.accept().unwrap();
            assert_eq!(uid_of(here, server).unwrap(), Some(own()), "{address}");
            assert_eq!(uid_of(server, here).unwrap(), Some(own()), "the other end is ours too");
            drop(client);
            assert_eq!(uid_of(here, server).unwrap(), None, "what was let go of is nobody's");
        }
    }

    #[test]
    fn a_client_that_speaks_the_older_protocol_over_the_newer_is_found() {
        let address: SocketAddr = "127.0.0.1:4660".parse().unwrap();
        assert_eq!(spelt(address, false), "0100007F:1234");
        assert_eq!(spelt(address, true), "0000000000000000FFFF00000100007F:1234");
    }

    #[test]
    fn only_an_established_socket_of_a_process_counts() {
        let line = |st: &str, inode: &str| {
            format!("  1: 0100007F:1 0100007F:2 {st} 0:0 00:0 0     1000        0 {inode} 1 0 20 4 30 10 -1")
        };
        let uid = |line: &str| uid_in(line, "0100007F:1", "0100007F:2");
        assert_eq!(uid(&line("01", "77")), Some(1000));
        for st in ["02", "04", "05", "06", "08"] {
            assert_eq!(uid(&line(st, "77")), None, "{st}");
        }
        assert_eq!(uid(&line("01", "0")), None);
    }

    proptest! {
        #[test]
        fn any_line_is_read_or_not(line in ".{0,200}") {
            let _ = uid_in(&line, "0100007F:1", "0100007F:2");
        }
    }
}
