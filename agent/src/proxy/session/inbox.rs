//! Where the messages of a session come from: lines of a stream, or a transport that has read them already.

use std::io;

use tokio::io::AsyncRead;
use tokio::sync::mpsc;

use crate::identity::signed::{self, BadLine, CallSignature, LineVerifier};
use crate::proxy::envelope::{self, Limits, Malformed, Message};
use crate::proxy::framing::{Line, LineReader};

pub(super) enum Inbox<R> {
    /// `None`: lines of this session are not signed.
    Lines(LineReader<R>, Option<Box<LineVerifier>>, Limits),
    Messages(mpsc::Receiver<Message>),
}

pub(super) struct Heard {
    /// Or why there is none in it.
    pub message: Result<Message, Malformed>,
    pub signature: Option<CallSignature>,
}

impl<R: AsyncRead + Unpin> Inbox<R> {
    pub(super) fn lines(source: R, verifier: Option<LineVerifier>, limits: Limits) -> Self {
        let header = if verifier.is_some() { signed::MAX_HEADER } else { 0 };
        Self::Lines(LineReader::new(source, limits.max_message_bytes + header), verifier.map(Box::new), limits)
    }

    /// What comes next; `None` at the end. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> io::Result<Option<Result<Heard, BadLine>>> {
        match self {
            Self::Messages(messages) => {
                Ok(messages.recv().await.map(|message| Ok(Heard { message: Ok(message), signature: None })))
            }
            Self::Lines(lines, verifier, limits) => loop {
                let Some(line) = lines.next().await? else { return Ok(None) };
                let (line, signature) = match unwrap(verifier, line) {
                    Ok(opened) => opened,
                    Err(bad) => return Ok(Some(Err(bad))),
                };
                let message = match line {
                    Line::Text(text) if text.iter().all(u8::is_ascii_whitespace) => continue,
                    Line::Text(text) => envelope::read(&text, limits),
                    Line::TooLong(head) => Err(Malformed::too_long(limits.max_message_bytes).of(&head)),
                };
                return Ok(Some(Ok(Heard { message, signature })));
            },
        }
    }
}

/// The line that was signed, and the signature; the line as it is where lines are not signed.
fn unwrap(verifier: &mut Option<Box<LineVerifier>>, line: Line) -> Result<(Line, Option<CallSignature>), BadLine> {
    let Some(verifier) = verifier else { return Ok((line, None)) };
    match line {
        Line::Text(framed) => verifier.open(&framed).map(|(line, signature)| (Line::Text(line), Some(signature))),
        Line::TooLong(head) => Ok((Line::TooLong(verifier.pass_over(&head)?), None)),
    }
}
