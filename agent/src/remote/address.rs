//! From a URL to addresses that may be connected to.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use url::{Host, Url};

use super::RemoteError;
use crate::admission::Reachable;
use crate::sandbox::is_own;

const PATIENCE: Duration = Duration::from_secs(10);

/// Addresses of a name.
pub type Lookup = Arc<dyn Fn(String) -> BoxFuture<'static, std::io::Result<Vec<IpAddr>>> + Send + Sync>;

/// By the host's own resolver.
pub(super) fn system() -> Lookup {
    Arc::new(|name| {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    })
}

/// The addresses that were judged good: to be connected to, and no others.
pub(super) async fn resolve(url: &Url, reachable: Reachable, lookup: &Lookup) -> Result<Vec<SocketAddr>, RemoteError> {
    let host = url.host_str().unwrap_or_default().to_owned();
    let refused = |why: String| RemoteError::Address { host: host.clone(), why };
    reachable.judge_url(url).map_err(refused)?;
    let port = url.port_or_known_default().ok_or_else(|| refused("its URL has no port".into()))?;
    let found = match url.host() {
        Some(Host::Ipv4(ip)) => vec![ip.into()],
        Some(Host::Ipv6(ip)) => vec![ip.into()],
        Some(Host::Domain(name)) => match tokio::time::timeout(PATIENCE, lookup(name.to_owned())).await {
            Ok(Ok(found)) => found,
            Ok(Err(e)) => return Err(refused(format!("its name cannot be looked up: {e}"))),
            Err(_) => return Err(refused(format!("its name was not found within {} s", PATIENCE.as_secs()))),
        },
        None => Vec::new(),
    };
    let mut why = "its name has no address".to_owned();
    let mut good = Vec::new();
    for ip in found.into_iter().map(|ip| ip.to_canonical()) {
        let own = !ip.is_loopback() && !reachable.admits_own_addresses() && is_own(ip);
        match reachable.judge(url, ip) {
            Ok(()) if own => why = format!("its name leads to {ip}, which is this host"),
            Ok(()) => good.push(SocketAddr::new(ip, port)),
            Err(refusal) => why = format!("its name leads to a forbidden address: {refusal}"),
        }
    }
    if good.is_empty() { Err(refused(why)) } else { Ok(good) }
}

#[cfg(test)]
pub(super) fn fixed(ips: &[&str]) -> Lookup {
    let ips: Vec<IpAddr> = ips.iter().map(|ip| ip.parse().unwrap()).collect();
    Arc::new(move |_| {
        let ips = ips.clone();
        Box::pin(async move { Ok(ips) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::Remote;

    async fn resolved(private: bool, ips: &[&str]) -> Result<Vec<SocketAddr>, RemoteError> {
        let remote = Remote::new("https://mcp.example.com/mcp", Vec::new(), private, false, None).unwrap();
        resolve(remote.url(), remote.reachable(), &fixed(ips)).await
    }

    #[tokio::test]
    async fn a_name_that_leads_inside_is_refused_whatever_the_leave() {
        for ip in ["127.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1", "0.0.0.0", "fd00:ec2::254"] {
            for private in [false, true] {
                let error = resolved(private, &[ip]).await.unwrap_err();
                assert!(matches!(error, RemoteError::Address { .. }), "{ip}: {error}");
                assert!(!error.was_sent());
            }
        }
        assert!(resolved(false, &["10.1.2.3"]).await.is_err());
        assert_eq!(resolved(true, &["10.1.2.3"]).await.unwrap(), ["10.1.2.3:443".parse().unwrap()]);
        assert!(resolved(true, &[]).await.is_err());
    }

    #[tokio::test]
    async fn of_several_addresses_only_the_public_ones_are_used() {
        let found = resolved(false, &["10.1.2.3", "8.8.8.8", "127.0.0.1", "::ffff:8.8.4.4"]).await.unwrap();
        assert_eq!(found, ["8.8.8.8:443".parse().unwrap(), "8.8.4.4:443".parse().unwrap()]);
    }
}
