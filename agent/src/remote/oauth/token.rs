//! The token endpoint: a code, a refresh token or the client's own secret becomes an access token.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{ACCEPT, AUTHORIZATION, HeaderValue};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use url::{Url, form_urlencoded};

use super::{LONGEST, OAuthError, PATIENCE};
use crate::remote::{Ask, Http, RemoteError, body};

/// Where nothing is said of its life, a token is taken to be good until it is refused.
#[derive(Clone, Serialize, Deserialize)]
pub struct Tokens {
    pub access: String,
    pub refresh: Option<String>,
    pub expires: Option<Timestamp>,
    pub scope: Option<String>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokens(until {:?})", self.expires)
    }
}

/// The client that asks, as the authorization server knows it.
#[derive(Clone, Serialize, Deserialize)]
pub struct Client {
    pub issuer: String,
    pub token_endpoint: Url,
    pub resource: String,
    pub id: String,
    pub secret: Option<String>,
    /// The secret goes into the body, not into a header.
    pub secret_in_body: bool,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({} at {})", self.id, self.issuer)
    }
}

#[derive(Deserialize)]
struct Answer {
    access_token: String,
    token_type: String,
    expires_in: Option<serde_json::Number>,
    refresh_token: Option<String>,
    scope: Option<String>,
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
    error_description: Option<String>,
}

/// A refusal, with the code that RFC 6749 has for it where there is one.
pub enum Failed {
    Refused { code: Option<String>, why: String },
    Other(OAuthError),
}

impl From<RemoteError> for Failed {
    fn from(error: RemoteError) -> Self {
        Self::Other(error.into())
    }
}

impl Failed {
    pub fn into_error(self, issuer: &str) -> OAuthError {
        match self {
            Self::Refused { why, .. } => OAuthError::Refused { issuer: issuer.into(), why },
            Self::Other(error) => error,
        }
    }
}

pub async fn code(http: &Http, client: &Client, code: &str, verifier: &str, redirect: &str) -> Result<Tokens, Failed> {
    let form =
        [("grant_type", "authorization_code"), ("code", code), ("code_verifier", verifier), ("redirect_uri", redirect)];
    ask(http, client, &form).await
}

/// The refresh token that comes back is the one from then on, where one does.
pub async fn refresh(http: &Http, client: &Client, before: &Tokens) -> Result<Option<Tokens>, Failed> {
    let Some(refresh) = &before.refresh else { return Ok(None) };
    let form = [("grant_type", "refresh_token"), ("refresh_token", refresh.as_str())];
    let mut tokens = ask(http, client, &form).await?;
    tokens.refresh = tokens.refresh.or_else(|| before.refresh.clone());
    tokens.scope = tokens.scope.or_else(|| before.scope.clone());
    Ok(Some(tokens))
}

pub async fn client_credentials(http: &Http, client: &Client, scopes: &[String]) -> Result<Tokens, Failed> {
    let scope = scopes.join(" ");
    let mut form = vec![("grant_type", "client_credentials")];
    if !scope.is_empty() {
        form.push(("scope", &scope));
    }
    ask(http, client, &form).await
}

/// The request's body, and its header where the client's secret goes there.
fn request(client: &Client, form: &[(&str, &str)]) -> (String, Option<HeaderValue>) {
    let mut encoded = form_urlencoded::Serializer::new(String::new());
    encoded.extend_pairs(form).append_pair("resource", &client.resource);
    let mut header = None;
    match &client.secret {
        Some(secret) if !client.secret_in_body => {
            // RFC 6749, section 2.3.1: both parts are form-encoded first.
            let part = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
            let pair = STANDARD.encode(format!("{}:{}", part(&client.id), part(secret)));
            header = HeaderValue::try_from(format!("Basic {pair}")).ok();
        }
        secret => {
            encoded.append_pair("client_id", &client.id);
            if let Some(secret) = secret {
                encoded.append_pair("client_secret", secret);
            }
        }
    }
    (encoded.finish(), header)
}

async fn ask(http: &Http, client: &Client, form: &[(&str, &str)]) -> Result<Tokens, Failed> {
    let url = client.token_endpoint.clone();
    let (form, header) = request(client, form);
    let mut ask = Ask::post(url.clone(), "application/x-www-form-urlencoded", form);
    ask.headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    if let Some(mut header) = header {
        header.set_sensitive(true);
        ask.headers.insert(AUTHORIZATION, header);
    }
    let whole = async {
        let response = http.send(ask).await?;
        let status = response.status();
        Ok::<_, RemoteError>((status, body(&url, response, LONGEST).await?))
    };
    let timeout = || RemoteError::Timeout { host: url.host_str().unwrap_or_default().into(), secs: PATIENCE.as_secs() };
    let (status, bytes) = tokio::time::timeout(PATIENCE, whole).await.map_err(|_| timeout())??;
    if !status.is_success() {
        return Err(match serde_json::from_slice::<Refusal>(&bytes) {
            Ok(refusal) => {
                let text = refusal.error_description.map(|text| format!(": {text}")).unwrap_or_default();
                Failed::Refused { why: super::clean(&format!("{}{text}", refusal.error)), code: Some(refusal.error) }
            }
            Err(_) => Failed::Refused { code: None, why: format!("its token endpoint answers with {status}") },
        });
    }
    tokens(&bytes).map_err(|why| Failed::Refused { code: None, why })
}

fn tokens(bytes: &[u8]) -> Result<Tokens, String> {
    // What it says is secret: serde's words of it are not shown.
    let answer: Answer =
        serde_json::from_slice(bytes).map_err(|_| "its token endpoint's answer has no token".to_owned())?;
    if !answer.token_type.eq_ignore_ascii_case("bearer") {
        return Err(format!("its tokens are of the kind {}, not Bearer", super::clean(&answer.token_type)));
    }
    let plain = |token: &str| !token.is_empty() && token.bytes().all(|c| (0x21..0x7f).contains(&c));
    if !plain(&answer.access_token) {
        return Err("its token cannot stand in a header".into());
    }
    let secs = answer.expires_in.and_then(|secs| secs.as_i64().or_else(|| secs.as_f64().map(|secs| secs as i64)));
    let life = secs.map(|secs| SignedDuration::from_secs(secs.clamp(0, 10 * 365 * 86_400)));
    Ok(Tokens {
        access: answer.access_token,
        refresh: answer.refresh_token.filter(|token| !token.is_empty()),
        expires: life.and_then(|life| Timestamp::now().checked_add(life).ok()),
        scope: answer.scope.map(|scope| super::clean(&scope)),
    })
}

#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(bytes: &[u8]) {
    let Ok(found) = tokens(bytes) else { return };
    assert!(!found.access.is_empty() && found.access.bytes().all(|c| c.is_ascii_graphic()));
    assert!(HeaderValue::from_str(&format!("Bearer {}", found.access)).is_ok());
    assert!(found.refresh.as_ref().is_none_or(|refresh| !refresh.is_empty()));
    assert!(found.scope.as_ref().is_none_or(|scope| !scope.chars().any(char::is_control)));
    assert!(found.access.len() < 12 || !format!("{found:?}").contains(&found.access));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bearer_token_that_a_header_can_carry_is_taken() {
        let good =
            tokens(br#"{"access_token":"hunter2","token_type":"bearer","expires_in":3600,"scope":"a"}"#).unwrap();
        assert!(good.expires.is_some_and(|at| at > Timestamp::now() + SignedDuration::from_secs(3500)));
        assert!(!format!("{good:?}").contains("hunter2"));
        let float = tokens(br#"{"access_token":"a","token_type":"Bearer","expires_in":60.5}"#).unwrap();
        assert!(float.expires.is_some());
        for bad in [
            r#"{"access_token":"a","token_type":"mac"}"#,
            r#"{"access_token":"a\r\nb: c","token_type":"Bearer"}"#,
            r#"{"access_token":"","token_type":"Bearer"}"#,
            r#"{"token_type":"Bearer"}"#,
            "",
        ] {
            assert!(tokens(bad.as_bytes()).is_err(), "{bad}");
        }
        let forever = tokens(br#"{"access_token":"a","token_type":"Bearer","expires_in":99999999999999}"#).unwrap();
        assert!(forever.expires.is_some());
    }
}
