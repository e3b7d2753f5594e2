//! The door's HTTP transport: MCP over streamable HTTP on loopback, for clients that hold a token.
//!
//! Both eras are served at `/mcp`: 2025-11-25 and before with sessions, 2026-07-28 without. What a client says reaches
//! the very sessions that connectors have (`proxy/session.rs`), and with them the same envelope and gates. Invariants:
//! nothing of a request is acted on before its Host, its Origin and its token are judged, the last for the uid that
//! the kernel gives for the connection; a session is found only by the token that it was opened with; headers that
//! contradict the body are refused.

mod answer;
mod connection;
mod guard;
pub mod headers;
mod link;
mod peer;
mod request;
mod room;

use std::fs::{File, Permissions};
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::guard::Guard;
use self::room::Rooms;
use super::ListenError;
use super::door::Door;
use crate::config::{HTTP_URL_FILE, HttpConfig};
use crate::daemon::App;
use crate::identity::{Registry, Tokens};

/// Where it is served.
const PATH: &str = "/mcp";

/// The place that the door takes on loopback.
pub struct HttpListener {
    listener: TcpListener,
    address: SocketAddr,
}

impl HttpListener {
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What clients are given, and what tokens are for.
    pub fn url(&self) -> String {
        format!("http://{}{PATH}", self.address)
    }
}

pub fn bind(address: SocketAddr) -> Result<HttpListener, ListenError> {
    let failed = |source| ListenError::Http { address, source };
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok(HttpListener { listener, address })
}

/// Says where HTTP clients go, or that there is nothing, before any client config is read: an entry that names this
/// URL is no way around the door.
pub fn publish(run_dir: &Path, http: Option<&HttpListener>) -> Result<(), ListenError> {
    let path = run_dir.join(HTTP_URL_FILE);
    let absent = |e: io::Error| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) };
    // Made anew: what lies there may be a link.
    let published = std::fs::remove_file(&path).or_else(absent).and_then(|()| {
        let Some(http) = http else { return Ok(()) };
        let mut file = File::options().write(true).create_new(true).open(&path)?;
        file.set_permissions(Permissions::from_mode(0o644))?;
        writeln!(file, "{}", http.url())
    });
    published.map_err(|source| ListenError::Publish { path, source })
}

/// Serves until `cancel`, where there is something to serve.
pub async fn serve(app: Arc<App>, door: Arc<Door>, listener: Option<HttpListener>, cancel: CancellationToken) {
    let Some(listener) = listener else { return };
    let way = app.kernel.open_door(listener.address).unwrap_or_else(|e| {
        tracing::error!("{e}");
        None
    });
    if way.is_none() && app.kernel.refuses_http_below_clients() {
        tracing::warn!(
            "[kernel] connect_below_clients = \"enforce\" denies MCP clients this daemon's own HTTP too: this kernel cannot tell it from other servers; let them use `lazaret connect`"
        );
    }
    let http = Http::new(&listener, door, app.registry.clone(), app.tokens.clone(), &app.config.http, cancel);
    connection::serve(Arc::new(http), listener.listener, way).await;
}

/// What all requests share.
struct Http {
    door: Arc<Door>,
    registry: Arc<Registry>,
    tokens: Arc<Tokens>,
    guard: Guard,
    url: String,
    rooms: Rooms,
    deadlines: Deadlines,
    cancel: CancellationToken,
    /// Sessions, and what waits for the end of tokens.
    tasks: TaskTracker,
}

/// How slow a client may be.
#[derive(Debug, Clone, Copy)]
struct Deadlines {
    /// The head of a request, and how long a connection may stay without a request.
    head: Duration,
    body: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { head: Duration::from_secs(30), body: Duration::from_secs(30) }
    }
}

impl Http {
    fn new(
        listener: &HttpListener,
        door: Arc<Door>,
        registry: Arc<Registry>,
        tokens: Arc<Tokens>,
        config: &HttpConfig,
        cancel: CancellationToken,
    ) -> Self {
        Self {
            door,
            registry,
            tokens,
            guard: Guard::new(listener.address, config.allowed_origins.clone()),
            url: listener.url(),
            rooms: Rooms::default(),
            deadlines: Deadlines::default(),
            cancel,
            tasks: TaskTracker::new(),
        }
    }
}

/// The fuzz target of the guard.
#[cfg(any(test, fuzzing))]
pub fn fuzz_guard(text: &str) {
    guard::fuzz(text);
}

#[cfg(test)]
mod tests;
