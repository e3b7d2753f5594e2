//! What servers wrote to their standard error, the last that ended included.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Hub;
use super::slots::{Holder, Key};
use crate::sandbox::StderrLog;

/// Containers of a server that are remembered after their end, and bytes of each one's words.
const KEPT: usize = 2;
const KEPT_BYTES: usize = 16 << 10;

/// The end of what one container's server wrote to its standard error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerLog {
    pub container: String,
    /// The agent, or its session, that had it for itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
    pub running: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
    /// Oldest first.
    pub lines: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    pub at: Timestamp,
    pub why: String,
}

struct Past {
    holder: Holder,
    container: String,
    stderr: StderrLog,
    ended: Ended,
}

/// The words of containers that are gone.
#[derive(Default)]
pub(super) struct Logs(Mutex<HashMap<String, VecDeque<Past>>>);

impl Logs {
    fn past(&self) -> MutexGuard<'_, HashMap<String, VecDeque<Past>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a container that ends. What it still writes is seen too, until [`Logs::shrink`].
    pub fn keep(&self, key: &Key, container: &str, stderr: &StderrLog, why: String) {
        let mut past = self.past();
        let of_server = past.entry(key.server.clone()).or_default();
        let ended = Ended { at: Timestamp::now(), why };
        let container = container.to_owned();
        of_server.push_back(Past { holder: key.holder.clone(), container, stderr: stderr.clone(), ended });
        while of_server.len() > KEPT {
            of_server.pop_front();
        }
    }

    pub fn forget(&self, server: &str) {
        self.past().remove(server);
    }
}

/// For a container that is gone: from then on its words take little memory.
pub(super) fn shrink(stderr: &StderrLog) {
    stderr.shrink(KEPT_BYTES);
}

fn shown(holder: &Holder) -> Option<String> {
    (*holder != Holder::Everybody).then(|| holder.to_string())
}

impl Hub {
    /// The last lines of a server's containers: of those that ended last, then of those that run.
    pub fn logs(&self, server: &str, lines: usize) -> Vec<ContainerLog> {
        let of_past = |past: &Past| ContainerLog {
            container: past.container.clone(),
            holder: shown(&past.holder),
            running: false,
            ended: Some(past.ended.clone()),
            lines: past.stderr.tail(lines),
        };
        let mut logs: Vec<ContainerLog> = self.logs.past().get(server).into_iter().flatten().map(of_past).collect();
        for slot in self.slots.of_server(server) {
            if let Some(running) = &slot.state().running {
                logs.push(ContainerLog {
                    container: running.upstream.container_id().to_owned(),
                    holder: shown(&slot.key.holder),
                    running: true,
                    ended: None,
                    lines: running.upstream.stderr().tail(lines),
                });
            }
        }
        logs
    }
}
