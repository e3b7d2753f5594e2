//! `lazaret connect`: stands between an MCP client on stdio and the daemon's socket.
//!
//! It proves the agent's key, then moves lines both ways unchanged, the client's behind the session's signature. It judges nothing: whoever
//! holds the key could speak to the socket without it. Invariants: only whole lines are written
//! to the client; every request of the client that it does not cancel is answered, by the daemon or, where that has gone,
//! by an error that says so.

mod link;
mod standing;
mod stdio;

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use self::standing::settle;

use self::link::Link;
use self::stdio::Stdio;
use super::envelope::{self, Limits, Message, Reply, RequestId};
use super::framing::Line;
use crate::identity::{Address, ChallengeError, IssuedToken, KeyError, KeySource, SourceName, TokenWish, delegation};

/// How long a daemon that restarts is waited for: at the start, and in the middle of a session.
const PATIENCE_START: Duration = Duration::from_secs(1);
const PATIENCE_AGAIN: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long answers that are still due are waited for once the client has ended its input.
const DRAIN: Duration = Duration::from_secs(2);
/// How long a client that cannot be served is told so, after its first request.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long its first request is waited for.
const FIRST_REQUEST: Duration = Duration::from_secs(10);

/// The code of errors that the connector answers with itself; it is in the range for implementations.
const CODE_UNAVAILABLE: i32 = -32000;
/// Bounds for reading what the client sends; the daemon has its own.
const LIMITS: Limits = Limits { max_message_bytes: 256 << 20, max_depth: 256 };

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("cannot reach Lazaret's daemon at {}: {source}; start it with `lazaret daemon` or `systemctl start lazaret`, and see `lazaret status`", socket.display())]
    Unreachable { socket: PathBuf, source: std::io::Error },
    #[error("Lazaret's daemon ended the connection and did not come back; see `lazaret status`")]
    Lost,
    #[error("the daemon refused the agent {agent}: {reason}; {next_step}")]
    Refused { agent: Address, reason: String, next_step: String },
    #[error("cannot connect as {agent}: {source}")]
    Challenge { agent: Address, source: ChallengeError },
    /// Each of these says what to do.
    #[error("cannot connect as {agent}: {source}")]
    Key { agent: Address, source: KeyError },
    #[error("cannot use the delegation {}: {cause}; name the file that `lazaret agent delegate --out` wrote", path.display())]
    Delegation { path: PathBuf, cause: String },
}

impl ConnectError {
    fn may_pass(&self) -> bool {
        let source = match self {
            Self::Unreachable { .. } | Self::Lost => return true,
            Self::Challenge { source, .. } => source,
            Self::Refused { .. } | Self::Key { .. } | Self::Delegation { .. } => return false,
        };
        // A daemon that starts listens before it answers.
        matches!(source, ChallengeError::Closed | ChallengeError::Io(_) | ChallengeError::TooSlow)
    }
}

/// Serves the client on stdin and stdout until it ends its input.
pub async fn run(
    agent: &Address,
    key: &SourceName,
    delegation: Option<&Path>,
    socket: &Path,
) -> Result<(), ConnectError> {
    let mut stdio = Stdio::open();
    match serve(agent, key, delegation, socket, &mut stdio).await {
        Ok(()) => Ok(()),
        Err(e) => {
            // Many clients hide standard error: the reason goes where they look as well.
            farewell(&mut stdio, &e.to_string()).await;
            Err(e)
        }
    }
}

/// Asks the daemon for a token: the key is proven as for a session, and there is none.
pub async fn token(
    agent: &Address,
    key: &SourceName,
    delegation: Option<&Path>,
    socket: &Path,
    wish: TokenWish,
) -> Result<IssuedToken, ConnectError> {
    let chain = delegation.map(read_chain).transpose()?.unwrap_or_default();
    let key = key.open().map_err(|source| ConnectError::Key { agent: agent.clone(), source })?;
    Link::ask_token(agent, &*key, &chain, socket, wish).await
}

async fn serve(
    agent: &Address,
    key: &SourceName,
    delegation: Option<&Path>,
    socket: &Path,
    stdio: &mut Stdio,
) -> Result<(), ConnectError> {
    let key = key.open().map_err(|source| ConnectError::Key { agent: agent.clone(), source })?;
    let mut link = connect(agent, &*key, delegation, socket, PATIENCE_START).await?;
    let client = Client::default();
    loop {
        match client.pump(&mut link, stdio).await {
            Finished::ClientLeft => return Ok(()),
            Finished::DaemonLeft => {}
        }
        client.fail_calls(stdio);
        if stdio.is_closed() {
            return Ok(());
        }
        link = match client.resume(agent, &*key, delegation, socket).await {
            Ok(link) => link,
            Err(e) => {
                client.fail_all(stdio, &e.to_string());
                return Err(e);
            }
        };
    }
}

async fn connect(
    agent: &Address,
    key: &dyn KeySource,
    delegation: Option<&Path>,
    socket: &Path,
    patience: Duration,
) -> Result<Link, ConnectError> {
    // Read each time: the parent may have written a new one since.
    let chain = delegation.map(read_chain).transpose()?.unwrap_or_default();
    let give_up = Instant::now() + patience;
    let mut pause = FIRST_PAUSE;
    loop {
        match Link::open(agent, key, &chain, socket).await {
            Err(e) if e.may_pass() && Instant::now() + pause < give_up => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            done => return done,
        }
    }
}

/// The hops of a file that `lazaret agent delegate` wrote.
pub fn read_chain(path: &Path) -> Result<Vec<String>, ConnectError> {
    let failed = |cause: String| ConnectError::Delegation { path: path.into(), cause };
    let mut text = String::new();
    // O_NONBLOCK: opening a FIFO must not hang.
    let file = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = file.map_err(|e| failed(e.to_string()))?;
    file.take(2 * delegation::MAX_CHAIN as u64).read_to_string(&mut text).map_err(|e| failed(e.to_string()))?;
    let chain = delegation::read_lines(&text);
    if chain.is_empty() { Err(failed("there is none in it".into())) } else { Ok(chain) }
}

enum Finished {
    ClientLeft,
    DaemonLeft,
}

/// What has to be known of the client's side to outlive a daemon.
#[derive(Default)]
struct Client {
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    /// Requests without an answer, by the key of their id.
    in_flight: HashMap<String, InFlight>,
    /// The client's `initialize`, once it was answered.
    initialize: Option<Vec<u8>>,
    initializing: Option<(String, Vec<u8>)>,
}

struct InFlight {
    id: RequestId,
    /// The request itself, where asking twice does no harm.
    again: Option<Vec<u8>>,
}

impl Client {
    /// Comes back to a daemon that went away, as if it had not.
    async fn resume(
        &self,
        agent: &Address,
        key: &dyn KeySource,
        delegation: Option<&Path>,
        socket: &Path,
    ) -> Result<Link, ConnectError> {
        let mut link = connect(agent, key, delegation, socket, PATIENCE_AGAIN).await?;
        let (initialize, again) = {
            let state = self.state.borrow();
            let again: Vec<_> = state.in_flight.values().filter_map(|request| request.again.clone()).collect();
            (state.initialize.clone(), again)
        };
        if let Some(line) = initialize {
            link.replay(&line).await.map_err(|_| ConnectError::Lost)?;
        }
        for line in again {
            link.split().1.send(&line).await.map_err(|_| ConnectError::Lost)?;
        }
        Ok(link)
    }

    /// Moves lines until one side ends.
    async fn pump(&self, link: &mut Link, stdio: &mut Stdio) -> Finished {
        let Stdio { input, output } = stdio;
        let (read, write) = link.split();
        let up = async {
            while let Some(line) = input.next().await {
                self.sent(&line);
                if write.send(&line).await.is_err() {
                    return Finished::DaemonLeft;
                }
            }
            // The client said all that it had to say; answers may still be due.
            let due = async {
                while !self.state.borrow().in_flight.is_empty() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let _late = tokio::time::timeout(DRAIN, due).await;
            Finished::ClientLeft
        };
        let down = async {
            loop {
                match read.next().await {
                    Ok(Some(Line::Text(line))) => {
                        self.received(&line);
                        if output.line(&line).is_err() {
                            return Finished::ClientLeft;
                        }
                    }
                    Ok(Some(Line::TooLong(_))) => {}
                    Ok(None) | Err(_) => return Finished::DaemonLeft,
                }
            }
        };
        tokio::select! {
            finished = up => finished,
            finished = down => finished,
        }
    }

    fn sent(&self, line: &[u8]) {
        match envelope::read(line, &LIMITS) {
            Ok(Message::Request { id, method, .. }) => {
                let mut state = self.state.borrow_mut();
                if method == "initialize" {
                    state.initializing = Some((id.key(), line.to_vec()));
                }
                let again = (method != "tools/call").then(|| line.to_vec());
                state.in_flight.insert(id.key(), InFlight { id, again });
            }
            // What the client cancelled is not answered, and nobody waits for it.
            Ok(Message::Notification { method, params: Some(params) }) if method == "notifications/cancelled" => {
                if let Some(id) = params.get("requestId").and_then(RequestId::read) {
                    self.state.borrow_mut().in_flight.remove(&id.key());
                }
            }
            _ => {}
        }
    }

    fn received(&self, line: &[u8]) {
        let Some(id) = envelope::reply_id(line) else { return };
        let mut state = self.state.borrow_mut();
        let key = id.key();
        state.in_flight.remove(&key);
        if let Some((_, line)) = state.initializing.take_if(|(initializing, _)| *initializing == key) {
            state.initialize = Some(line);
        }
    }

    /// Calls of tools are not repeated: they may have acted.
    fn fail_calls(&self, stdio: &mut Stdio) {
        let why =
            "Lazaret's daemon went away before it answered; whether the call took effect is not known. Try again.";
        self.fail(stdio, why, |request| request.again.is_none());
    }

    fn fail_all(&self, stdio: &mut Stdio, why: &str) {
        self.fail(stdio, why, |_| true);
    }

    fn fail(&self, stdio: &mut Stdio, why: &str, fails: impl Fn(&InFlight) -> bool) {
        let lost = self.state.borrow_mut().in_flight.extract_if(|_, request| fails(request)).collect::<Vec<_>>();
        for (_, request) in lost {
            refuse(stdio, &request.id, why);
        }
    }
}

fn refuse(stdio: &mut Stdio, id: &RequestId, why: &str) {
    let line = envelope::reply_line(Some(id), &Reply::error(CODE_UNAVAILABLE, why));
    // The client may have gone; then nobody is left to tell.
    let _gone = stdio.output.line(line.trim_end().as_bytes());
}

/// Answers what the client asks with the reason, for a moment: some ask a second way when the first fails.
async fn farewell(stdio: &mut Stdio, why: &str) {
    let mut patience = FIRST_REQUEST;
    while let Ok(Some(line)) = tokio::time::timeout(patience, stdio.input.next()).await {
        if let Ok(Message::Request { id, .. }) = envelope::read(&line, &LIMITS) {
            refuse(stdio, &id, why);
            patience = FAREWELL;
        }
    }
}

#[cfg(test)]
mod tests;
