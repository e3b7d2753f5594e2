//! Who may speak to the door by HTTP at all: requests that were meant for it (Host), and not by a web page of
//! somebody else (Origin). A name that leads here although it is not ours is how pages of the web get at loopback.

use std::net::SocketAddr;

use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, Uri};
use url::{Host, Url};

pub(super) struct Guard {
    hosts: Vec<String>,
    origins: Vec<String>,
}

/// Why a request is not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Foreign {
    #[error("the Host header does not name this door; use the URL that `lazaret status` shows")]
    Host,
    #[error("pages of this origin may not use the door; the operator allows one with [http] allowed_origins")]
    Origin,
}

impl Guard {
    pub(super) fn new(address: SocketAddr, origins: Vec<String>) -> Self {
        let port = address.port();
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned(), "[::1]".to_owned()];
        let own = match address {
            SocketAddr::V4(address) => address.ip().to_string(),
            SocketAddr::V6(address) => format!("[{}]", address.ip()),
        };
        let mut hosts: Vec<String> = names.iter().chain([&own]).map(|name| format!("{name}:{port}")).collect();
        if port == 80 {
            hosts.extend(names.into_iter().chain([own]));
        }
        Self { hosts, origins }
    }

    /// The origin that may read the answer, where a page of it asks and the operator named it.
    pub(super) fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<Option<String>, Foreign> {
        let host = only(headers, HOST.as_str()).map_err(|()| Foreign::Host)?.ok_or(Foreign::Host)?;
        let named = uri.authority().map(|authority| authority.as_str());
        if ![Some(host), named].into_iter().flatten().all(|host| self.is_own(host)) {
            return Err(Foreign::Host);
        }
        match only(headers, ORIGIN.as_str()).map_err(|()| Foreign::Origin)? {
            None => Ok(None),
            Some(origin) if self.origins.iter().any(|allowed| allowed == origin) => Ok(Some(origin.to_owned())),
            Some(origin) if is_of_this_host(origin) => Ok(None),
            Some(_) => Err(Foreign::Origin),
        }
    }

    fn is_own(&self, host: &str) -> bool {
        self.hosts.iter().any(|own| own.eq_ignore_ascii_case(host))
    }
}

/// The one value of a header; an error if there are more, or it is no text.
pub(super) fn only<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, ()> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(drop),
        _ => Err(()),
    }
}

fn is_of_this_host(origin: &str) -> bool {
    let Ok(url) = Url::parse(origin) else { return false };
    let whole = matches!(url.scheme(), "http" | "https") && url.origin().ascii_serialization() == origin;
    whole
        && match url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(ip)) => ip.is_loopback(),
            Some(Host::Ipv6(ip)) => ip.is_loopback(),
            None => false,
        }
}

/// `HOST`, line break, `ORIGIN`.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(text: &str) {
    use axum::http::HeaderValue;
    let (host, origin) = text.split_once('\n').map_or((text, None), |(host, origin)| (host, Some(origin)));
    let own = "https://app.example.com".to_owned();
    let guard = Guard::new(SocketAddr::from(([127, 0, 0, 1], 7717)), vec![own.clone()]);
    let mut headers = HeaderMap::new();
    for (name, value) in [(HOST, Some(host)), (ORIGIN, origin)] {
        match value.map(HeaderValue::from_str) {
            Some(Ok(value)) => drop(headers.insert(name, value)),
            Some(Err(_)) => return,
            None => {}
        }
    }
    let Ok(allowed) = guard.check(&Uri::from_static("/mcp"), &headers) else { return };
    let host = host.to_ascii_lowercase();
    assert!(["127.0.0.1:7717", "localhost:7717", "[::1]:7717"].contains(&host.as_str()), "{host:?}");
    let Some(origin) = origin else { return };
    if let Some(allowed) = allowed {
        assert!(allowed == own && origin == own);
        return;
    }
    let rest = origin.strip_prefix("http://").or(origin.strip_prefix("https://")).expect("a page of this host");
    let digits = |text: &str| text.bytes().all(|c| c.is_ascii_digit());
    let (name, port) = rest.rsplit_once(':').filter(|(_, port)| digits(port)).unwrap_or((rest, ""));
    assert!(digits(port));
    let four = |name: &str| name.starts_with("127.") && name.bytes().all(|c| c.is_ascii_digit() || c == b'.');
    assert!(name == "localhost" || name == "[::1]" || four(name), "{origin:?}");
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn check(host: &str, origin: Option<&str>) -> Result<Option<String>, Foreign> {
        let guard = Guard::new("127.0.0.1:7717".parse().unwrap(), vec!["https://app.example.com".into()]);
        let mut headers = HeaderMap::new();
        if let Ok(host) = HeaderValue::from_str(host) {
            headers.insert(HOST, host);
        }
        if let Some(origin) = origin {
            headers.insert(ORIGIN, HeaderValue::from_str(origin).unwrap());
        }
        guard.check(&Uri::from_static("/mcp"), &headers)
    }

    #[test]
    fn only_the_door_s_own_names_are_hosts() {
        for host in ["127.0.0.1:7717", "localhost:7717", "LOCALHOST:7717", "[::1]:7717"] {
            assert_eq!(check(host, None), Ok(None), "{host}");
        }
        for host in [
            "",
            "127.0.0.1",
            "127.0.0.1:7718",
            "evil.example:7717",
            "localhost.evil.example:7717",
            "127.0.0.1:7717.evil",
            "user@localhost:7717",
            "0.0.0.0:7717",
            "localhost:7717:7717",
            "2130706433:7717",
            "localhost.:7717",
        ] {
            assert_eq!(check(host, None), Err(Foreign::Host), "{host}");
        }
    }

    #[test]
    fn a_missing_a_second_and_an_absolute_host_are_judged() {
        let guard = Guard::new("127.0.0.1:7717".parse().unwrap(), Vec::new());
        let mut headers = HeaderMap::new();
        assert_eq!(guard.check(&Uri::from_static("/mcp"), &headers), Err(Foreign::Host));
        headers.append(HOST, HeaderValue::from_static("localhost:7717"));
        assert_eq!(guard.check(&Uri::from_static("http://localhost:7717/mcp"), &headers), Ok(None));
        assert_eq!(guard.check(&Uri::from_static("http://evil.example/mcp"), &headers), Err(Foreign::Host));
        headers.append(HOST, HeaderValue::from_static("localhost:7717"));
        assert_eq!(guard.check(&Uri::from_static("/mcp"), &headers), Err(Foreign::Host));
    }

    #[test]
    fn origins_are_of_this_host_or_named() {
        let with = |origin| check("localhost:7717", Some(origin));
        for origin in ["http://localhost:3000", "http://127.0.0.1", "https://localhost", "http://[::1]:1"] {
            assert_eq!(with(origin), Ok(None), "{origin}");
        }
        assert_eq!(with("https://app.example.com"), Ok(Some("https://app.example.com".into())));
        for origin in [
            "null",
            "",
            "https://evil.example",
            "http://localhost.evil.example",
            "http://localhost@evil.example",
            "https://app.example.com.evil.example",
            "https://app.example.com:8443",
            "http://app.example.com",
            "file://",
            "http://127.0.0.1.nip.io",
            "chrome-extension://abc",
            "http://localhost/",
        ] {
            assert_eq!(with(origin), Err(Foreign::Origin), "{origin}");
        }
    }

    proptest! {
        #[test]
        fn no_other_host_passes(host in "[a-z0-9.:@\\[\\]]{1,30}") {
            let own = ["127.0.0.1:7717", "localhost:7717", "[::1]:7717"].contains(&host.as_str());
            prop_assert_eq!(check(&host, None).is_ok(), own);
        }

        #[test]
        fn no_other_origin_passes(origin in "https?://[a-z0-9.:@-]{1,20}") {
            if check("localhost:7717", Some(&origin)).is_ok() {
                let host = Url::parse(&origin).unwrap().host_str().unwrap().to_owned();
                prop_assert!(host == "localhost" || host.starts_with("127."), "{}", origin);
            }
        }
    }
}
