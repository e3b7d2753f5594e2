//! The two tasks that move lines between the daemon and one cage.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{mpsc, watch};

use super::LAST_WORDS;
use super::calls::{Calls, Outgoing};
use crate::proxy::envelope::{self, Limits, Message, Reply};
use crate::proxy::framing::{Line, LineReader};
use crate::proxy::json::Json;
use crate::sandbox::{Allowance, CageExit, StderrLog};

/// How long Docker may take to say how a server ended after its output has.
const EXIT_NEWS: Duration = Duration::from_millis(500);

/// What a message that nobody asked for counts at least.
const LEAST_BYTES: u64 = 1 << 10;

/// Writes what is queued until the input is to be closed or the server does not take it.
pub(super) async fn write(
    mut queue: mpsc::Receiver<Outgoing>,
    mut stdin: Box<dyn AsyncWrite + Send + Unpin>,
    calls: Arc<Calls>,
) {
    let work = async {
        while let Some(line) = queue.recv().await {
            let written = async {
                let mut next = Some(line);
                while let Some(line) = next {
                    if line.fate.is_none_or(|fate| fate.write()) {
                        stdin.write_all(line.text.as_bytes()).await?;
                    }
                    next = queue.try_recv().ok();
                }
                stdin.flush().await
            };
            if let Err(e) = written.await {
                // The reader is about to see the end too, and knows more about it.
                tracing::debug!("a server does not take its input: {e}");
                return;
            }
        }
    };
    tokio::select! {
        () = work => {}
        () = calls.input_closed() => {}
    }
}

/// Where a server's messages go, however they come.
pub(super) struct Ears {
    pub calls: Arc<Calls>,
    pub changed: watch::Sender<u64>,
    pub bounds: Limits,
}

pub(super) struct Incoming {
    pub ears: Ears,
    pub exit: watch::Receiver<Option<CageExit>>,
    pub stderr: StderrLog,
}

impl Incoming {
    /// Reads until the server ends or breaks the rules; then no call is left waiting.
    pub(super) async fn read(mut self, stdout: Box<dyn AsyncRead + Send + Unpin>) {
        let mut lines = LineReader::new(stdout, self.ears.bounds.max_message_bytes);
        let mut unasked = Allowance::default();
        let cause = loop {
            match lines.next().await {
                Ok(Some(Line::Text(line))) => {
                    if !self.ears.take(&line) && !unasked.take(LEAST_BYTES.max(line.len() as u64)) {
                        break "it floods its output with messages that nobody asked for".into();
                    }
                }
                Ok(Some(Line::TooLong(_))) => {
                    break format!("it sent a message of more than {} bytes", self.ears.bounds.max_message_bytes);
                }
                Ok(None) => break self.exit_cause().await,
                Err(e) if e.kind() == std::io::ErrorKind::QuotaExceeded => break e.to_string(),
                Err(e) => break format!("its output cannot be read: {e}"),
            }
        };
        self.ears.calls.finish(&cause, &self.stderr.tail(LAST_WORDS));
        self.ears.calls.close_output();
        self.ears.calls.close_input();
    }

    async fn exit_cause(&mut self) -> String {
        let news = self.exit.wait_for(Option::is_some);
        let exit = match tokio::time::timeout(EXIT_NEWS, news).await {
            Ok(Ok(exit)) => *exit,
            _ => None,
        };
        match exit {
            Some(CageExit { out_of_memory: true, .. }) => "it ran out of memory ([sandbox] memory_bytes)".into(),
            Some(CageExit { code: Some(code), .. }) => format!("it exited with code {code}"),
            _ => "it closed its output".into(),
        }
    }
}

impl Ears {
    /// Whether somebody waited for it.
    pub(super) fn take(&self, line: &[u8]) -> bool {
        self.take_on(None, line)
    }

    /// The same of what came on the stream of one call.
    pub(super) fn take_on(&self, call: Option<u64>, line: &[u8]) -> bool {
        if line.iter().all(u8::is_ascii_whitespace) {
            return false;
        }
        let message = envelope::read(line, &self.bounds);
        if message.is_ok() {
            self.calls.hear();
        }
        match message {
            Ok(Message::Response { id, reply }) => {
                if self.calls.complete(&id, Ok(reply)) {
                    return true;
                }
                tracing::debug!("a server answered {}, which nobody waits for", id.as_json());
            }
            Ok(Message::Notification { method, params }) => match (method.as_str(), params) {
                ("notifications/progress", Some(params)) => self.calls.progress(params),
                ("notifications/message", Some(params)) => self.calls.message(call, params),
                (
                    "notifications/tools/list_changed"
                    | "notifications/prompts/list_changed"
                    | "notifications/resources/list_changed",
                    _,
                ) => self.changed.send_modify(|n| *n += 1),
                _ => tracing::trace!("a server notified {method}"),
            },
            Ok(Message::Request { id, method, .. }) => {
                let reply = match method.as_str() {
                    "ping" => Reply::Result(Json::object::<&str>([])),
                    _ => Reply::error(
                        envelope::METHOD_NOT_FOUND,
                        format!(
                            "{method} was not offered by this client; a server behind the door may ask its callers for nothing"
                        ),
                    ),
                };
                self.calls.tell(envelope::reply_line(Some(&id), &reply));
            }
            Err(malformed) => {
                // Servers do print to their output what belongs to their standard error.
                tracing::debug!("a server sent a line that is no message: {malformed}");
                if let Some(id) = &malformed.id {
                    let error =
                        super::UpstreamError::Protocol { method: "a request".into(), cause: malformed.message.clone() };
                    return self.calls.complete(id, Err(error));
                }
            }
        }
        false
    }
}
