//! One request and its answer over HTTP/1.1, to where the definition reaches and nowhere else.
//!
//! Invariants: each new connection is to an address that was judged for it; a redirect is followed
//! only within the origin, so that what was meant for one is never told another; an answer's body
//! is read only as far as its reader asks.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue, LOCATION, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use url::Url;

use super::RemoteError;
use super::address::{self, Lookup};
use super::tls::Trust;
use crate::admission::Reachable;

/// For a connection and its TLS.
const CONNECT: Duration = Duration::from_secs(10);
const MOST_REDIRECTS: usize = 3;
/// Connections that are kept for the next request.
const KEPT: usize = 8;
const AGENT: &str = concat!("lazaret/", env!("CARGO_PKG_VERSION"));

#[derive(Debug, Clone)]
pub struct Ask {
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Ask {
    pub fn get(url: Url) -> Self {
        Self { method: Method::GET, url, headers: HeaderMap::new(), body: Bytes::new() }
    }

    pub fn post(url: Url, kind: &'static str, body: impl Into<Bytes>) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        Self { method: Method::POST, url, headers, body: body.into() }
    }
}

type Sender = SendRequest<Full<Bytes>>;

pub struct Http {
    reachable: Reachable,
    lookup: Lookup,
    tls: Trust,
    /// Each with its origin.
    idle: Mutex<Vec<(String, Sender)>>,
}

impl Http {
    pub(super) fn new(reachable: Reachable, lookup: Lookup, tls: Trust) -> Self {
        Self { reachable, lookup, tls, idle: Mutex::default() }
    }

    pub fn reachable(&self) -> Reachable {
        self.reachable
    }

    /// Returns with the answer's head. How long that may take is for the caller to say.
    pub async fn send(&self, mut ask: Ask) -> Result<Response<Incoming>, RemoteError> {
        for _hop in 0..=MOST_REDIRECTS {
            let response = self.once(&ask).await?;
            let Some(to) = redirect(&ask, &response)? else { return Ok(response) };
            ask.url = to;
        }
        let host = host(&ask.url);
        Err(RemoteError::Broken { host, cause: format!("more than {MOST_REDIRECTS} redirects"), sent: false })
    }

    async fn once(&self, ask: &Ask) -> Result<Response<Incoming>, RemoteError> {
        let origin = ask.url.origin().ascii_serialization();
        let mut request = request(ask)?;
        while let Some(mut kept) = self.kept(&origin) {
            match kept.try_send_request(request).await {
                Ok(response) => {
                    self.keep(origin, kept);
                    return Ok(response);
                }
                // It ended while it was idle: nobody has seen the request.
                Err(mut e) => match e.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(broken(&ask.url, e.into_error())),
                },
            }
        }
        let mut fresh = self.connect(&ask.url).await?;
        match fresh.try_send_request(request).await {
            Ok(response) => {
                self.keep(origin, fresh);
                Ok(response)
            }
            Err(mut e) => {
                let sent = e.take_message().is_none();
                Err(RemoteError::Broken { host: host(&ask.url), cause: chain(&e.into_error()), sent })
            }
        }
    }

    fn kept(&self, origin: &str) -> Option<Sender> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(_, sender)| !sender.is_closed());
        let at = idle.iter().position(|(its, sender)| its == origin && sender.is_ready())?;
        Some(idle.swap_remove(at).1)
    }

    /// It is ready again once its answer was read to the end, and closed where that was not done.
    fn keep(&self, origin: String, sender: Sender) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() >= KEPT {
            idle.remove(0);
        }
        idle.push((origin, sender));
    }

    async fn connect(&self, url: &Url) -> Result<Sender, RemoteError> {
        let addresses = address::resolve(url, self.reachable, &self.lookup).await?;
        let mut error = None;
        for address in addresses {
            let failed = |cause: String| RemoteError::Connect { host: host(url), cause };
            let opened = async {
                let stream = TcpStream::connect(address)
                    .await
                    .map_err(|e| failed(format!("{} does not answer: {e}", address.ip())))?;
                let _ = stream.set_nodelay(true);
                if url.scheme() == "http" {
                    return self.handshake(url, stream).await;
                }
                let untrusted = |cause: String| RemoteError::Tls { host: host(url), cause };
                let name = ServerName::try_from(host(url).trim_matches(['[', ']']).to_owned())
                    .map_err(|e| untrusted(e.to_string()))?;
                let connector = tokio_rustls::TlsConnector::from(self.tls.config().map_err(untrusted)?);
                let stream = connector.connect(name, stream).await.map_err(|e| untrusted(e.to_string()))?;
                self.handshake(url, stream).await
            };
            match tokio::time::timeout(CONNECT, opened).await {
                Ok(Ok(sender)) => return Ok(sender),
                Ok(Err(e)) => error = Some(e),
                Err(_) => {
                    error = Some(failed(format!("{} does not answer within {} s", address.ip(), CONNECT.as_secs())))
                }
            }
        }
        Err(error.unwrap_or_else(|| RemoteError::Connect { host: host(url), cause: "it has no address".into() }))
    }

    async fn handshake<S>(&self, url: &Url, stream: S) -> Result<Sender, RemoteError>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(url, e))?;
        // Ends with its sender; what breaks there shows in the answer.
        tokio::spawn(connection);
        Ok(sender)
    }
}

fn host(url: &Url) -> String {
    url.host_str().unwrap_or_default().to_owned()
}

fn broken(url: &Url, error: hyper::Error) -> RemoteError {
    RemoteError::Broken { host: host(url), cause: chain(&error), sent: true }
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn request(ask: &Ask) -> Result<Request<Full<Bytes>>, RemoteError> {
    let authority = &ask.url[url::Position::BeforeHost..url::Position::AfterPort];
    let target = &ask.url[url::Position::BeforePath..url::Position::AfterQuery];
    let mut request = Request::builder()
        .method(ask.method.clone())
        .uri(target)
        .header(HOST, authority)
        .header(USER_AGENT, AGENT)
        .body(Full::new(ask.body.clone()))
        .map_err(|e| RemoteError::Address { host: host(&ask.url), why: e.to_string() })?;
    request.headers_mut().extend(ask.headers.clone());
    Ok(request)
}

/// Where it is to be asked again: only within its own origin, and without becoming another method.
fn redirect(ask: &Ask, response: &Response<Incoming>) -> Result<Option<Url>, RemoteError> {
    let same_method = match response.status() {
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER => false,
        _ => return Ok(None),
    };
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let from = || ask.url.origin().ascii_serialization();
    let Some(to) = location.and_then(|location| ask.url.join(location).ok()) else { return Ok(None) };
    if to.origin() != ask.url.origin() {
        return Err(RemoteError::Redirect { from: from(), to: to.origin().ascii_serialization() });
    }
    if !same_method && ask.method != Method::GET {
        let cause = format!("it answers {} with {}", ask.method, response.status());
        return Err(RemoteError::Broken { host: host(&ask.url), cause, sent: true });
    }
    Ok(Some(to))
}

/// Whether the answer is of this media type.
pub fn is_type<B>(response: &Response<B>, kind: &str) -> bool {
    let value = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(kind)
}

/// All of an answer's body.
pub async fn body(url: &Url, response: Response<Incoming>, limit: usize) -> Result<Bytes, RemoteError> {
    match http_body_util::Limited::new(response.into_body(), limit).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(e) if e.downcast_ref::<http_body_util::LengthLimitError>().is_some() => {
            Err(RemoteError::TooLong { host: host(url), limit })
        }
        Err(e) => Err(RemoteError::Broken { host: host(url), cause: e.to_string(), sent: true }),
    }
}
