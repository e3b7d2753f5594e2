//! Where a remote server is, and what it is told: a launch definition without a launch.
//!
//! Invariants: a [`Remote`] is valid however it came to be; it holds names of secrets, never their
//! values; plain HTTP is for this host only, and only where the definition says so.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use url::{Host, Url};

use super::egress::Reach;

/// Headers that one definition may set.
const MOST_HEADERS: usize = 32;
const LONGEST_URL: usize = 2048;
/// Those are the transport's own, or say to whom a request belongs.
const RESERVED: [&str; 17] = [
    "accept",
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "host",
    "keep-alive",
    "last-event-id",
    "origin",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A streamable HTTP server that somebody else runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written")]
pub struct Remote {
    url: Url,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    headers: Vec<SecretHeader>,
    /// It may lie in a private network; on this host too, where its URL names this host.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    private: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    plain_http: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    oauth: Option<OAuth>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    url: String,
    #[serde(default)]
    headers: Vec<SecretHeader>,
    #[serde(default)]
    private: bool,
    #[serde(default)]
    plain_http: bool,
    #[serde(default)]
    oauth: Option<OAuth>,
}

/// A header whose value is `prefix` and then the secret of that name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretHeader {
    /// In lower case.
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    pub secret: String,
}

/// How a login is had. What is left open is found out at the login, and shown there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OAuth {
    #[serde(default)]
    pub grant: OAuthGrant,
    /// Without one, the authorization server is asked for one (RFC 7591).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Name of the secret that holds the client's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub scopes: BTreeSet<String>,
    /// The only authorization server that is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum OAuthGrant {
    /// A person logs in.
    #[default]
    AuthorizationCode,
    /// The daemon logs in with the client's own secret.
    ClientCredentials,
}

impl OAuthGrant {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AuthorizationCode => "authorization-code",
            Self::ClientCredentials => "client-credentials",
        }
    }
}

impl TryFrom<Written> for Remote {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        Self::new(&written.url, written.headers, written.private, written.plain_http, written.oauth)
    }
}

impl Remote {
    /// The error says only what is wrong with it.
    pub fn new(
        url: &str,
        mut headers: Vec<SecretHeader>,
        private: bool,
        plain_http: bool,
        oauth: Option<OAuth>,
    ) -> Result<Self, String> {
        if url.len() > LONGEST_URL {
            return Err(format!("its URL is longer than {LONGEST_URL} bytes"));
        }
        let mut url = Url::parse(url).map_err(|e| format!("its URL cannot be read ({e})"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err("its URL has a user or a password in it; give it as --header with a secret".into());
        }
        url.set_fragment(None);
        Reachable { private, plain_http, this_host: names_this_host(&url) }.judge_url(&url)?;
        headers.sort();
        if headers.len() > MOST_HEADERS {
            return Err(format!("it sets {} headers, {MOST_HEADERS} are the most", headers.len()));
        }
        let mut names = BTreeSet::new();
        for header in &headers {
            header.judge()?;
            if !names.insert(&header.name) {
                return Err(format!("it sets the header {} twice", header.name));
            }
            if oauth.is_some() && header.name == "authorization" {
                return Err("it sets the header authorization, which is the login's".into());
            }
        }
        if let Some(oauth) = &oauth {
            oauth.judge()?;
        }
        Ok(Self { url, headers, private, plain_http, oauth })
    }

    pub fn url(&self) -> &Url {
        &self.url
    }

    pub fn headers(&self) -> &[SecretHeader] {
        &self.headers
    }

    pub fn private(&self) -> bool {
        self.private
    }

    pub fn plain_http(&self) -> bool {
        self.plain_http
    }

    pub fn oauth(&self) -> Option<&OAuth> {
        self.oauth.as_ref()
    }

    /// `https://host` with its port where that is not the usual one.
    pub fn origin(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    /// Names of the secrets that it needs.
    pub fn secrets(&self) -> BTreeSet<&str> {
        let headers = self.headers.iter().map(|header| header.secret.as_str());
        headers.chain(self.oauth.iter().filter_map(|oauth| oauth.client_secret.as_deref())).collect()
    }

    pub fn reachable(&self) -> Reachable {
        Reachable { private: self.private, plain_http: self.plain_http, this_host: names_this_host(&self.url) }
    }
}

impl SecretHeader {
    fn judge(&self) -> Result<(), String> {
        let token = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&c);
        if self.name.is_empty() || self.name.len() > 128 || !self.name.bytes().all(token) {
            return Err(format!("{:?} is no name of a header", self.name));
        }
        if RESERVED.contains(&self.name.as_str()) || self.name.starts_with("mcp-") {
            return Err(format!("the header {} is the transport's own", self.name));
        }
        if self.prefix.len() > 64 || !self.prefix.bytes().all(|c| (0x20..0x7f).contains(&c)) {
            return Err(format!("what stands before the secret in the header {} is not plain text", self.name));
        }
        if self.secret.is_empty() {
            return Err(format!("the header {} names no secret", self.name));
        }
        Ok(())
    }
}

impl OAuth {
    fn judge(&self) -> Result<(), String> {
        if self.grant == OAuthGrant::ClientCredentials && (self.client_id.is_none() || self.client_secret.is_none()) {
            return Err("client credentials need the id and the secret of a client".into());
        }
        if self.client_secret.is_some() && self.client_id.is_none() {
            return Err("it has a secret of a client, and no client".into());
        }
        // RFC 6749, appendix A.
        let scope = |c: u8| matches!(c, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
        if let Some(bad) = self.scopes.iter().find(|text| text.is_empty() || !text.bytes().all(scope)) {
            return Err(format!("{bad:?} is no scope"));
        }
        Ok(())
    }
}

fn names_this_host(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// Where requests on behalf of one definition may go: to its server, and to whatever that names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reachable {
    private: bool,
    plain_http: bool,
    /// The definition's own URL names this host.
    this_host: bool,
}

impl Reachable {
    /// Scheme and host as they are written; what a name resolves to is judged at each connect.
    pub fn judge_url(&self, url: &Url) -> Result<(), String> {
        let own = names_this_host(url);
        match url.scheme() {
            "https" => {}
            "http" if own && self.plain_http => {}
            "http" if own => return Err("it is plain HTTP; write --plain-http if that is meant".into()),
            "http" => return Err("it is plain HTTP to another host; use https".into()),
            other => return Err(format!("its scheme is {other}, not https")),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("it has a user or a password in it".into());
        }
        match url.host() {
            None => Err("it has no host".into()),
            Some(Host::Domain("localhost")) => self.own_host(),
            Some(Host::Domain(_)) => Ok(()),
            Some(Host::Ipv4(ip)) => self.judge(url, ip.into()),
            Some(Host::Ipv6(ip)) => self.judge(url, ip.into()),
        }
    }

    /// Whether the host of `url` may be connected to at this address.
    pub fn judge(&self, url: &Url, ip: std::net::IpAddr) -> Result<(), String> {
        let ip = ip.to_canonical();
        match Reach::of(ip) {
            Reach::Public => Ok(()),
            Reach::Private if self.private => Ok(()),
            Reach::Private => Err(format!("{ip} is in a private network; write --private if the server is there")),
            // A name must not lead here, whoever may have said so in DNS.
            Reach::Host if ip.is_loopback() && names_this_host(url) => self.own_host(),
            Reach::Host => Err(format!("{ip} is this host or its link, where no such server is")),
            Reach::Nowhere => Err(format!("{ip} is no host")),
        }
    }

    fn own_host(&self) -> Result<(), String> {
        match (self.private, self.this_host) {
            (true, true) => Ok(()),
            (false, true) => Err("it is on this host; write --private if that is meant".into()),
            (_, false) => Err("it is on this host, and the definition is of another one".into()),
        }
    }

    pub fn admits_own_addresses(&self) -> bool {
        self.private
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(url: &str, private: bool, plain_http: bool) -> Result<Remote, String> {
        Remote::new(url, Vec::new(), private, plain_http, None)
    }

    #[test]
    fn only_https_to_public_hosts_goes_without_leave() {
        for url in ["https://mcp.example.com/mcp", "https://8.8.8.8/", "https://mcp.example.com:8443/a?b=c"] {
            remote(url, false, false).unwrap();
        }
        for url in [
            "http://mcp.example.com/mcp",
            "ftp://mcp.example.com/",
            "https://user:secret@mcp.example.com/",
            "https://10.0.0.1/",
            "https://127.0.0.1/",
            "https://localhost/",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://169.254.169.254/",
            "https://0.0.0.0/",
            "https://2130706433/",
            "mcp.example.com",
            "",
        ] {
            assert!(remote(url, false, false).is_err(), "{url}");
        }
    }

    #[test]
    fn leave_is_for_private_networks_and_for_this_host_by_its_own_name() {
        for url in ["https://10.0.0.1/", "https://127.0.0.1/", "https://localhost:3000/mcp", "https://[::1]/"] {
            remote(url, true, false).unwrap();
        }
        remote("http://127.0.0.1:3000/mcp", true, true).unwrap();
        for url in ["http://10.0.0.1/", "http://nas.example/", "https://169.254.169.254/", "https://[fe80::1]/"] {
            assert!(remote(url, true, true).is_err(), "{url}");
        }
        assert!(remote("http://127.0.0.1/", true, false).unwrap_err().contains("--plain-http"));
    }

    #[test]
    fn what_a_server_names_is_judged_by_what_its_own_definition_may() {
        let reachable = |url: &str| remote(url, true, true).unwrap().reachable();
        let judge = |of: &str, url: &str| reachable(of).judge_url(&Url::parse(url).unwrap());
        judge("http://127.0.0.1:3000/mcp", "http://localhost:3001/authorize").unwrap();
        for url in ["http://127.0.0.1/", "https://localhost/", "https://169.254.169.254/latest", "http://a.example/"] {
            assert!(judge("https://mcp.example.com/", url).is_err(), "{url}");
        }
        let named = Url::parse("https://mcp.example.com/").unwrap();
        let by_name = |of: &str, ip: &str| reachable(of).judge(&named, ip.parse().unwrap());
        assert!(by_name("https://mcp.example.com/", "10.0.0.1").is_ok());
        for ip in ["127.0.0.1", "::1", "169.254.169.254", "::ffff:127.0.0.1", "0.0.0.0", "fe80::1"] {
            assert!(by_name("https://mcp.example.com/", ip).is_err(), "{ip}");
            assert!(by_name("http://127.0.0.1/", ip).is_err(), "a name leads to {ip}");
        }
    }

    #[test]
    fn headers_are_names_of_secrets_and_never_the_transports_own() {
        let with = |name: &str, prefix: &str, secret: &str, oauth: Option<OAuth>| {
            let header = SecretHeader { name: name.into(), prefix: prefix.into(), secret: secret.into() };
            Remote::new("https://a.example/", vec![header], false, false, oauth)
        };
        assert_eq!(with("authorization", "Bearer ", "TOKEN", None).unwrap().secrets(), BTreeSet::from(["TOKEN"]));
        for (name, prefix, secret) in [
            ("host", "", "T"),
            ("mcp-session-id", "", "T"),
            ("content-length", "", "T"),
            ("X-Upper", "", "T"),
            ("a b", "", "T"),
            ("x", "a\r\nhost: b", "T"),
            ("x", "", ""),
        ] {
            assert!(with(name, prefix, secret, None).is_err(), "{name:?} {prefix:?} {secret:?}");
        }
        assert!(with("authorization", "", "T", Some(OAuth::default())).is_err());
    }

    #[test]
    fn a_definition_that_was_written_by_hand_is_judged_too() {
        let read = |text: &str| serde_json::from_str::<Remote>(text);
        let oauth = OAuth { scopes: ["a".to_owned()].into(), ..OAuth::default() };
        let remote = Remote::new("https://a.example/mcp", Vec::new(), true, false, Some(oauth)).unwrap();
        assert_eq!(read(&serde_json::to_string(&remote).unwrap()).unwrap(), remote);
        for bad in [
            r#"{"url":"http://a.example/"}"#,
            r#"{"url":"https://127.0.0.1/"}"#,
            r#"{"url":"https://a.example/","more":1}"#,
            r#"{"url":"https://a.example/","oauth":{"grant":"client-credentials"}}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
