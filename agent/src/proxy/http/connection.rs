//! Connections: how many there may be, whose each is, and how slow one may be.

use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::request::{PeerUid, handle};
use super::{Http, peer};
use crate::kernel::OpenDoor;
use crate::proxy::listener::Crowd;

/// Connections at once; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 512;
/// Lookups in the kernel's table of sockets at once: it may be long.
const MAX_LOOKUPS: usize = 4;
const MAX_HEAD: usize = 32 << 10;
const MAX_HEADERS: usize = 64;
/// Pause after an accept that failed, so that a lack of descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long answers that are under way are waited for at the end.
const FAREWELL: Duration = Duration::from_secs(1);

/// Serves until the daemon stops; then the tokens are worth nothing any more.
pub(super) async fn serve(http: Arc<Http>, listener: StdListener, way: Option<OpenDoor>) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(e) => return tracing::error!("HTTP is not served: {e}; restart the daemon"),
    };
    // Declared behind the listener: however this ends, the kernel lets nobody through to a port that is free again.
    let way = way;
    let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let lookups = Arc::new(Semaphore::new(MAX_LOOKUPS));
    let crowd = Arc::new(Crowd::default());
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let place = free.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        tokio::select! {
            () = http.cancel.cancelled() => break,
            Some(_ended) = connections.join_next(), if !connections.is_empty() => {}
            (place, accepted) = next => match accepted {
                Ok((stream, _)) => {
                    let (http, lookups, crowd) = (http.clone(), lookups.clone(), crowd.clone());
                    connections.spawn(async move {
                        let _until_it_ends = place;
                        connection(http, stream, lookups, crowd).await;
                    });
                }
                Err(e) => {
                    tracing::error!("cannot accept an HTTP connection: {e}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(way);
    drop(listener);
    http.tokens.end_all();
    while connections.join_next().await.is_some() {}
    http.tasks.close();
    http.tasks.wait().await;
    // The sessions' calls were cut off; the log still has to hear of it.
    http.door.unfinished.close();
    http.door.unfinished.wait().await;
}

async fn connection(http: Arc<Http>, stream: TcpStream, lookups: Arc<Semaphore>, crowd: Arc<Crowd>) {
    let Some(uid) = uid_of(&stream, &lookups).await else {
        return tracing::info!("an HTTP connection was closed: the kernel does not say whose it is");
    };
    let Some(_seat) = Crowd::join(&crowd, uid) else {
        return tracing::warn!(uid, "an HTTP connection was closed: its uid has too many already");
    };
    // Answers are written whole; waiting for more only makes them late.
    let _as_it_is = stream.set_nodelay(true);
    let (cancel, head) = (http.cancel.clone(), http.deadlines.head);
    let routes = Router::new().fallback(handle).layer(Extension(PeerUid(Some(uid)))).with_state(http);
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => Some(ended),
        () = cancel.cancelled() => {
            serving.as_mut().graceful_shutdown();
            tokio::time::timeout(FAREWELL, serving).await.ok()
        }
    };
    if let Some(Err(e)) = ended {
        tracing::debug!(uid, "an HTTP connection broke: {e}");
    }
}

async fn uid_of(stream: &TcpStream, lookups: &Semaphore) -> Option<u32> {
    let (client, server) = (stream.peer_addr().ok()?, stream.local_addr().ok()?);
    let _turn = lookups.acquire().await.ok()?;
    match tokio::task::spawn_blocking(move || peer::uid_of(client, server)).await {
        Ok(Ok(uid)) => uid,
        Ok(Err(e)) => {
            tracing::error!("the kernel's table of connections cannot be read: {e}");
            None
        }
        Err(e) => {
            tracing::error!("looking up a connection failed: {e}");
            None
        }
    }
}
