//! One login: begun by the daemon, given by a person in a browser, ended by the daemon.
//!
//! Invariant: the code of an answer is used only where its `state` is the one that was sent, its
//! `iss` is who was asked (RFC 9207), and its verifier never left the daemon.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::header::ACCEPT;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use url::Url;

use super::token::{self, Client};
use super::{LONGEST, OAuthError, PATIENCE, Tokens};
use crate::admission::Remote;
use crate::remote::{Ask, Http, RemoteError, body};

/// A login that waits for its answer.
pub struct Login {
    pub client: Client,
    /// What the person opens.
    pub url: Url,
    state: String,
    verifier: String,
    redirect: String,
    iss_promised: bool,
}

/// Finds out whom to ask, makes itself known there where need be, and makes the URL for the person.
pub async fn begin(
    http: &Http,
    remote: &Remote,
    client_secret: Option<String>,
    redirect: &str,
) -> Result<Login, OAuthError> {
    let found = super::discover(http, remote).await?;
    let server = found.server;
    let endpoint = server.authorization_endpoint.clone().ok_or_else(|| {
        OAuthError::Metadata(format!("{} has no authorization endpoint", super::clean(&server.issuer)))
    })?;
    if !server.code_challenge_methods_supported.iter().any(|method| method == "S256") {
        let issuer = super::clean(&server.issuer);
        return Err(OAuthError::Metadata(format!(
            "{issuer} does not know PKCE with S256, without which a code can be stolen"
        )));
    }
    let known = remote.oauth().and_then(|oauth| oauth.client_id.clone());
    let methods = server.token_endpoint_auth_methods_supported.clone();
    let mut client = Client {
        issuer: server.issuer.clone(),
        token_endpoint: server.token_endpoint.clone(),
        resource: found.resource,
        id: known.clone().unwrap_or_default(),
        secret: client_secret,
        secret_in_body: secret_in_body(methods.as_deref()),
    };
    if known.is_none() {
        let Some(registration) = &server.registration_endpoint else {
            let issuer = super::clean(&server.issuer);
            return Err(OAuthError::Metadata(format!(
                "{issuer} registers no clients by itself; register one there, and add the server with --oauth-client-id"
            )));
        };
        register(http, registration, redirect, &found.scopes, &mut client).await?;
    }
    let (state, verifier) = (random()?, random()?);
    let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes()));
    let mut url = endpoint;
    {
        let mut query = url.query_pairs_mut();
        query.append_pair("response_type", "code").append_pair("client_id", &client.id);
        query.append_pair("redirect_uri", redirect).append_pair("state", &state);
        query.append_pair("code_challenge", &challenge).append_pair("code_challenge_method", "S256");
        query.append_pair("resource", &client.resource);
        if !found.scopes.is_empty() {
            query.append_pair("scope", &found.scopes.join(" "));
        }
    }
    let iss_promised = server.authorization_response_iss_parameter_supported;
    Ok(Login { client, url, state, verifier, redirect: redirect.to_owned(), iss_promised })
}

/// The header is what everybody must take; the body only where that alone is offered.
pub(in crate::remote) fn secret_in_body(methods: Option<&[String]>) -> bool {
    methods.is_some_and(|methods| {
        let has = |name: &str| methods.iter().any(|method| method == name);
        has("client_secret_post") && !has("client_secret_basic")
    })
}

/// 256 bits, in the letters that PKCE allows.
fn random() -> Result<String, OAuthError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|e| OAuthError::Store(format!("the kernel gives no random bytes: {e}")))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

#[derive(Deserialize)]
struct Registered {
    client_id: String,
    client_secret: Option<String>,
    token_endpoint_auth_method: Option<String>,
}

async fn register(
    http: &Http,
    url: &Url,
    redirect: &str,
    scopes: &[String],
    client: &mut Client,
) -> Result<(), OAuthError> {
    let mut wish = serde_json::json!({
        "client_name": "Lazaret",
        "redirect_uris": [redirect],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "none",
    });
    if !scopes.is_empty() {
        wish["scope"] = scopes.join(" ").into();
    }
    let mut ask = Ask::post(url.clone(), "application/json", wish.to_string());
    ask.headers.insert(ACCEPT, hyper::header::HeaderValue::from_static("application/json"));
    let whole = async {
        let response = http.send(ask).await?;
        let status = response.status();
        Ok::<_, RemoteError>((status, body(url, response, LONGEST).await?))
    };
    let timeout = || RemoteError::Timeout { host: url.host_str().unwrap_or_default().into(), secs: PATIENCE.as_secs() };
    let (status, bytes) = tokio::time::timeout(PATIENCE, whole).await.map_err(|_| timeout())??;
    let refused = |why: String| OAuthError::Refused { issuer: client.issuer.clone(), why };
    if !status.is_success() {
        return Err(refused(format!("it does not register a client ({status})")));
    }
    let registered: Registered =
        serde_json::from_slice(&bytes).map_err(|_| refused("its answer to a registration has no client".into()))?;
    client.id = registered.client_id;
    client.secret =
        registered.client_secret.filter(|_| registered.token_endpoint_auth_method.as_deref() != Some("none"));
    client.secret_in_body = registered.token_endpoint_auth_method.as_deref() == Some("client_secret_post");
    Ok(())
}

/// `answer` is the URL that the browser was sent to.
pub async fn finish(http: &Http, login: &Login, answer: &str) -> Result<Tokens, OAuthError> {
    let code = login.code(answer)?;
    token::code(http, &login.client, &code, &login.verifier, &login.redirect)
        .await
        .map_err(|failed| failed.into_error(&login.client.issuer))
}

impl Login {
    fn code(&self, answer: &str) -> Result<String, OAuthError> {
        let url = Url::parse(answer.trim()).map_err(|_| OAuthError::NotOurs("it is no URL"))?;
        let get = |name: &str| url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
        let state = get("state").ok_or(OAuthError::NotOurs("it has no state"))?;
        if !bool::from(state.as_bytes().ct_eq(self.state.as_bytes())) {
            return Err(OAuthError::NotOurs("its state is another one"));
        }
        match get("iss") {
            Some(iss) if iss != self.client.issuer => return Err(OAuthError::NotOurs("it comes from another issuer")),
            None if self.iss_promised => return Err(OAuthError::NotOurs("it does not say who issued it")),
            _ => {}
        }
        if let Some(error) = get("error") {
            let text = get("error_description").map(|text| format!(": {text}")).unwrap_or_default();
            let why = super::clean(&format!("{error}{text}"));
            return Err(OAuthError::Refused { issuer: self.client.issuer.clone(), why });
        }
        get("code").filter(|code| !code.is_empty()).ok_or(OAuthError::NotOurs("it has no code"))
    }
}

#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(answer: &str) {
    let client = Client {
        issuer: "https://as.example".into(),
        token_endpoint: Url::parse("https://as.example/token").expect("a URL"),
        resource: String::new(),
        id: String::new(),
        secret: None,
        secret_in_body: false,
    };
    let url = client.token_endpoint.clone();
    for iss_promised in [false, true] {
        let login = Login {
            client: client.clone(),
            url: url.clone(),
            state: "the-state".into(),
            verifier: String::new(),
            redirect: String::new(),
            iss_promised,
        };
        let Ok(code) = login.code(answer) else { continue };
        let url = Url::parse(answer.trim()).expect("what gave a code is a URL");
        let all = |name: &str| -> Vec<_> {
            url.query_pairs().filter(|(key, _)| key == name).map(|(_, value)| value.into_owned()).collect()
        };
        assert!(!code.is_empty() && all("code").contains(&code));
        assert!(all("state").contains(&login.state));
        assert!(all("iss").first().map_or(!iss_promised, |iss| *iss == login.client.issuer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(iss_promised: bool) -> Login {
        let url = Url::parse("https://as.example/authorize").unwrap();
        let client = Client {
            issuer: "https://as.example".into(),
            token_endpoint: url.clone(),
            resource: "https://a.example/mcp".into(),
            id: "c".into(),
            secret: None,
            secret_in_body: false,
        };
        Login { client, url, state: "right".into(), verifier: String::new(), redirect: String::new(), iss_promised }
    }

    #[test]
    fn an_answer_is_taken_only_with_the_state_and_from_the_issuer_that_was_asked() {
        let code = |login: &Login, query: &str| login.code(&format!("http://127.0.0.1:1/callback?{query}"));
        let plain = login(false);
        assert_eq!(code(&plain, "code=a%20b&state=right").unwrap(), "a b");
        assert_eq!(code(&plain, "code=a&state=right&iss=https://as.example").unwrap(), "a");
        for bad in ["code=a", "code=a&state=wrong", "state=right", "code=a&state=right&iss=https://evil.example"] {
            assert!(matches!(code(&plain, bad), Err(OAuthError::NotOurs(_))), "{bad}");
        }
        assert!(matches!(plain.code("nonsense"), Err(OAuthError::NotOurs(_))));
        let denied =
            code(&plain, "error=access_denied&error_description=no%0Away&state=right").unwrap_err().to_string();
        assert!(denied.contains("access_denied: noway"), "{denied}");
        assert!(matches!(code(&plain, "error=access_denied&state=wrong"), Err(OAuthError::NotOurs(_))));
        assert!(matches!(code(&login(true), "code=a&state=right"), Err(OAuthError::NotOurs(_))));
    }

    #[test]
    fn the_secret_goes_into_a_header_wherever_that_is_taken() {
        let methods = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert!(!secret_in_body(None));
        assert!(!secret_in_body(Some(&methods(&["client_secret_post", "client_secret_basic"]))));
        assert!(secret_in_body(Some(&methods(&["client_secret_post", "none"]))));
    }
}
