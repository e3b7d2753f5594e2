//! Whether a server still answers at all: one that does not is ended, and the next call starts it anew.
//!
//! It is asked with MCP's `ping` when it has been silent for long and nobody waits for it, and at
//! once when a call waited in vain. Any answer will do, and so will any other message.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::Upstream;
use super::calls::Calls;
use crate::proxy::envelope::{self, RequestId};
use crate::proxy::json::Json;
use crate::proxy::versions;

/// Runs until the server has ended.
pub(super) async fn watch(upstream: Weak<Upstream>, calls: Arc<Calls>) {
    let Some(limits) = upstream.upgrade().map(|upstream| upstream.limits) else { return };
    loop {
        let before = calls.heard();
        let silence = async {
            match limits.ping_after {
                Duration::ZERO => std::future::pending().await,
                pause => tokio::time::sleep(pause).await,
            }
        };
        tokio::select! {
            biased;
            _end = calls.ended() => return,
            () = calls.doubted() => {}
            () = silence => {
                let busy = upstream.upgrade().is_some_and(|upstream| upstream.idle().is_none());
                if busy || calls.heard() != before {
                    continue;
                }
            }
        }
        let Some(upstream) = upstream.upgrade() else { return };
        tokio::select! {
            biased;
            _end = calls.ended() => return,
            answers = upstream.answers() => if !answers {
                let why = format!("it did not answer a ping within {} s", limits.ping_timeout.as_secs());
                calls.finish(&why, &upstream.stderr.tail(super::LAST_WORDS));
                return;
            }
        }
    }
}

impl Upstream {
    /// Whether anything comes from it within the time for that. It counts as no use of the server.
    async fn answers(&self) -> bool {
        let before = self.calls.heard();
        // Its end is the news of others.
        let Ok(mut call) = self.calls.open(None) else { return true };
        let ping = match self.wire.as_ref().is_some_and(|wire| wire.is_stateless()) {
            true => ("server/discover", Json::object([("_meta", versions::request_meta())])),
            false => ("ping", Json::object::<&str>([])),
        };
        let ping = envelope::request_line(&RequestId::number(call.id()), ping.0, &ping.1);
        // Where it does not read its input, it may still speak.
        let _stuck = self.send(call.line(ping));
        let answered = tokio::time::timeout(self.limits.ping_timeout, call.answer()).await.is_ok();
        answered || self.calls.heard() != before
    }
}
