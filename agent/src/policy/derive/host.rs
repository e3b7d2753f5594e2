//! Hosts of URLs. Clients disagree on `http://a\@b` and the like: every reading counts.

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
    hosts
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
