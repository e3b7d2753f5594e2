//! What ran before the daemon did, and what it must not forget.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{App, clients, write_down};
use crate::audit::{Entry, Kind, Outcome};
use crate::kernel::{EventKind, KernelEvent};

/// How often what is held is looked after, while anything is.
const LOOK: Duration = Duration::from_secs(1);

/// Treats the servers that run already. The verdicts are done when this returns; the events are for the records.
pub(super) fn take_stock(app: &App) -> Vec<KernelEvent> {
    let mut events = app.kernel.judge_running();
    let running_clients: Vec<&KernelEvent> = events.iter().filter(|event| event.kind == EventKind::Client).collect();
    if !running_clients.is_empty() {
        // Their configs may name what runs below them.
        running_clients.iter().for_each(|event| clients::learn_from(app, event));
        if let Err(e) = app.shadows.learn(&app.clients.current()) {
            tracing::error!("the kernel does not know the configs of the clients that run: {e}");
        }
        events.extend(app.kernel.judge_running());
    }
    events.retain(|event| event.kind != EventKind::Client);
    if !events.is_empty() {
        tracing::warn!(servers = events.len(), "MCP servers outside the door were running already");
    }
    let fresh: HashSet<u64> = events.iter().map(|event| event.shadow).collect();
    events.extend(forgotten(app).into_iter().filter(|event| !fresh.contains(&event.shadow)));
    events
}

fn forgotten(app: &App) -> Vec<KernelEvent> {
    app.shadows.forgotten().unwrap_or_else(|e| {
        tracing::error!("cannot look after the held processes: {e}");
        Vec::new()
    })
}

/// Keeps what is held still, and on record when the event of it was lost.
pub(super) async fn follow_held(app: Arc<App>, cancel: CancellationToken) {
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let looked = tokio::task::spawn_blocking({
            let app = app.clone();
            move || {
                let (lost, told) = app.kernel.lost_events();
                if lost > told {
                    app.shadows.look_again();
                    tell_of_lost(&app, lost, told);
                }
                forgotten(&app)
            }
        })
        .await;
        match looked {
            Ok(events) => write_down(&app, events).await,
            Err(e) => tracing::error!("looking after the held processes failed: {e}"),
        }
    }
}

/// Says once, whichever daemon it was that could not keep up, that the log has a gap.
fn tell_of_lost(app: &App, lost: u64, told: u64) {
    let count = lost - told;
    tracing::warn!(lost = count, "events of the kernel were lost; the verdicts stood all the same");
    let entry = Entry::new(Kind::Kernel, Outcome::Observed, "kernel")
        .reason(format!(
            "{count} events of the kernel are not on record: there was no room for them; the verdicts stood"
        ))
        .detail(serde_json::json!({"lost_events": count}));
    // Told again where it could not be written.
    if let Err(e) = app.audit.record(entry) {
        return tracing::error!("that events were lost cannot be written down: {e}");
    }
    if let Err(e) = app.kernel.told_of_lost(lost) {
        tracing::error!("{e}");
    }
}
