//! Hosts of URLs. Clients disagree on `http://a\@b` and the like: every reading counts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// How the names of members end whose text is a place on the network, with or without a scheme.
const PLACES: [&str; 11] =
    ["url", "urls", "uri", "uris", "href", "link", "endpoint", "host", "hosts", "hostname", "domain"];

/// Schemes of what is no such place.
const NO_PLACES: [&str; 9] = ["file", "mailto", "tel", "sms", "data", "javascript", "urn", "about", "blob"];

/// Names of this host beside `localhost` itself, as hosts files have them.
const LOCAL_NAMES: [&str; 6] =
    ["localhost.localdomain", "localhost4", "localhost6", "ip6-localhost", "ip6-loopback", "loopback"];

/// The hosts that some client would connect to if it were given `text` below `key`.
pub(super) fn readings(key: Option<&str>, text: &str) -> Vec<String> {
    let mut hosts = readings_of(text);
    // Python takes `<URL:http://host>` for the URL in it, and browsers have schemes before schemes.
    if let Some(inner) = inner(text) {
        hosts.extend(readings_of(inner));
    }
    if let Some(host) = without_scheme(key, text) {
        hosts.extend(readings_of(&format!("http://{host}")));
    }
    let local: Vec<String> = hosts.iter().filter_map(|host| local(host)).collect();
    hosts.extend(local);
    hosts
}

/// The URL behind what is no part of it.
fn inner(text: &str) -> Option<&str> {
    let (before, _) = text.split_once("://")?;
    let scheme = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    let wrap = before.trim_end_matches(scheme);
    let closed = wrap.trim_end().ends_with([':', '<', '(', '[', '"', '\'']) && wrap.len() <= 64;
    closed.then(|| text[wrap.len()..].trim_end_matches(['>', ']', ')', '"', '\'']))
}

/// What curl and the like connect to without a scheme: anything where places on the network stand, elsewhere an
/// address with a port or a path behind it. A relative path looks the same as a name.
fn without_scheme<'a>(key: Option<&str>, text: &'a str) -> Option<&'a str> {
    let scheme = text.split(':').next().unwrap_or_default().to_ascii_lowercase();
    if text.contains("://") || text.len() > 4096 || text.starts_with(['/', '\\', '.', '~']) {
        return None;
    }
    if NO_PLACES.contains(&scheme.as_str()) {
        return None;
    }
    let name = key.map(|key| key.to_ascii_lowercase()).unwrap_or_default();
    let head = &text[..text.find(['/', '?', '#', '\\']).unwrap_or(text.len())];
    let host = host_of(head);
    let place = PLACES.iter().any(|end| name.ends_with(end)) && !text.contains(char::is_whitespace);
    let address = host.len() < text.len()
        && (host.starts_with('[')
            || host == "localhost"
            || host.split('.').filter(|part| !part.is_empty()).count() == 4)
        && url::Host::parse(host).is_ok_and(|host| !matches!(host, url::Host::Domain(name) if name != "localhost"));
    (place || address).then_some(text)
}

/// The one name for what is this host, whichever of its names and addresses was written.
fn local(host: &str) -> Option<String> {
    if host.ends_with(".localhost") || LOCAL_NAMES.contains(&host) {
        return Some("localhost".into());
    }
    let address: IpAddr = host.trim_matches(['[', ']']).parse().ok()?;
    address.is_loopback().then(|| "127.0.0.1".into())
}

fn readings_of(text: &str) -> Vec<String> {
    let mut hosts = Vec::new();
    let mut add = |host: &str| {
        let host = host.trim_end_matches('.').to_lowercase();
        if !host.is_empty() && !hosts.contains(&host) {
            hosts.push(host);
        }
    };
    // As browsers and Node read it (WHATWG): drops tabs and newlines, folds backslashes, IDNA, odd IPv4.
    if let Ok(url) = url::Url::parse(text)
        && let Some(host) = url.host_str()
    {
        add(host);
    }
    // As RFC 3986 has it, which is what Python's urllib does: only `/`, `?` and `#` end the authority.
    if let Some(authority) = authority(text) {
        add(host_of(authority));
        // And with the backslash as an end, for schemes that WHATWG does not call special.
        add(host_of(authority.split('\\').next().unwrap_or_default()));
        // And up to the first `@` only, as parsers do that split from the left.
        if let Some((_, host)) = authority.split_once('@') {
            add(host_of(host.split('@').next().unwrap_or_default()));
        }
    }
    // Old ones look for the `@` before they look for the `?` and the `#`.
    if let Some(authority) = up_to_the_path(text) {
        add(host_of(authority));
    }
    // An address that stands alone, with or without a port, is what some tool connects to.
    let alone = text.trim_matches(['[', ']']).parse::<IpAddr>().ok();
    if let Some(address) = alone.or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip())) {
        add(&address.to_string());
    }
    // The IPv4 address that an IPv6 one stands for.
    let mapped: Vec<String> = hosts.iter().filter_map(|host| mapped(host)).collect();
    hosts.extend(mapped);
    hosts
}

fn mapped(host: &str) -> Option<String> {
    let address: Ipv6Addr = host.trim_matches(['[', ']']).parse().ok()?;
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    let embedded = match address.segments() {
        // NAT64, 6to4, and what translators call an IPv4 host.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] | [0, 0, 0, 0, 0xffff, 0, high, low] => {
            Some(v4(high, low))
        }
        _ => address.to_ipv4(),
    };
    embedded.map(|v4| v4.to_string())
}

/// The scheme of what is written like a URL, lower case.
pub(super) fn scheme(text: &str) -> Option<String> {
    if let Ok(url) = url::Url::parse(text)
        && (url.has_host() || matches!(url.scheme(), "file" | "data" | "javascript"))
    {
        return Some(url.scheme().to_owned());
    }
    let (scheme, _) = text.split_once("://")?;
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'-' | b'.');
    (scheme.len() <= 64 && !scheme.is_empty() && scheme.bytes().all(plain)).then(|| scheme.to_ascii_lowercase())
}

/// The ports that some client would connect to.
pub(super) fn ports(text: &str) -> Vec<u16> {
    let mut ports = Vec::new();
    if let Ok(url) = url::Url::parse(text)
        && url.has_host()
    {
        ports.extend(url.port_or_known_default());
    }
    let of = |authority: &str| {
        let behind = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        behind.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok())
    };
    if let Some(authority) = authority(text) {
        ports.extend(of(authority));
        ports.extend(of(authority.split('\\').next().unwrap_or_default()));
    }
    ports.extend(text.parse::<SocketAddr>().ok().map(|socket| socket.port()));
    ports
}

/// What stands between `scheme://` (or a bare `//`) and the path.
fn authority(text: &str) -> Option<&str> {
    let rest = behind_scheme(text)?;
    Some(&rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())])
}

/// The same where `?` and `#` end nothing.
fn up_to_the_path(text: &str) -> Option<&str> {
    behind_scheme(text)?.split('/').next()
}

fn behind_scheme(text: &str) -> Option<&str> {
    Some(match text.strip_prefix("//") {
        Some(rest) => rest,
        None => {
            let (scheme, rest) = text.split_once("://")?;
            let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'-' | b'.');
            scheme.bytes().all(plain).then_some(rest)?
        }
    })
}

/// The host of an authority, without user and port; brackets stay, as the `url` crate has them.
fn host_of(authority: &str) -> &str {
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if host.starts_with('[') {
        return host.find(']').map_or(host, |end| &host[..=end]);
    }
    host.split(':').next().unwrap_or_default()
}
