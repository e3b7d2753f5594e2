//! Lines of the challenge on a stream that carries MCP lines afterwards: not one byte beyond the
//! newline is taken, and no more than [`MAX_LINE`] bytes are ever held.

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{ChallengeError, MAX_LINE, Message};

pub(super) async fn send<W: AsyncWrite + Unpin>(writer: &mut W, message: &Message) -> Result<(), ChallengeError> {
    let mut line = serde_json::to_vec(message).map_err(|e| ChallengeError::Malformed(e.to_string()))?;
    line.push(b'\n');
    writer.write_all(&line).await?;
    writer.flush().await?;
    Ok(())
}

pub(super) async fn receive<R: AsyncBufRead + Unpin>(reader: &mut R) -> Result<Message, ChallengeError> {
    let line = line(reader).await?;
    // The parser's own words may quote the line; where it failed is enough.
    serde_json::from_slice(&line)
        .map_err(|e| ChallengeError::Malformed(format!("at column {} of its line", e.column())))
}

async fn line<R: AsyncBufRead + Unpin>(reader: &mut R) -> Result<Vec<u8>, ChallengeError> {
    let mut line = Vec::new();
    loop {
        let buffer = reader.fill_buf().await?;
        if buffer.is_empty() {
            return Err(ChallengeError::Closed);
        }
        let newline = buffer.iter().position(|&byte| byte == b'\n');
        let taken = newline.unwrap_or(buffer.len());
        if line.len() + taken >= MAX_LINE {
            return Err(ChallengeError::TooLong);
        }
        line.extend_from_slice(&buffer[..taken]);
        reader.consume(taken + usize::from(newline.is_some()));
        if newline.is_some() {
            return Ok(line);
        }
    }
}
