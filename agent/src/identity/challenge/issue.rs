//! The end of a challenge that asked for a token: the token, or why there is none.

use tokio::io::{AsyncBufRead, AsyncWrite};

use super::{ChallengeError, DEADLINE, Message, lines, prove_for};
use crate::identity::{Address, IssuedToken, KeySource, TokenRefused, TokenWish};

/// The daemon's side, after [`super::accept`] gave an identity with a wish.
pub async fn issue<W: AsyncWrite + Unpin>(
    writer: &mut W,
    token: Result<IssuedToken, TokenRefused>,
) -> Result<(), ChallengeError> {
    let message = match token {
        Ok(token) => Message::Token(token),
        Err(e) => Message::Refused { reason: e.to_string(), next_step: e.next_step() },
    };
    tokio::time::timeout(DEADLINE, lines::send(writer, &message)).await.unwrap_or(Err(ChallengeError::TooSlow))
}

/// The side of whoever holds the agent's key. `delegation` is the chain by which it acts; empty for a top agent.
pub async fn ask_token<R, W>(
    reader: &mut R,
    writer: &mut W,
    agent: &Address,
    key: &dyn KeySource,
    wish: TokenWish,
    delegation: &[String],
) -> Result<IssuedToken, ChallengeError>
where
    R: AsyncBufRead + Unpin,
    W: AsyncWrite + Unpin,
{
    prove_for(reader, writer, agent, key, None, Some(wish), delegation).await?;
    let answer = async {
        match lines::receive(reader).await? {
            Message::Token(token) => Ok(token),
            Message::Refused { reason, next_step } => Err(ChallengeError::Refused { reason, next_step }),
            _ => Err(ChallengeError::Malformed("out of turn".into())),
        }
    };
    tokio::time::timeout(DEADLINE, answer).await.unwrap_or(Err(ChallengeError::TooSlow))
}
