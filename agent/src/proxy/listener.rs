//! `mcp.sock`: lets connectors in, one session each.
//!
//! Anybody on the host may connect; what gets one further is the challenge. A file at the socket's
//! path that is not a dead socket of ours is never touched.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::BufReader;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::door::Door;
use super::one_writer::OneWriter;
use super::session::{self, End};
use super::surroundings::ShownTo;
use crate::daemon::App;
use crate::identity::challenge::{self, Visitor};
use crate::identity::measure::Witness;
use crate::identity::{Peer, PeerProcess, Registry, SessionIdentity};

/// Connections at once; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 1024;
/// Connections at once that have not passed the challenge: strangers leave room for the agents.
/// Root is not counted. More are closed; a connector tries again.
const MAX_UNPROVEN: usize = 256;
/// Connections of one uid at once: none can shut out the others. More are closed.
const MAX_PER_UID: usize = 128;
/// Pause after an accept that failed, so that a lack of descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("cannot listen at {}: another daemon listens there; stop that one, or give this one its own --run-dir", path.display())]
    InUse { path: PathBuf },
    #[error("cannot listen at {}: {what} lies there and was left as it is; move it away, or choose another --run-dir", path.display())]
    Foreign { path: PathBuf, what: &'static str },
    #[error("cannot write {}: {source}; check that the directory is writable, or choose another --run-dir", path.display())]
    Publish { path: PathBuf, source: io::Error },
    #[error("cannot listen at {address}: {source}; choose another port under [http], or stop what listens there")]
    Http { address: std::net::SocketAddr, source: io::Error },
    #[error("cannot listen at {}: {source}; check that the directory exists and is writable, and that the path is shorter than 108 bytes", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// Takes the socket's place, for this daemon alone.
pub fn bind(path: &Path) -> Result<UnixListener, ListenError> {
    let failed = |source| ListenError::Io { path: path.into(), source };
    let foreign = |what| ListenError::Foreign { path: path.into(), what };
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed(e)),
        Ok(there) if !there.file_type().is_socket() => return Err(foreign("a file that is no socket")),
        Ok(there) => match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Err(ListenError::InUse { path: path.into() }),
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                let me = std::fs::metadata("/proc/self").map_err(failed)?.uid();
                if there.uid() != me {
                    return Err(foreign("another user's socket"));
                }
                std::fs::remove_file(path).map_err(failed)?;
            }
            Err(e) => return Err(failed(e)),
        },
    }
    let listener = UnixListener::bind(path).map_err(|e| match e.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse { path: path.into() },
        _ => failed(e),
    })?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).map_err(failed)?;
    Ok(listener)
}

/// Serves until `cancel`; sessions that are open then are ended.
pub async fn serve(app: Arc<App>, door: Arc<Door>, listener: UnixListener, cancel: CancellationToken) {
    let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let unproven = Arc::new(Semaphore::new(MAX_UNPROVEN));
    let crowd = Arc::new(Crowd::default());
    let mut sessions = JoinSet::new();
    loop {
        let next = async {
            let place = free.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        tokio::select! {
            () = cancel.cancelled() => break,
            Some(_ended) = sessions.join_next(), if !sessions.is_empty() => {}
            (place, accepted) = next => match accepted {
                Ok((stream, _)) => {
                    let peer = match stream.peer_cred() {
                        Ok(cred) => Peer { uid: cred.uid(), gid: cred.gid(), pid: cred.pid() },
                        Err(e) => {
                            tracing::error!("the kernel does not say who connects: {e}");
                            continue;
                        }
                    };
                    let Some(seat) = Crowd::join(&crowd, peer.uid) else {
                        tracing::warn!(uid = peer.uid, "a connection was closed: its uid has {MAX_PER_UID} already");
                        continue;
                    };
                    let newcomer = match (peer.uid, unproven.clone().try_acquire_owned()) {
                        (0, _) => None,
                        (_, Ok(newcomer)) => Some(newcomer),
                        (uid, Err(_)) => {
                            tracing::warn!(uid, "a connection was closed: {MAX_UNPROVEN} have not proven who they are");
                            continue;
                        }
                    };
                    let (app, door, cancel) = (app.clone(), door.clone(), cancel.clone());
                    sessions.spawn(async move {
                        let _until_it_ends = (place, seat);
                        connection(&app, door, stream, peer, newcomer, cancel).await;
                    });
                }
                Err(e) => {
                    tracing::error!("cannot accept a connection: {e}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    while sessions.join_next().await.is_some() {}
    // The sessions' calls were cut off; the log still has to hear of it.
    door.unfinished.close();
    door.unfinished.wait().await;
}

/// How many connections each uid has.
#[derive(Default)]
pub(super) struct Crowd(Mutex<HashMap<u32, usize>>);

pub(super) struct Seat {
    crowd: Arc<Crowd>,
    uid: u32,
}

impl Crowd {
    fn counts(&self) -> MutexGuard<'_, HashMap<u32, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn join(crowd: &Arc<Self>, uid: u32) -> Option<Seat> {
        let mut counts = crowd.counts();
        let count = counts.entry(uid).or_default();
        if *count >= MAX_PER_UID {
            return None;
        }
        *count += 1;
        Some(Seat { crowd: crowd.clone(), uid })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut counts = self.crowd.counts();
        if let Some(count) = counts.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.uid);
            }
        }
    }
}

/// `newcomer` is given back once the challenge is over.
async fn connection(
    app: &App,
    door: Arc<Door>,
    stream: UnixStream,
    peer: Peer,
    newcomer: Option<OwnedSemaphorePermit>,
    cancel: CancellationToken,
) {
    if let Err(e) = OneWriter::demand(&stream) {
        return tracing::error!("the kernel does not say who writes to a connection: {e}");
    }
    let process = PeerProcess::of(stream.as_fd(), peer);
    let (read, mut write) = stream.into_split();
    let pid = process.as_ref().map_or(0, PeerProcess::pid);
    let mut read = BufReader::with_capacity(16 << 10, OneWriter::new(read, pid));
    let accepted = tokio::select! {
        () = cancel.cancelled() => return,
        accepted = challenge::meet(&mut read, &mut write, peer, Some(&process), &app.daemon_key, &app.registry) => accepted,
    };
    drop(newcomer);
    let accepted = match accepted {
        Ok(Visitor::Agent(identity)) => Ok(*identity),
        Ok(Visitor::Hook(note)) => {
            // Who started it is worth something only while it still stands there.
            let above = process.as_ref().ok().filter(|process| process.check().is_ok()).map(PeerProcess::parents);
            match app.gates.hooks().note(peer.uid, note, above.unwrap_or_default(), Instant::now()) {
                Ok(()) => challenge::thank(&mut write).await,
                Err(why) => tracing::debug!(uid = peer.uid, "a hook's note was not taken: {why}"),
            }
            return;
        }
        Err(e) => Err(e),
    };
    let (identity, process) = match accepted.map_err(|e| e.to_string()).and_then(|identity| {
        // The challenge has refused whoever is none.
        process.map(|process| (identity, process)).map_err(|strange| strange.to_string())
    }) {
        Ok(both) => both,
        Err(e) => return tracing::info!(uid = peer.uid, pid = peer.pid, "a connection was refused: {e}"),
    };
    let agent = identity.address().clone();
    if identity.wish().is_some() {
        let (tokens, registry) = (app.tokens.clone(), app.registry.clone());
        let minted = tokio::task::spawn_blocking(move || tokens.mint(&registry, &identity)).await;
        return match minted {
            Ok(minted) => match challenge::issue(&mut write, minted).await {
                Ok(()) => tracing::debug!(%agent, uid = peer.uid, "a token was asked for"),
                Err(e) => tracing::info!(%agent, uid = peer.uid, "a token could not be handed over: {e}"),
            },
            Err(e) => tracing::error!(%agent, "issuing a token failed: {e}"),
        };
    }
    tracing::debug!(%agent, uid = peer.uid, pid = peer.pid, "connected");
    let shown = Arc::new(ShownTo::new(door.clone(), &identity));
    let identity = identity.witnessed(Arc::new(Witness::new(process, app.digests.clone(), shown)));
    measure(app.registry.clone(), identity.clone());
    match session::serve(door, identity, read, write, cancel).await {
        End::NotActive(why) => tracing::warn!(%agent, "a session was ended: {why}"),
        End::Broken(why) => tracing::debug!(%agent, "a session broke: {why}"),
        End::Left | End::Stopping => tracing::debug!(%agent, "disconnected"),
    }
}

/// Reads what the client is made of beside the session's first messages; a call that comes before that is done waits.
fn measure(registry: Arc<Registry>, identity: SessionIdentity) {
    tokio::task::spawn_blocking(move || {
        if let Err(e) = registry.measure(&identity) {
            tracing::error!(agent = %identity.address(), "a client's measurement is not on record: {e}");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_foreign_file_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mcp.sock");
        std::fs::write(&path, "precious").unwrap();
        let error = bind(&path).unwrap_err();
        assert!(matches!(error, ListenError::Foreign { .. }), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");

        let link = dir.path().join("link.sock");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(bind(&link), Err(ListenError::Foreign { .. })));
    }

    #[tokio::test]
    async fn a_second_daemon_is_refused_and_a_dead_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mcp.sock");
        let first = bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o666);
        assert!(matches!(bind(&path), Err(ListenError::InUse { .. })));
        drop(first);
        bind(&path).unwrap();
    }

    #[test]
    fn one_uid_cannot_shut_out_the_others() {
        let crowd = Arc::new(Crowd::default());
        let mut seats: Vec<_> = (0..MAX_PER_UID).map(|_| Crowd::join(&crowd, 7).unwrap()).collect();
        assert!(Crowd::join(&crowd, 7).is_none());
        assert!(Crowd::join(&crowd, 8).is_some());
        seats.pop();
        assert!(Crowd::join(&crowd, 7).is_some());
        seats.clear();
        assert!(crowd.counts().is_empty());
    }

    #[tokio::test]
    async fn a_path_that_cannot_be_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x".repeat(120));
        let error = bind(&path).unwrap_err().to_string();
        assert!(error.contains("xxx") && error.contains("108"), "{error}");
        assert!(bind(&dir.path().join("no/mcp.sock")).unwrap_err().to_string().contains("no/mcp.sock"));
    }
}
