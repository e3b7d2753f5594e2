//! The logins that are kept: in the daemon's own state, which is root's alone, and shown to nobody.
//!
//! Invariants: a login is used only for the very definition that it was made for; one refresh at a
//! time for each server, because a refresh token may be good for one use only; what was rotated is
//! on disk before it is used.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::oauth::{self, Login, OAuthError, Tokens};
use super::{Http, RemoteError};
use crate::admission::{LaunchDefinition, OAuth, OAuthGrant, Remote, Server, pins};
use crate::store::{Record, Store};

/// A token that is good for less than this is refreshed first.
const SOON: SignedDuration = SignedDuration::from_secs(30);
/// A login that nobody finished is forgotten after this.
const PENDING: SignedDuration = SignedDuration::from_mins(15);

#[derive(Clone, Serialize, Deserialize)]
struct Kept {
    server: String,
    /// Digest of the definition.
    launch: String,
    client: oauth::Client,
    tokens: Tokens,
    since: Timestamp,
    by: String,
}

impl Record for Kept {
    const TABLE: &'static str = "remote_logins";
    fn key(&self) -> String {
        self.server.clone()
    }
}

/// What may be told of a login.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginView {
    pub logged_in: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// When its token ends; one that can be refreshed is, by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    #[serde(default)]
    pub refreshes: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
}

struct Pending {
    launch: String,
    login: Arc<Login>,
    since: Timestamp,
    by: String,
}

pub struct Credentials {
    store: Arc<Store>,
    pending: Mutex<HashMap<String, Pending>>,
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

type Result<T> = std::result::Result<T, OAuthError>;

fn stored<T>(done: std::result::Result<T, crate::store::StoreError>) -> Result<T> {
    done.map_err(|e| OAuthError::Store(e.to_string()))
}

fn wanted<'a>(server: &str, remote: &'a Remote) -> Result<&'a OAuth> {
    remote.oauth().ok_or_else(|| OAuthError::NotWanted { server: server.into() })
}

fn client_secret(oauth: &OAuth, env: &BTreeMap<String, String>) -> Result<Option<String>> {
    let Some(name) = &oauth.client_secret else { return Ok(None) };
    env.get(name).cloned().map(Some).ok_or_else(|| OAuthError::NoSecret(name.clone()))
}

impl Credentials {
    pub(super) fn new(store: Arc<Store>) -> Self {
        Self { store, pending: Mutex::default(), turns: Mutex::default() }
    }

    fn turn(&self, server: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.entry(server.to_owned()).or_default().clone()
    }

    /// The login for this very definition.
    fn kept(&self, server: &str, launch: &LaunchDefinition) -> Result<Option<Kept>> {
        let kept: Option<Kept> = stored(self.store.get(server))?;
        Ok(kept.filter(|kept| kept.launch == pins::launch_digest(launch)))
    }

    /// `None` where the definition wants no login.
    pub fn view(&self, server: &Server) -> Result<Option<LoginView>> {
        let Some(oauth) = server.launch.remote().and_then(Remote::oauth) else { return Ok(None) };
        let kept = self.kept(&server.name, &server.launch)?;
        let by_itself = oauth.grant == OAuthGrant::ClientCredentials;
        Ok(Some(match kept {
            Some(kept) => {
                let refreshes = by_itself || kept.tokens.refresh.is_some();
                let over = kept.tokens.expires.is_some_and(|until| until <= Timestamp::now());
                LoginView {
                    logged_in: refreshes || !over,
                    issuer: Some(kept.client.issuer),
                    since: Some(kept.since),
                    by: Some(kept.by),
                    until: kept.tokens.expires,
                    refreshes,
                    scope: kept.tokens.scope,
                }
            }
            None => LoginView {
                logged_in: false,
                issuer: oauth.issuer.clone(),
                since: None,
                by: None,
                until: None,
                refreshes: by_itself,
                scope: None,
            },
        }))
    }

    /// The URL for the person; the answer comes back to `redirect`.
    pub async fn begin(&self, http: &Http, server: &Server, redirect: &str, by: &str) -> Result<String> {
        let remote = server.launch.remote().ok_or_else(|| OAuthError::NotWanted { server: server.name.clone() })?;
        let oauth = wanted(&server.name, remote)?;
        let secret = client_secret(oauth, &server.launch.env)?;
        let login = oauth::begin(http, remote, secret, redirect).await?;
        let url = login.url.to_string();
        let launch = pins::launch_digest(&server.launch);
        let now = Timestamp::now();
        let pending = Pending { launch, login: Arc::new(login), since: now, by: by.into() };
        let mut all = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, other| now.duration_since(other.since) < PENDING);
        all.insert(server.name.clone(), pending);
        Ok(url)
    }

    /// Each answer is looked at once: a second one needs a login of its own.
    pub async fn finish(&self, http: &Http, server: &Server, answer: &str) -> Result<()> {
        let launch = pins::launch_digest(&server.launch);
        let pending = {
            let mut all = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            all.remove(&server.name)
        };
        let pending = pending
            .filter(|pending| pending.launch == launch && Timestamp::now().duration_since(pending.since) < PENDING)
            .ok_or(OAuthError::NotOurs("none was begun, or it was too long ago"))?;
        let tokens = oauth::finish(http, &pending.login, answer).await?;
        let turn = self.turn(&server.name);
        let _turn = turn.lock().await;
        self.keep(Kept {
            server: server.name.clone(),
            launch,
            client: pending.login.client.clone(),
            tokens,
            since: Timestamp::now(),
            by: pending.by,
        })
        .await
    }

    async fn keep(&self, kept: Kept) -> Result<()> {
        let store = self.store.clone();
        let done = tokio::task::spawn_blocking(move || store.put(&kept)).await;
        stored(done.map_err(|e| OAuthError::Store(e.to_string()))?)
    }

    /// Forgets the login; the definition stays.
    pub fn forget(&self, server: &str) -> Result<()> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).remove(server);
        stored(self.store.delete::<Kept>(server)).map(drop)
    }

    /// A token that is good now; another one than `stale`, which was refused.
    pub(in crate::remote) async fn token(
        &self,
        http: &Http,
        server: &str,
        launch: &LaunchDefinition,
        stale: Option<&str>,
    ) -> Result<String> {
        let Some(remote) = launch.remote() else { return Err(OAuthError::NotWanted { server: server.into() }) };
        let oauth = wanted(server, remote)?;
        let turn = self.turn(server);
        let _turn = turn.lock().await;
        let kept = self.kept(server, launch)?;
        let soon = Timestamp::now() + SOON;
        if let Some(kept) = &kept {
            let good = kept.tokens.expires.is_none_or(|until| until > soon);
            if good && stale != Some(kept.tokens.access.as_str()) {
                return Ok(kept.tokens.access.clone());
            }
        }
        let renewed = match (&kept, oauth.grant) {
            (_, OAuthGrant::ClientCredentials) => self.by_itself(http, server, launch, remote, oauth).await?,
            (None, _) => return Err(OAuthError::NoLogin { server: server.into() }),
            (Some(kept), _) => self.refreshed(http, kept).await?,
        };
        let access = renewed.tokens.access.clone();
        self.keep(renewed).await?;
        Ok(access)
    }

    async fn refreshed(&self, http: &Http, kept: &Kept) -> Result<Kept> {
        let over = |why: &str| OAuthError::Expired { server: kept.server.clone(), why: why.into() };
        match oauth::refresh(http, &kept.client, &kept.tokens).await {
            Ok(Some(tokens)) => Ok(Kept { tokens, ..kept.clone() }),
            Ok(None) => Err(over("its token has ended and cannot be refreshed")),
            Err(oauth::Failed::Refused { code: Some(code), why })
                if ["invalid_grant", "invalid_client", "unauthorized_client"].contains(&code.as_str()) =>
            {
                self.forget(&kept.server)?;
                Err(over(&why))
            }
            Err(failed) => Err(failed.into_error(&kept.client.issuer)),
        }
    }

    async fn by_itself(
        &self,
        http: &Http,
        server: &str,
        launch: &LaunchDefinition,
        remote: &Remote,
        oauth: &OAuth,
    ) -> Result<Kept> {
        let found = oauth::discover(http, remote).await?;
        let secret = client_secret(oauth, &launch.env)?;
        let methods = found.server.token_endpoint_auth_methods_supported.as_deref();
        let client = oauth::Client {
            issuer: found.server.issuer.clone(),
            token_endpoint: found.server.token_endpoint.clone(),
            resource: found.resource,
            id: oauth.client_id.clone().unwrap_or_default(),
            secret,
            secret_in_body: oauth::secret_in_body(methods),
        };
        let tokens = oauth::client_credentials(http, &client, &found.scopes)
            .await
            .map_err(|failed| failed.into_error(&client.issuer))?;
        let launch = pins::launch_digest(launch);
        Ok(Kept { server: server.into(), launch, client, tokens, since: Timestamp::now(), by: "daemon".into() })
    }
}

/// What a link asks for its token.
#[derive(Clone)]
pub struct Bearer {
    remotes: Arc<super::Remotes>,
    http: Arc<Http>,
    server: String,
    launch: Arc<LaunchDefinition>,
}

impl Bearer {
    /// `None` where the definition wants no login.
    pub fn of(remotes: &Arc<super::Remotes>, server: &Server) -> Option<Self> {
        let remote = server.launch.remote()?;
        remote.oauth()?;
        Some(Self {
            remotes: remotes.clone(),
            // A way of its own: nothing of a login shares a connection with a call.
            http: Arc::new(remotes.http(remote)),
            server: server.name.clone(),
            launch: Arc::new(server.launch.clone()),
        })
    }

    pub async fn token(&self, stale: Option<&str>) -> Result<String> {
        self.remotes.credentials.token(&self.http, &self.server, &self.launch, stale).await
    }
}

impl OAuthError {
    /// Whether a person has to log in before anything else helps.
    pub fn wants_login(&self) -> bool {
        matches!(self, Self::NoLogin { .. } | Self::Expired { .. } | Self::NotWanted { .. })
    }

    pub fn as_remote(&self) -> Option<&RemoteError> {
        match self {
            Self::Remote(error) => Some(error),
            _ => None,
        }
    }
}
