//! However a stream of lines arrives, its lines are the same; none is longer than the limit, and one that was too long
//! costs no other.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use lazaret::proxy::framing::{Line, LineReader};
use tokio::io::{AsyncRead, ReadBuf};

const LIMIT: usize = 64;

/// Gives at most so many bytes at once.
struct Pieces<'a>(&'a [u8], usize);

impl AsyncRead for Pieces<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let (head, tail) = self.0.split_at(self.1.min(self.0.len()).min(buf.remaining()));
        buf.put_slice(head);
        self.0 = tail;
        Poll::Ready(Ok(()))
    }
}

/// What never waits.
fn now<T>(work: impl Future<Output = T>) -> T {
    match pin!(work).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("there is nothing to wait for"),
    }
}

/// Each line, or nothing for one that is too long.
fn lines(bytes: &[u8], piece: usize) -> Vec<Option<Vec<u8>>> {
    let mut reader = LineReader::new(Pieces(bytes, piece), LIMIT);
    let mut lines = Vec::new();
    while let Some(line) = now(reader.next()).expect("nothing fails") {
        lines.push(match line {
            Line::Text(text) => Some(text.to_vec()),
            Line::TooLong(head) => {
                assert!(bytes.windows(head.len()).any(|part| part == head));
                None
            }
        });
    }
    lines
}

// The first byte says how long the pieces are.
fuzz_target!(|input: &[u8]| {
    let Some((piece, bytes)) = input.split_first() else { return };
    let whole = lines(bytes, usize::MAX);
    assert_eq!(whole, lines(bytes, usize::from(*piece).max(1)));
    let ended = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let mut expected: Vec<Option<&[u8]>> = ended.split(|byte| *byte == b'\n').map(Some).collect();
    if bytes.is_empty() {
        expected.clear();
    }
    let last = expected.len().saturating_sub(1);
    for (n, line) in expected.iter_mut().enumerate() {
        // What the stream ends with is left as it is.
        let closed = n < last || bytes.ends_with(b"\n");
        let text = line.take().filter(|text| text.len() <= LIMIT);
        *line = text.map(|text| text.strip_suffix(b"\r").filter(|_| closed).unwrap_or(text));
    }
    assert_eq!(whole, expected.into_iter().map(|line| line.map(<[u8]>::to_vec)).collect::<Vec<_>>());
});
