//! Listens for what the server says by itself: that its tools changed, above all.
//!
//! It is advice: where there is no such stream, the comparison that comes before a call finds the same.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::Response;
use hyper::StatusCode;
use hyper::body::Incoming as Body;

use super::{UpstreamError, Wire};
use crate::proxy::envelope::{self, RequestId};
use crate::proxy::json::Json;
use crate::proxy::versions;
use crate::remote::is_type;

const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// A stream that held for this long ended for a reason of its own.
const STABLE: Duration = Duration::from_secs(30);

impl Wire {
    /// Begins when the server is ready, and ends when it has no such stream.
    pub(super) async fn listen_on(self: Arc<Self>) {
        self.listens.notified().await;
        let (mut last, mut pause) = (None::<String>, SHORTEST);
        for turn in 0u64.. {
            let opened = Instant::now();
            let response =
                if self.is_stateless() { self.subscribe(turn).await } else { self.get(last.as_deref()).await };
            match response {
                Ok(response) if response.status().is_success() && is_type(&response, "text/event-stream") => {
                    if let Ok(stop) = self.events(None, response).await {
                        last = stop.last_id.or(last);
                        pause = stop.retry.map_or(pause, |retry| retry.max(SHORTEST));
                    }
                }
                Ok(response) if !is_passing(response.status()) => return,
                Ok(_) => {}
                Err(error) => tracing::debug!("a remote server cannot be listened to: {error}"),
            }
            pause = if opened.elapsed() >= STABLE { SHORTEST } else { pause };
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST);
        }
    }

    /// 2026-07-28: asked for by a request that is never answered.
    async fn subscribe(&self, turn: u64) -> Result<Response<Body>, UpstreamError> {
        let wishes = ["toolsListChanged", "promptsListChanged", "resourcesListChanged"];
        let params = Json::object([
            ("_meta", versions::request_meta()),
            ("notifications", Json::object(wishes.map(|wish| (wish, Json::Bool(true))))),
        ]);
        // No number: those are the calls'.
        let id = RequestId::read(&Json::string(format!("listen-{turn}"))).unwrap_or_else(|| RequestId::number(0));
        let method = "subscriptions/listen";
        self.post(method, None, &Default::default(), envelope::request_line(&id, method, &params)).await
    }
}

fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}
