//! What a server may reach outside of its cage: a host and a port, by name, and nothing else.
//!
//! Invariant: an [`Egress`] is valid however it came to be. Its host is in the one spelling that
//! resolvers and certificates use, so that what is pinned is what is reached.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use url::Host;

/// Most entries that one definition may have.
pub const MOST: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Written")]
pub struct Egress {
    host: String,
    port: u16,
    /// It may also lie in a private network, or, where the host is an address, on this very host.
    private: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    host: String,
    port: u16,
    #[serde(default)]
    private: bool,
}

impl TryFrom<Written> for Egress {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        Self::new(&written.host, written.port, written.private)
    }
}

impl Egress {
    /// Reads `HOST:PORT`. The error says only what is wrong with it.
    pub fn parse(text: &str, private: bool) -> Result<Self, String> {
        let (host, port) = text.rsplit_once(':').ok_or("it has no port")?;
        if host.contains(':') {
            return Err(NO_IPV6.into());
        }
        let digits = !port.is_empty() && port.bytes().all(|c| c.is_ascii_digit());
        let port = port.parse().ok().filter(|_| digits).ok_or("its port is not a number from 1 to 65535")?;
        Self::new(host, port, private)
    }

    fn new(host: &str, port: u16, private: bool) -> Result<Self, String> {
        if port == 0 {
            return Err("its port is not a number from 1 to 65535".into());
        }
        if host.contains('*') {
            return Err("there are no wildcards; name each host".into());
        }
        let host = match Host::parse(host).map_err(|e| format!("its host is not valid ({e})"))? {
            Host::Domain(name) => domain(&name)?,
            Host::Ipv4(ip) => {
                address(ip, private)?;
                ip.to_string()
            }
            Host::Ipv6(_) => return Err(NO_IPV6.into()),
        };
        Ok(Self { host, port, private })
    }

    /// A name in lower case and IDNA's ASCII form, or an IPv4 address.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn private(&self) -> bool {
        self.private
    }

    /// The host where it is an address.
    pub fn address(&self) -> Option<Ipv4Addr> {
        self.host.parse().ok()
    }

    /// Whether an address that the host resolved to may be connected to.
    pub fn admits(&self, ip: IpAddr) -> bool {
        match (Reach::of(ip), self.address()) {
            (Reach::Public, _) => true,
            (Reach::Private, _) => self.private,
            // A name must not lead here, whoever may have said so in DNS: only the address itself does.
            (Reach::Host, literal) => self.private && literal.is_some_and(|literal| IpAddr::V4(literal) == ip),
            (Reach::Nowhere, _) => false,
        }
    }
}

impl std::fmt::Display for Egress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

const NO_IPV6: &str = "IPv6 addresses cannot be opened; name the host";

fn domain(name: &str) -> Result<String, String> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'_');
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(plain);
    if name.len() > 253 || !name.split('.').all(label) {
        return Err("its host is not the name of a host".into());
    }
    if name == "localhost" || name.ends_with(".localhost") {
        return Err("inside of the cage that name is the cage; write --egress-private 127.0.0.1:PORT".into());
    }
    Ok(name.to_owned())
}

fn address(ip: Ipv4Addr, private: bool) -> Result<(), String> {
    match Reach::of(ip.into()) {
        Reach::Public => Ok(()),
        Reach::Private | Reach::Host if private => Ok(()),
        Reach::Private | Reach::Host => {
            Err(format!("{ip} is not public; write --egress-private if the server may reach it"))
        }
        Reach::Nowhere => Err(format!("{ip} is no host")),
    }
}

/// What lies behind an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    Public,
    /// A private network: RFC 1918, RFC 6598, unique local.
    Private,
    /// This host, its link, or what tells virtual machines their secrets.
    Host,
    /// No unicast address, or one that is reserved.
    Nowhere,
}

/// Azure's, in the middle of the public addresses; Alibaba's is in a private range.
const METADATA: [Ipv4Addr; 2] = [Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(100, 100, 100, 200)];

impl Reach {
    pub fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Self::of_v4(ip),
            IpAddr::V6(ip) => Self::of_v6(ip),
        }
    }

    /// IANA's special-purpose registry.
    fn of_v4(ip: Ipv4Addr) -> Self {
        match ip.octets() {
            _ if METADATA.contains(&ip) => Self::Host,
            [127, ..] | [169, 254, ..] => Self::Host,
            [10, ..] | [192, 168, ..] => Self::Private,
            [172, b, ..] if b & 0xf0 == 16 => Self::Private,
            [100, b, ..] if b & 0xc0 == 64 => Self::Private,
            [0, ..] | [192, 0, 0 | 2, _] | [192, 88, 99, _] | [198, 18 | 19, ..] => Self::Nowhere,
            [198, 51, 100, _] | [203, 0, 113, _] | [224..=255, ..] => Self::Nowhere,
            _ => Self::Public,
        }
    }

    fn of_v6(ip: Ipv6Addr) -> Self {
        let v4 = |high: u16, low: u16| Self::of_v4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
        match ip.segments() {
            [0, 0, 0, 0, 0, 0, 0, 1] => Self::Host,
            // Forms of an IPv4 address: mapped, and behind a translator (NAT64).
            [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
            [0xfe80..=0xfebf, ..] => Self::Host,
            [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] => Self::Host,
            [0xfc00..=0xfdff, ..] => Self::Private,
            // Teredo, 6to4 and the documentation's, which are in the global range.
            [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x2002, ..] | [0x3fff, 0..=0xfff, ..] => Self::Nowhere,
            [0x2000..=0x3fff, ..] => Self::Public,
            _ => Self::Nowhere,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_host_has_one_spelling() {
        for (text, host) in [
            ("API.GitHub.com:443", "api.github.com"),
            ("api.github.com.:443", "api.github.com"),
            ("bücher.example:443", "xn--bcher-kva.example"),
            ("8.8.8.8:443", "8.8.8.8"),
            ("0x08.8.8.8:443", "8.8.8.8"),
        ] {
            let egress = Egress::parse(text, false).unwrap();
            assert_eq!((egress.host(), egress.port()), (host, 443), "{text}");
            assert_eq!(egress.to_string(), format!("{host}:443"));
        }
    }

    #[test]
    fn what_is_no_host_and_port_is_refused() {
        for text in [
            "",
            ":443",
            "example.com",
            "example.com:",
            "example.com:0",
            "example.com:65536",
            "example.com:+80",
            "*.example.com:443",
            "*:443",
            "https://example.com:443",
            "a@example.com:443",
            "example.com/x:443",
            "a..b:443",
            "[::1]:443",
            "2001:db8::1:443",
            "localhost:80",
            "x.localhost:80",
            "exa mple.com:80",
        ] {
            assert!(Egress::parse(text, true).is_err(), "{text}");
        }
        for text in ["127.0.0.1:80", "2130706433:80", "10.1.2.3:80", "169.254.169.254:80", "100.64.0.1:80"] {
            assert!(Egress::parse(text, false).unwrap_err().contains("--egress-private"), "{text}");
            assert!(Egress::parse(text, true).is_ok(), "{text}");
        }
        for text in ["0.0.0.0:80", "255.255.255.255:80", "224.0.0.1:80"] {
            assert!(Egress::parse(text, true).is_err(), "{text}");
        }
    }

    #[test]
    fn a_name_never_leads_to_this_host_and_only_by_leave_to_a_private_network() {
        let public = Egress::parse("example.com:443", false).unwrap();
        let private = Egress::parse("nas.example:443", true).unwrap();
        let admits = |egress: &Egress, ip: &str| egress.admits(ip.parse().unwrap());
        for ip in ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "64:ff9b::5db8:d70e"] {
            assert!(admits(&public, ip) && admits(&private, ip), "{ip}");
        }
        for ip in [
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "fd12::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
        ] {
            assert!(!admits(&public, ip) && admits(&private, ip), "{ip}");
        }
        for ip in [
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "168.63.129.16",
            "100.100.100.200",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "192.0.2.1",
            "::",
            "::1",
            "fe80::1",
            "ff02::1",
            "fd00:ec2::254",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2001::1",
            "::127.0.0.1",
            "fec0::1",
        ] {
            assert!(!admits(&public, ip) && !admits(&private, ip), "{ip}");
        }
        let literal = Egress::parse("127.0.0.1:80", true).unwrap();
        assert!(admits(&literal, "127.0.0.1") && !admits(&literal, "127.0.0.2") && !admits(&literal, "::1"));
    }

    #[test]
    fn an_entry_that_was_written_by_hand_is_judged_too() {
        let read = |text: &str| serde_json::from_str::<Egress>(text);
        assert_eq!(read(r#"{"host":"A.example","port":80}"#).unwrap(), Egress::parse("a.example:80", false).unwrap());
        for bad in [r#"{"host":"*","port":80}"#, r#"{"host":"10.0.0.1","port":80}"#, r#"{"host":"a.example","port":0}"#]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
        let private = Egress::parse("a.example:80", true).unwrap();
        assert_eq!(read(&serde_json::to_string(&private).unwrap()).unwrap(), private);
    }
}
