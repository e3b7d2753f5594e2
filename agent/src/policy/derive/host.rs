//! Hosts of URLs. Clients disagree on `http://a\@b` and the like: every reading counts.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The hosts that some client would connect to if it were given `text`.
pub(super) fn readings(text: &str) -> Vec<String> {
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
    address.to_ipv4().map(|v4| v4.to_string())
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
    let rest = match text.strip_prefix("//") {
        Some(rest) => rest,
        None => {
            let (scheme, rest) = text.split_once("://")?;
            let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'-' | b'.');
            scheme.bytes().all(plain).then_some(rest)?
        }
    };
    Some(&rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())])
}

/// The host of an authority, without user and port; brackets stay, as the `url` crate has them.
fn host_of(authority: &str) -> &str {
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if host.starts_with('[') {
        return host.find(']').map_or(host, |end| &host[..=end]);
    }
    host.split(':').next().unwrap_or_default()
}
