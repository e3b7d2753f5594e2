//! One proven connection to the daemon.

use std::io;
use std::path::Path;

use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::{ConnectError, LIMITS};
use crate::identity::signed::LineSigner;
use crate::identity::{Address, ChallengeError, IssuedToken, KeySource, TokenWish, challenge};
use crate::proxy::envelope::{self, Message, RequestId};
use crate::proxy::framing::{Line, LineReader};
use crate::proxy::json::Json;

/// Answers of servers may be as long as the daemon allows, and a little more.
const LONGEST_LINE: usize = 1 << 30;
/// The id of an `initialize` that the client does not know of.
const REPLAY_ID: &str = "lazaret:reconnect";

pub(super) type Reader = LineReader<BufReader<OwnedReadHalf>>;

pub(super) struct Link {
    read: Reader,
    write: Writer,
}

/// Signs each line with the session's key and writes it.
pub(super) struct Writer {
    write: OwnedWriteHalf,
    signer: LineSigner,
}

impl Writer {
    pub(super) async fn send(&mut self, line: &[u8]) -> io::Result<()> {
        self.write.write_all(&self.signer.frame(line)).await
    }
}

impl Link {
    /// `chain` is that of a sub-agent; empty for a top agent.
    pub(super) async fn open(
        agent: &Address,
        key: &dyn KeySource,
        chain: &[String],
        socket: &Path,
    ) -> Result<Self, ConnectError> {
        let unreachable = |source| ConnectError::Unreachable { socket: socket.into(), source };
        let stream = UnixStream::connect(socket).await.map_err(unreachable)?;
        let (read, mut write) = stream.into_split();
        let mut read = BufReader::with_capacity(16 << 10, read);
        match challenge::present_delegated(&mut read, &mut write, agent, key, None, chain).await {
            Ok(session) => {
                let write = Writer { write, signer: session.signer };
                Ok(Self { read: LineReader::new(read, LONGEST_LINE), write })
            }
            Err(e) => Err(refused(agent, e)),
        }
    }

    /// In place of a session, a token for an HTTP client. `chain` is that of a sub-agent.
    pub(super) async fn ask_token(
        agent: &Address,
        key: &dyn KeySource,
        chain: &[String],
        socket: &Path,
        wish: TokenWish,
    ) -> Result<IssuedToken, ConnectError> {
        let unreachable = |source| ConnectError::Unreachable { socket: socket.into(), source };
        let (read, mut write) = UnixStream::connect(socket).await.map_err(unreachable)?.into_split();
        let mut read = BufReader::new(read);
        challenge::ask_token(&mut read, &mut write, agent, key, wish, chain).await.map_err(|e| refused(agent, e))
    }

    pub(super) fn split(&mut self) -> (&mut Reader, &mut Writer) {
        (&mut self.read, &mut self.write)
    }

    /// Says to a new daemon what the client said to the former one; the client hears nothing of it.
    pub(super) async fn replay(&mut self, initialize: &[u8]) -> io::Result<()> {
        let Ok(Message::Request { method, params, .. }) = envelope::read(initialize, &LIMITS) else { return Ok(()) };
        let Some(id) = RequestId::read(&Json::string(REPLAY_ID)) else { return Ok(()) };
        let request = envelope::request_line(&id, &method, &params.unwrap_or(Json::Null));
        self.write.send(request.trim_end().as_bytes()).await?;
        loop {
            match self.read.next().await? {
                Some(Line::Text(line)) if envelope::reply_id(&line).as_ref() == Some(&id) => break,
                Some(_) => {}
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let ready = envelope::notification_line("notifications/initialized", None);
        self.write.send(ready.trim_end().as_bytes()).await
    }
}

fn refused(agent: &Address, why: ChallengeError) -> ConnectError {
    let agent = agent.clone();
    match why {
        ChallengeError::Refused { reason, next_step } => ConnectError::Refused { agent, reason, next_step },
        source => ConnectError::Challenge { agent, source },
    }
}
