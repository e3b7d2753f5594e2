//! Who guards a server, and where that one's endpoints are.

use hyper::StatusCode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use url::Url;

use super::{Challenge, LONGEST, OAuthError, PATIENCE};
use crate::admission::Remote;
use crate::remote::{Ask, Http, RemoteError, body};

/// RFC 9728, as far as it matters.
#[derive(Debug, Clone, Deserialize)]
pub struct Resource {
    pub resource: String,
    #[serde(default)]
    pub authorization_servers: Vec<String>,
    #[serde(default)]
    pub scopes_supported: Vec<String>,
}

/// RFC 8414, as far as it matters.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AuthorizationServer {
    pub issuer: String,
    pub authorization_endpoint: Option<Url>,
    pub token_endpoint: Url,
    #[serde(default)]
    pub registration_endpoint: Option<Url>,
    #[serde(default)]
    pub code_challenge_methods_supported: Vec<String>,
    #[serde(default)]
    pub token_endpoint_auth_methods_supported: Option<Vec<String>>,
    #[serde(default)]
    pub authorization_response_iss_parameter_supported: bool,
}

/// What was found out about a server.
pub struct Found {
    /// The resource indicator that tokens are asked for.
    pub resource: String,
    pub server: AuthorizationServer,
    /// Scopes to ask for: the definition's, else the challenge's, else all that are known.
    pub scopes: Vec<String>,
}

/// Asks the server without any credential, and follows what it says.
pub async fn discover(http: &Http, remote: &Remote) -> Result<Found, OAuthError> {
    let challenge = challenge(http, remote).await?;
    let known = resource(http, remote, challenge.as_ref()).await?;
    let (resource, issuers, supported) = match known {
        Some(known) => (known.resource, known.authorization_servers, known.scopes_supported),
        // Servers of 2025-03-26 are their own authorization server.
        None => (remote.url().to_string(), vec![remote.origin()], Vec::new()),
    };
    let wanted = remote.oauth().and_then(|oauth| oauth.issuer.as_deref());
    let issuer = match wanted {
        Some(wanted) => issuers.iter().find(|issuer| same_issuer(issuer, wanted)).ok_or_else(|| {
            OAuthError::Metadata(format!(
                "the server does not name the authorization server {wanted} that the definition wants"
            ))
        })?,
        None => {
            issuers.first().ok_or_else(|| OAuthError::Metadata("the server names no authorization server".into()))?
        }
    };
    let server = authorization_server(http, issuer).await?;
    let defined = remote.oauth().map(|oauth| oauth.scopes.iter().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let asked = challenge.and_then(|challenge| challenge.scope).unwrap_or_default();
    let asked: Vec<String> = asked.split(' ').filter(|scope| !scope.is_empty()).map(str::to_owned).collect();
    let scopes = [defined, asked, supported].into_iter().find(|scopes| !scopes.is_empty()).unwrap_or_default();
    Ok(Found { resource, server, scopes })
}

fn same_issuer(a: &str, b: &str) -> bool {
    a.trim_end_matches('/') == b.trim_end_matches('/')
}

/// What the server answers to somebody who is not logged in.
async fn challenge(http: &Http, remote: &Remote) -> Result<Option<Challenge>, OAuthError> {
    let mut ask = Ask::post(remote.url().clone(), "application/json", r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#);
    ask.headers.insert(hyper::header::ACCEPT, super::super::headers::both());
    let response = timely(remote.url(), http.send(ask)).await?;
    if response.status() != StatusCode::UNAUTHORIZED {
        return Ok(None);
    }
    let values = response.headers().get_all(hyper::header::WWW_AUTHENTICATE);
    Ok(Challenge::bearer(values.iter().filter_map(|value| value.to_str().ok())))
}

async fn timely<T>(url: &Url, work: impl Future<Output = Result<T, RemoteError>>) -> Result<T, RemoteError> {
    let host = || url.host_str().unwrap_or_default().to_owned();
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(done) => done,
        Err(_) => Err(RemoteError::Timeout { host: host(), secs: PATIENCE.as_secs() }),
    }
}

/// Its own words on who guards it; they must be about it, and stand at its own origin.
async fn resource(http: &Http, remote: &Remote, challenge: Option<&Challenge>) -> Result<Option<Resource>, OAuthError> {
    let own = remote.url();
    let named = challenge.and_then(|challenge| challenge.resource_metadata.as_deref());
    let places = match named {
        Some(named) => {
            let url =
                Url::parse(named).map_err(|e| OAuthError::Metadata(format!("its metadata's URL is none: {e}")))?;
            if url.origin() != own.origin() {
                let there = super::clean(&url.origin().ascii_serialization());
                return Err(OAuthError::Metadata(format!(
                    "the server sends its callers to {there} for its metadata, which is another origin"
                )));
            }
            vec![url]
        }
        None => well_known(own, "oauth-protected-resource"),
    };
    for place in places {
        let Some(found) = document::<Resource>(http, &place).await? else { continue };
        let about = Url::parse(&found.resource).ok().filter(|about| covers(about, own));
        if about.is_none() {
            let about = super::clean(&found.resource);
            return Err(OAuthError::Metadata(format!(
                "the metadata at {place} is about {about}, which is another server"
            )));
        }
        return Ok(Some(found));
    }
    if named.is_some() {
        return Err(OAuthError::Metadata("the server names metadata that is not there".into()));
    }
    Ok(None)
}

/// Whether a token for the one resource is for the other: the same origin, and a path at or above it.
fn covers(resource: &Url, url: &Url) -> bool {
    let path = |url: &Url| format!("{}/", url.path().trim_end_matches('/'));
    resource.origin() == url.origin() && path(url).starts_with(&path(resource))
}

/// With the path behind the well-known part, and without.
fn well_known(url: &Url, name: &str) -> Vec<Url> {
    let mut places = Vec::new();
    let path = url.path().trim_end_matches('/');
    for tail in [path, ""] {
        let mut place = url.clone();
        place.set_query(None);
        place.set_path(&format!("/.well-known/{name}{tail}"));
        if !places.contains(&place) {
            places.push(place);
        }
    }
    places
}

async fn authorization_server(http: &Http, issuer: &str) -> Result<AuthorizationServer, OAuthError> {
    let shown = super::clean(issuer);
    let bad = |why: String| OAuthError::Metadata(format!("the authorization server {shown} cannot be used: {why}"));
    let url = Url::parse(issuer).map_err(|e| bad(e.to_string()))?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err(bad("its name has a query or a fragment".into()));
    }
    http.reachable().judge_url(&url).map_err(bad)?;
    let mut places = well_known(&url, "oauth-authorization-server");
    places.truncate(1);
    places.extend(well_known(&url, "openid-configuration").into_iter().take(1));
    let mut appended = url.clone();
    appended.set_path(&format!("{}/.well-known/openid-configuration", url.path().trim_end_matches('/')));
    if !places.contains(&appended) {
        places.push(appended);
    }
    for place in places {
        let Some(found) = document::<AuthorizationServer>(http, &place).await? else { continue };
        if !same_issuer(&found.issuer, issuer) {
            let other = super::clean(&found.issuer);
            return Err(bad(format!("its metadata says that it is {other}")));
        }
        let endpoints =
            [found.authorization_endpoint.as_ref(), Some(&found.token_endpoint), found.registration_endpoint.as_ref()];
        for endpoint in endpoints.into_iter().flatten() {
            http.reachable().judge_url(endpoint).map_err(|why| bad(format!("its endpoint {endpoint}: {why}")))?;
        }
        return Ok(found);
    }
    Err(bad("it has no metadata".into()))
}

/// `None` where there is none.
async fn document<T: DeserializeOwned>(http: &Http, url: &Url) -> Result<Option<T>, OAuthError> {
    let whole = timely(url, async {
        let response = http.send(Ask::get(url.clone())).await?;
        let status = response.status();
        Ok((status, body(url, response, LONGEST).await?))
    });
    let (status, bytes) = whole.await?;
    if status.is_client_error() {
        return Ok(None);
    }
    if !status.is_success() {
        return Err(OAuthError::Metadata(format!("{url} answers with {status}")));
    }
    serde_json::from_slice(&bytes).map(Some).map_err(|e| OAuthError::Metadata(format!("{url} cannot be read: {e}")))
}

#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(bytes: &[u8]) {
    if let Ok(server) = serde_json::from_slice::<AuthorizationServer>(bytes) {
        let written = serde_json::to_vec(&server).expect("metadata can be kept");
        let again: AuthorizationServer = serde_json::from_slice(&written).expect("it reads back");
        assert_eq!((again.issuer, again.token_endpoint), (server.issuer, server.token_endpoint));
    }
    let own = Url::parse("https://mcp.example/a/b").expect("a URL");
    let Ok(found) = serde_json::from_slice::<Resource>(bytes) else { return };
    let Ok(about) = Url::parse(&found.resource) else { return };
    if covers(&about, &own) {
        let text = about.as_str().trim_end_matches('/');
        assert!(about.scheme() == "https" && about.host_str() == Some("mcp.example"), "{about}");
        assert!(
            about.query().is_some()
                || about.fragment().is_some()
                || !about.username().is_empty()
                || about.password().is_some()
                || ["https://mcp.example", "https://mcp.example/a", "https://mcp.example/a/b"].contains(&text),
            "{about}"
        );
    }
    if about.has_host() && !about.cannot_be_a_base() {
        for place in well_known(&about, "x") {
            assert!(place.origin() == about.origin() || !about.origin().is_tuple(), "{place}");
            assert!(place.path().starts_with("/.well-known/x") && place.query().is_none(), "{place}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_covers_what_is_at_or_below_it_and_nothing_beside_it() {
        let covers = |resource: &str, url: &str| covers(&Url::parse(resource).unwrap(), &Url::parse(url).unwrap());
        for resource in ["https://a.example", "https://a.example/", "https://a.example/mcp", "https://a.example/mcp/"] {
            assert!(covers(resource, "https://a.example/mcp"), "{resource}");
        }
        for resource in
            ["https://b.example/mcp", "http://a.example/mcp", "https://a.example/mc", "https://a.example/mcp/x"]
        {
            assert!(!covers(resource, "https://a.example/mcp"), "{resource}");
        }
    }

    #[test]
    fn the_well_known_place_is_before_the_path() {
        let places = |url: &str| -> Vec<String> {
            well_known(&Url::parse(url).unwrap(), "x").iter().map(Url::to_string).collect()
        };
        assert_eq!(
            places("https://a.example/mcp/?q=1"),
            ["https://a.example/.well-known/x/mcp", "https://a.example/.well-known/x"]
        );
        assert_eq!(places("https://a.example/"), ["https://a.example/.well-known/x"]);
    }
}
