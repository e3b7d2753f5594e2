//! One proven connection to the daemon.

use std::io;
use std::path::Path;

use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::{ConnectError, LIMITS};
use crate::identity::{Address, AgentKey, ChallengeError, challenge};
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
    write: OwnedWriteHalf,
}

impl Link {
    pub(super) async fn open(agent: &Address, key: &AgentKey, socket: &Path) -> Result<Self, ConnectError> {
        let unreachable = |source| ConnectError::Unreachable { socket: socket.into(), source };
        let stream = UnixStream::connect(socket).await.map_err(unreachable)?;
        let (read, mut write) = stream.into_split();
        let mut read = BufReader::with_capacity(16 << 10, read);
        match challenge::present(&mut read, &mut write, agent, key, None).await {
            Ok(_session) => Ok(Self { read: LineReader::new(read, LONGEST_LINE), write }),
            Err(ChallengeError::Refused { reason, next_step }) => {
                Err(ConnectError::Refused { agent: agent.clone(), reason, next_step })
            }
            Err(source) => Err(ConnectError::Challenge { agent: agent.clone(), source }),
        }
    }

    pub(super) fn split(&mut self) -> (&mut Reader, &mut OwnedWriteHalf) {
        (&mut self.read, &mut self.write)
    }

    /// Says to a new daemon what the client said to the former one; the client hears nothing of it.
    pub(super) async fn replay(&mut self, initialize: &[u8]) -> io::Result<()> {
        let Ok(Message::Request { method, params, .. }) = envelope::read(initialize, &LIMITS) else { return Ok(()) };
        let Some(id) = RequestId::read(&Json::string(REPLAY_ID)) else { return Ok(()) };
        let request = envelope::request_line(&id, &method, &params.unwrap_or(Json::Null));
        send(&mut self.write, request.trim_end().as_bytes()).await?;
        loop {
            match self.read.next().await? {
                Some(Line::Text(line)) if envelope::reply_id(&line).as_ref() == Some(&id) => break,
                Some(_) => {}
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let ready = envelope::notification_line("notifications/initialized", None);
        send(&mut self.write, ready.trim_end().as_bytes()).await
    }
}

/// Writes one line and its end.
pub(super) async fn send(write: &mut OwnedWriteHalf, line: &[u8]) -> io::Result<()> {
    let mut whole = Vec::with_capacity(line.len() + 1);
    whole.extend_from_slice(line);
    whole.push(b'\n');
    write.write_all(&whole).await
}
