//! Keeps the kernel's knowledge of remote MCP servers current.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::App;
use crate::kernel::endpoints::{self, Endpoints, Found};

/// Names are looked up again after so long.
const REFRESH: Duration = Duration::from_secs(60);

/// Gives the kernel each address that an entry of a client config leads to.
pub(super) async fn follow(app: Arc<App>, mut known: Endpoints, cancel: CancellationToken) {
    let mut scans = app.clients.subscribe();
    loop {
        let names = known.names();
        let found = if names.is_empty() { None } else { Some(look_up(names)) };
        let refreshed = async {
            match found {
                Some(found) => found.await.unwrap_or_default(),
                None => std::future::pending().await,
            }
        };
        tokio::pin!(refreshed);
        let mut again = Box::pin(tokio::time::sleep(REFRESH));
        let mut waiting = true;
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                found = &mut refreshed, if waiting => {
                    waiting = false;
                    known.found(found, Instant::now());
                    write(&app, &known);
                }
                changed = scans.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    known.learn(&scans.borrow_and_update());
                    write(&app, &known);
                    break;
                }
                () = &mut again => break,
            }
        }
    }
}

fn write(app: &App, known: &Endpoints) {
    if let Err(e) = app.kernel.set_endpoints(&known.addresses()) {
        tracing::error!("the kernel does not know the newest remote servers: {e}");
    }
}

/// On a thread of its own, which nobody waits for when the daemon ends: a resolver may take long.
fn look_up(names: Vec<(String, u16)>) -> oneshot::Receiver<Found> {
    let (sender, receiver) = oneshot::channel();
    let started = std::thread::Builder::new().name("resolver".into()).spawn(move || {
        let _ = sender.send(endpoints::look_up(names)); // a newer scan may have come
    });
    if let Err(e) = started {
        tracing::error!("names of remote servers are not looked up: {e}");
    }
    receiver
}
