//! The daemon's side of `admin.sock`: who may call, what may be asked, how errors look.

use std::collections::HashSet;
use std::convert::Infallible;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, DefaultBodyLimit, FromRequest, Request};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::peer::{Caller, GROUP};
use super::routes;
use super::socket::{self, SocketError};
use super::types::{ErrorBody, ErrorKind, ErrorReply, Line, MAX_BODY};
use crate::config::Paths;
use crate::daemon::App;

/// Lines of long work that may wait for a slow reader before progress is dropped.
const LINES: usize = 256;

#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("the operators' socket failed: {0}; restart the daemon")]
    Serve(std::io::Error),
}

/// What a handler can reach.
pub(super) struct Api {
    pub app: Arc<App>,
    pub cancel: CancellationToken,
    /// Servers with a review, an approval or a removal under way: one at a time for each.
    busy: Mutex<HashSet<String>>,
}

/// Opens the socket; refuses to replace what is not a dead daemon's socket. Needs a tokio runtime.
pub fn bind(paths: &Paths) -> Result<UnixListener, ApiError> {
    Ok(socket::listen(&paths.admin_socket())?)
}

/// Serves until `cancel`.
pub async fn serve(app: Arc<App>, listener: UnixListener, cancel: CancellationToken) -> Result<(), ApiError> {
    let api = Arc::new(Api { app, cancel: cancel.clone(), busy: Mutex::default() });
    let service = router(routes::all().with_state(api)).into_make_service_with_connect_info::<Caller>();
    axum::serve(listener, service).with_graceful_shutdown(cancel.cancelled_owned()).await.map_err(ApiError::Serve)
}

/// The gate and the limits around the routes; a path that does not exist passes the gate too.
fn router(routes: Router) -> Router {
    routes
        .fallback(async || {
            Failure::new(ErrorKind::NotFound, "there is no such request; is the daemon of the same version?")
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(axum::middleware::from_fn(only_operators))
}

async fn only_operators(ConnectInfo(caller): ConnectInfo<Caller>, mut request: Request, next: Next) -> Response {
    match caller {
        Caller::Operator(operator) => {
            request.extensions_mut().insert(operator);
            next.run(request).await
        }
        Caller::Stranger { uid } => {
            tracing::warn!(uid, "a stranger knocked at the operators' socket");
            let who = uid.map_or_else(|| "a process without credentials".to_owned(), |uid| format!("uid {uid}"));
            Failure::new(
                ErrorKind::Forbidden,
                format!("cannot do this for {who}: only root and the group {GROUP} operate Lazaret; run it with sudo"),
            )
            .into_response()
        }
    }
}

/// A request that was not done, and why.
#[derive(Debug)]
pub(super) struct Failure(pub ErrorBody);

impl Failure {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(ErrorBody { kind, message: message.into() })
    }

    pub fn failed(error: impl std::fmt::Display) -> Self {
        Self::new(ErrorKind::Failed, error.to_string())
    }

    pub fn invalid(error: impl std::fmt::Display) -> Self {
        Self::new(ErrorKind::Invalid, error.to_string())
    }

    pub fn not_found(error: impl std::fmt::Display) -> Self {
        Self::new(ErrorKind::NotFound, error.to_string())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = match self.0.kind {
            ErrorKind::Forbidden => StatusCode::FORBIDDEN,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::Invalid => StatusCode::BAD_REQUEST,
            ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            ErrorKind::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, axum::Json(ErrorReply { error: self.0 })).into_response()
    }
}

pub(super) type Answer<T> = Result<axum::Json<T>, Failure>;

/// A JSON body whose mistakes are told in our own words.
pub(super) struct Input<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Input<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let bytes = Bytes::from_request(request, state).await.map_err(|e| {
            if e.status() == StatusCode::PAYLOAD_TOO_LARGE {
                Failure::new(
                    ErrorKind::TooLarge,
                    format!("cannot take the request: it is longer than {MAX_BODY} bytes"),
                )
            } else {
                Failure::invalid(format!("cannot take the request: {e}"))
            }
        })?;
        serde_json::from_slice(&bytes).map(Self).map_err(|e| Failure::invalid(format!("cannot read the request: {e}")))
    }
}

/// Database work, off the threads that serve.
pub(super) async fn blocking<T: Send + 'static>(
    api: &Arc<Api>,
    work: impl FnOnce(&App) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let app = api.app.clone();
    match tokio::task::spawn_blocking(move || work(&app)).await {
        Ok(done) => done,
        Err(e) => Err(Failure::failed(format!("the request broke off: {e}; see the daemon's log"))),
    }
}

/// One piece of long work on a server; dropped when it ends, however it ends.
pub(super) struct Busy {
    api: Arc<Api>,
    server: String,
}

impl Api {
    pub fn begin(self: &Arc<Self>, server: &str) -> Result<Busy, Failure> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if busy.insert(server.to_owned()) {
            return Ok(Busy { api: self.clone(), server: server.to_owned() });
        }
        Err(Failure::new(
            ErrorKind::Conflict,
            format!(
                "cannot start this for {server}: another review or decision on it is under way; try again when that has ended"
            ),
        ))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.api.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.server);
    }
}

/// Where long work says how far it is.
#[derive(Clone)]
pub(super) struct Reporter(mpsc::Sender<Bytes>);

impl Reporter {
    /// Dropped when the reader is slow or gone: progress is talk, the work goes on.
    pub fn step(&self, text: &str) {
        let _ = self.0.try_send(encode(&Line::Progress(text.to_owned())));
    }
}

fn encode(line: &impl Serialize) -> Bytes {
    let mut bytes = serde_json::to_vec(line).unwrap_or_default();
    bytes.push(b'\n');
    bytes.into()
}

/// Answers with NDJSON: progress lines, then `done` or `error`. The work runs to its end even when
/// the caller goes away, so that nothing is left half made.
pub(super) fn long_work<T, F>(work: impl FnOnce(Reporter) -> F) -> Response
where
    T: Serialize,
    F: Future<Output = Result<T, Failure>> + Send + 'static,
{
    let (lines, reader) = mpsc::channel(LINES);
    let work = work(Reporter(lines.clone()));
    tokio::spawn(async move {
        let end = match work.await.and_then(|value| serde_json::to_value(value).map_err(Failure::failed)) {
            Ok(value) => Line::Done(value),
            Err(Failure(body)) => Line::Error(body),
        };
        // The caller has gone: the result is in the records.
        let _ = lines.send(encode(&end)).await;
    });
    ndjson(reader)
}

/// A stream of JSON lines until every sender is dropped.
pub(super) fn ndjson(reader: mpsc::Receiver<Bytes>) -> Response {
    let stream = futures_util::stream::unfold(reader, async |mut reader| {
        let line = reader.recv().await?;
        Some((Ok::<_, Infallible>(line), reader))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(stream)).into_response()
}

pub(super) fn json_line(value: &impl Serialize) -> Bytes {
    encode(value)
}

#[cfg(test)]
mod tests;
