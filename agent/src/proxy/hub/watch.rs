//! Looks after one running server: ends it when its approval goes or nobody needs it.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::{Hub, Slot};
use crate::admission::Server;
use crate::audit::Outcome;
use crate::proxy::upstream::{Upstream, UpstreamError};

/// A server that says again and again that its tools changed is looked at no more often than this;
/// a call looks at once.
const RECHECK_PAUSE: Duration = Duration::from_secs(1);

/// Runs until the server has ended. Boxed, because it may start what starts it.
pub(super) fn watch(
    hub: Weak<Hub>,
    slot: Arc<Slot>,
    server: Server,
    upstream: Arc<Upstream>,
    idle_stop: Duration,
) -> BoxFuture<'static, ()> {
    look_after(hub, slot, server, upstream, idle_stop).boxed()
}

async fn look_after(hub: Weak<Hub>, slot: Arc<Slot>, server: Server, upstream: Arc<Upstream>, idle_stop: Duration) {
    let pin = server.review.as_ref().map(|review| review.pin.clone()).unwrap_or_default();
    let Some((mut admitted, mut tools)) = hub.upgrade().map(|hub| (hub.admission.changes(), upstream.tools_changed()))
    else {
        return;
    };
    let mut not_before = Instant::now();
    let why = loop {
        // Asked after subscribing, so that no change falls in between.
        match hub.upgrade() {
            Some(hub) if hub.approved(&server.name, &pin).is_ok() => {}
            Some(_) => break "stopped: its approval is gone".to_owned(),
            None => break "stopped: the daemon ends".to_owned(),
        }
        let pause = not_before.saturating_duration_since(Instant::now());
        let tools_changed = async {
            tokio::time::sleep(pause).await;
            tools.changed().await
        };
        let rest = upstream.idle().map_or(idle_stop, |idle| idle_stop.saturating_sub(idle));
        tokio::select! {
            biased;
            end = upstream.ended() => break said(&upstream, &end),
            changed = admitted.changed() => if changed.is_err() {
                break "stopped: the daemon ends".to_owned();
            },
            changed = tools_changed => match hub.upgrade() {
                // Compares the listing with the pin, and ends the server where they differ.
                Some(hub) if changed.is_ok() => {
                    // It goes on by itself where something else comes first.
                    tokio::select! {
                        biased;
                        _end = upstream.ended() => {}
                        _changed = admitted.changed() => admitted.mark_changed(),
                        _checked = hub.ready(slot.clone(), &server) => {}
                    }
                    not_before = Instant::now() + RECHECK_PAUSE;
                }
                // Its output has closed: what became of it is known in a moment.
                _ => break said(&upstream, &upstream.ended().await),
            },
            () = tokio::time::sleep(rest) => {
                if upstream.idle().is_some_and(|idle| idle >= idle_stop) {
                    break "stopped: it was idle".to_owned();
                }
            }
        }
    };
    let Some(hub) = hub.upgrade() else { return upstream.stop().await };
    hub.end(&slot, &upstream, &why).await;
    hub.slots.prune(&slot);
    tracing::info!(server = server.name, "{why}");
    let recorded = tokio::task::spawn_blocking(move || hub.record(&server, &slot, Outcome::Ok, &why, &upstream)).await;
    if let Ok(Err(e)) = recorded {
        tracing::error!("the end of a server could not be recorded: {e}");
    }
}

fn said(upstream: &Upstream, end: &UpstreamError) -> String {
    match end {
        UpstreamError::Ended { cause, .. } if upstream.was_stopped() => format!("stopped: {cause}"),
        end => end.to_string(),
    }
}
