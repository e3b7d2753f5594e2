//! Logins at a peer that is a server and its authorization server in one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use url::{Url, form_urlencoded};

use super::OAuthError;
use crate::admission::{OAuth, OAuthGrant, Server};
use crate::remote::testing::{self, Peer, Say, Seen, answer, json};
use crate::remote::{Http, Remotes};

const REDIRECT: &str = "http://127.0.0.1:4711/callback";

fn form(seen: &Seen) -> BTreeMap<String, String> {
    form_urlencoded::parse(seen.body.as_bytes()).into_owned().collect()
}

/// What may be otherwise than it should be.
#[derive(Default)]
struct Twist {
    challenge: Option<String>,
    resource: Option<String>,
    issuer: Option<String>,
    token_endpoint: Option<String>,
    no_pkce: bool,
    no_metadata: bool,
}

/// The authorization server's memory.
#[derive(Default)]
struct Memory {
    challenge: Mutex<Option<String>>,
    grants: AtomicUsize,
    /// Refresh tokens are taken no more.
    closed: AtomicBool,
}

struct Bed {
    peer: Peer,
    remotes: Arc<Remotes>,
    server: Server,
    memory: Arc<Memory>,
    _dir: tempfile::TempDir,
}

async fn bed(oauth: OAuth, twist: Twist) -> Bed {
    let memory = Arc::new(Memory::default());
    let kept = memory.clone();
    let peer = Peer::start(move |seen| say(seen, &twist, &kept)).await;
    let (remotes, dir) = testing::remotes();
    let server = testing::server(&peer.url(), Some(oauth));
    Bed { peer, remotes, server, memory, _dir: dir }
}

fn say(seen: &Seen, twist: &Twist, memory: &Memory) -> Say {
    let origin = format!("http://{}", seen.headers["host"]);
    let own = |path: &str| format!("{origin}{path}");
    match seen.path.as_str() {
        "/mcp" => {
            let named = own("/.well-known/oauth-protected-resource/mcp");
            let challenge =
                twist.challenge.clone().unwrap_or(format!("Bearer resource_metadata=\"{named}\", scope=\"a b\""));
            answer("401 Unauthorized", &format!("www-authenticate: {challenge}\r\n"), "")
        }
        "/.well-known/oauth-protected-resource/mcp" if !twist.no_metadata => {
            let resource = twist.resource.clone().unwrap_or_else(|| own("/mcp"));
            let issuer = twist.issuer.clone().unwrap_or_else(|| own(""));
            json(&serde_json::json!({"resource": resource, "authorization_servers": [issuer]}).to_string())
        }
        "/.well-known/oauth-authorization-server" => {
            let methods: &[&str] = if twist.no_pkce { &["plain"] } else { &["S256"] };
            json(
                &serde_json::json!({
                    "issuer": own(""),
                    "authorization_endpoint": own("/authorize?tenant=1"),
                    "token_endpoint": twist.token_endpoint.clone().unwrap_or_else(|| own("/token")),
                    "registration_endpoint": own("/register"),
                    "code_challenge_methods_supported": methods,
                    "authorization_response_iss_parameter_supported": true,
                })
                .to_string(),
            )
        }
        "/register" => answer("201 Created", "", r#"{"client_id":"c1","token_endpoint_auth_method":"none"}"#),
        "/token" => token(seen, memory),
        _ => answer("404 Not Found", "", ""),
    }
}

fn token(seen: &Seen, memory: &Memory) -> Say {
    let form = form(seen);
    let refused = |code: &str| answer("400 Bad Request", "", &format!(r#"{{"error":"{code}"}}"#));
    if !form.get("resource").is_some_and(|resource| resource.ends_with("/mcp")) {
        return refused("invalid_target");
    }
    let n = memory.grants.fetch_add(1, Ordering::SeqCst) + 1;
    let good = match form["grant_type"].as_str() {
        "authorization_code" => {
            let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(form["code_verifier"].as_bytes()));
            form["code"] == "good" && memory.challenge.lock().unwrap().as_deref() == Some(&challenge)
        }
        // Each is good for once.
        "refresh_token" => !memory.closed.load(Ordering::SeqCst) && form["refresh_token"] == format!("r{}", n - 1),
        "client_credentials" => seen.headers.get("authorization").is_some_and(|pair| pair == "Basic YzI6czNjcmV0"),
        _ => false,
    };
    match good {
        true => json(&format!(
            r#"{{"access_token":"t{n}","token_type":"Bearer","expires_in":3600,"refresh_token":"r{n}","scope":"a"}}"#
        )),
        false => refused("invalid_grant"),
    }
}

impl Bed {
    fn http(&self) -> Http {
        self.remotes.http(self.server.launch.remote().unwrap())
    }

    async fn begin(&self) -> Result<Url, OAuthError> {
        let url = self.remotes.credentials.begin(&self.http(), &self.server, REDIRECT, "ann").await?;
        let url = Url::parse(&url).unwrap();
        *self.memory.challenge.lock().unwrap() = query(&url, "code_challenge");
        Ok(url)
    }

    async fn finish(&self, url: &Url, code: &str) -> Result<(), OAuthError> {
        let state = query(url, "state").unwrap();
        let issuer = format!("http://127.0.0.1:{}", self.peer.port);
        let answer = format!("{REDIRECT}?code={code}&state={state}&iss={issuer}");
        self.remotes.credentials.finish(&self.http(), &self.server, &answer).await
    }

    async fn token(&self, stale: Option<&str>) -> Result<String, OAuthError> {
        self.remotes.credentials.token(&self.http(), &self.server.name, &self.server.launch, stale).await
    }
}

fn query(url: &Url, name: &str) -> Option<String> {
    url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

#[tokio::test]
async fn a_login_is_made_for_one_server_and_its_tokens_rotate() {
    let bed = bed(OAuth::default(), Twist::default()).await;
    let error = bed.token(None).await.unwrap_err();
    assert!(
        matches!(error, OAuthError::NoLogin { .. }) && error.to_string().contains("lazaret server login r"),
        "{error}"
    );

    let url = bed.begin().await.unwrap();
    let asked = |name: &str| query(&url, name).unwrap_or_default();
    assert_eq!((asked("tenant"), asked("client_id"), asked("scope")), ("1".into(), "c1".into(), "a b".into()));
    assert_eq!((asked("resource"), asked("redirect_uri")), (bed.peer.url(), REDIRECT.into()));
    assert_eq!((asked("code_challenge_method"), asked("response_type")), ("S256".into(), "code".into()));
    bed.finish(&url, "good").await.unwrap();
    let again = bed.finish(&url, "good").await.unwrap_err();
    assert!(matches!(again, OAuthError::NotOurs(_)), "an answer counts once: {again}");

    assert_eq!(bed.token(None).await.unwrap(), "t1");
    let (a, b) = tokio::join!(bed.token(Some("t1")), bed.token(Some("t1")));
    assert_eq!((a.unwrap(), b.unwrap()), ("t2".into(), "t2".into()), "two who were refused renew it once");
    let view = bed.remotes.credentials.view(&bed.server).unwrap().unwrap();
    assert!(view.logged_in && view.refreshes && view.until.is_some());
    assert_eq!((view.by.as_deref(), view.scope.as_deref()), (Some("ann"), Some("a")));
    assert!(!serde_json::to_string(&view).unwrap().contains("t2"));

    bed.memory.closed.store(true, Ordering::SeqCst);
    let ended = bed.token(Some("t2")).await.unwrap_err();
    assert!(ended.wants_login() && ended.to_string().contains("lazaret server login r"), "{ended}");
    assert!(matches!(bed.token(None).await, Err(OAuthError::NoLogin { .. })));

    // Nothing of the definition's own secrets went to the authorization server.
    assert!(bed.peer.seen().iter().all(|seen| !seen.headers.contains_key("x-key")));
}

#[tokio::test]
async fn a_login_is_of_no_use_for_another_definition_of_that_name() {
    let bed = bed(OAuth::default(), Twist::default()).await;
    let url = bed.begin().await.unwrap();
    bed.finish(&url, "good").await.unwrap();
    let other = testing::server("https://evil.example/mcp", Some(OAuth::default()));
    let http = bed.remotes.http(other.launch.remote().unwrap());
    let refused = bed.remotes.credentials.token(&http, &other.name, &other.launch, None).await;
    assert!(matches!(refused, Err(OAuthError::NoLogin { .. })));
    assert!(!bed.remotes.credentials.view(&other).unwrap().unwrap().logged_in);
}

#[tokio::test]
async fn a_code_that_is_refused_or_a_state_of_another_leaves_nobody_logged_in() {
    let bed = bed(OAuth::default(), Twist::default()).await;
    let url = bed.begin().await.unwrap();
    assert!(matches!(bed.finish(&url, "bad").await, Err(OAuthError::Refused { .. })));
    let first = bed.begin().await.unwrap();
    bed.begin().await.unwrap();
    assert!(matches!(bed.finish(&first, "good").await, Err(OAuthError::NotOurs(_))), "the first login was given up");
    assert!(matches!(bed.token(None).await, Err(OAuthError::NoLogin { .. })));
}

#[tokio::test]
async fn what_a_server_names_is_judged_before_anything_is_asked_of_it() {
    let inside = Peer::start(|_| json("{}")).await;
    let refused = async |twist: Twist, wanted: &str| {
        let bed = bed(OAuth::default(), twist).await;
        let error = bed.begin().await.unwrap_err().to_string();
        assert!(error.contains(wanted), "{wanted}: {error}");
    };
    let metadata =
        |url: &str| Twist { challenge: Some(format!("Bearer resource_metadata=\"{url}\"")), ..Twist::default() };
    for evil in
        ["http://169.254.169.254/latest", &inside.url(), "https://evil.example/m", "file:///etc/passwd", "nonsense"]
    {
        refused(metadata(evil), if evil == "nonsense" { "URL is none" } else { "another origin" }).await;
    }
    let issuer = |url: &str| Twist { issuer: Some(url.into()), ..Twist::default() };
    refused(issuer("http://169.254.169.254"), "169.254.169.254").await;
    refused(issuer("https://169.254.169.254"), "this host or its link").await;
    refused(issuer("http://as.example"), "plain HTTP to another host").await;
    refused(issuer(&inside.url()), "cannot be").await;
    let endpoint = Twist { token_endpoint: Some("http://10.0.0.1/token".into()), ..Twist::default() };
    refused(endpoint, "its endpoint").await;
    refused(Twist { resource: Some("https://other.example/mcp".into()), ..Twist::default() }, "another server").await;
    refused(Twist { no_pkce: true, ..Twist::default() }, "PKCE").await;
    refused(Twist { no_metadata: true, ..Twist::default() }, "not there").await;
    assert!(inside.seen().iter().all(|seen| seen.method == "GET" && !seen.headers.contains_key("x-key")));
}

#[tokio::test]
async fn only_the_issuer_that_the_definition_names_is_taken() {
    let oauth = OAuth { issuer: Some("https://as.example".into()), ..OAuth::default() };
    let error = bed(oauth, Twist::default()).await.begin().await.unwrap_err().to_string();
    assert!(error.contains("https://as.example"), "{error}");
}

#[tokio::test]
async fn a_server_of_the_older_revision_is_its_own_authorization_server() {
    let twist = Twist { challenge: Some("Bearer".into()), no_metadata: true, ..Twist::default() };
    let bed = bed(OAuth::default(), twist).await;
    let url = bed.begin().await.unwrap();
    bed.finish(&url, "good").await.unwrap();
    assert_eq!(bed.token(None).await.unwrap(), "t1");
}

#[tokio::test]
async fn the_daemon_logs_in_by_itself_with_the_clients_secret() {
    let oauth = OAuth {
        grant: OAuthGrant::ClientCredentials,
        client_id: Some("c2".into()),
        client_secret: Some("CLIENT".into()),
        ..OAuth::default()
    };
    let bed = bed(oauth, Twist::default()).await;
    assert_eq!(bed.token(None).await.unwrap(), "t1");
    assert_eq!(bed.token(None).await.unwrap(), "t1");
    assert_eq!(bed.token(Some("t1")).await.unwrap(), "t2");
}
