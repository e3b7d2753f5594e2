//! Newline framing: one message is one line of UTF-8, and no line is longer than the limit.

use std::io;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Bytes of an oversize line that are kept: its id mostly stands among the first.
const HEAD: usize = 4 << 10;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// Without its line end.
    Text(Bytes),
    /// Longer than the limit. Only how it begins is kept; the next call skips to the next line.
    TooLong(Bytes),
}

/// Reads lines; holds at most the limit and one read beyond it.
pub struct LineReader<R> {
    source: R,
    buffer: BytesMut,
    /// Bytes of the buffer that hold no line end.
    searched: usize,
    limit: usize,
    skipping: bool,
}

impl<R: AsyncRead + Unpin> LineReader<R> {
    pub fn new(source: R, limit: usize) -> Self {
        Self { source, buffer: BytesMut::new(), searched: 0, limit, skipping: false }
    }

    /// The next line, or `None` at the end. Dropping the future loses nothing that was read.
    /// Text after the last line end is a line too.
    pub async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            if let Some(at) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let end = self.searched + at;
                let mut line = self.buffer.split_to(end + 1);
                self.searched = 0;
                if std::mem::take(&mut self.skipping) {
                    continue;
                }
                if end > self.limit {
                    line.truncate(HEAD);
                    return Ok(Some(Line::TooLong(line.freeze())));
                }
                line.truncate(end - usize::from(end > 0 && line[end - 1] == b'\r'));
                return Ok(Some(Line::Text(line.freeze())));
            }
            self.searched = self.buffer.len();
            if self.searched > self.limit {
                let head = Bytes::copy_from_slice(&self.buffer[..self.searched.min(HEAD)]);
                self.buffer.advance(self.searched);
                self.searched = 0;
                if !std::mem::replace(&mut self.skipping, true) {
                    return Ok(Some(Line::TooLong(head)));
                }
            }
            self.buffer.reserve(8 << 10);
            if self.source.read_buf(&mut self.buffer).await? == 0 {
                let rest = std::mem::take(&mut self.buffer);
                self.searched = 0;
                return Ok((!rest.is_empty() && !self.skipping).then(|| Line::Text(rest.freeze())));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt as _;

    async fn lines(chunks: &[&[u8]], limit: usize) -> Vec<Line> {
        let (mut write, read) = tokio::io::duplex(16);
        let chunks: Vec<Vec<u8>> = chunks.iter().map(|c| c.to_vec()).collect();
        let writer = tokio::spawn(async move {
            for chunk in chunks {
                write.write_all(&chunk).await.unwrap();
            }
        });
        let mut reader = LineReader::new(read, limit);
        let mut lines = Vec::new();
        while let Some(line) = reader.next().await.unwrap() {
            lines.push(line);
        }
        writer.await.unwrap();
        lines
    }

    fn text(text: &str) -> Line {
        Line::Text(Bytes::copy_from_slice(text.as_bytes()))
    }

    #[tokio::test]
    async fn a_line_too_long_costs_that_line_only() {
        let long = vec![b'x'; 100];
        let got = lines(&[b"a\n", &long, b"yy\nb\r\n", b"01234567890\n", b"0123456789\n", b"c"], 10).await;
        let too_long = |line: &Line| matches!(line, Line::TooLong(_));
        assert_eq!(got.iter().map(too_long).collect::<Vec<_>>(), [false, true, false, true, false, false]);
        assert_eq!([&got[0], &got[2], &got[4], &got[5]], [&text("a"), &text("b"), &text("0123456789"), &text("c")]);
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_they_arrive(
            want in prop::collection::vec("[a-z]{0,20}", 0..8),
            cuts in prop::collection::vec(1usize..9, 0..40),
        ) {
            let stream: Vec<u8> = want.iter().flat_map(|l| [l.as_bytes(), b"\n"].concat()).collect();
            let mut rest = stream.as_slice();
            let mut chunks = Vec::new();
            for cut in cuts {
                let (head, tail) = rest.split_at(cut.min(rest.len()));
                chunks.push(head);
                rest = tail;
            }
            chunks.push(rest);
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let got = runtime.block_on(lines(&chunks, 20));
            prop_assert_eq!(got, want.iter().map(|l| text(l)).collect::<Vec<_>>());
        }
    }
}
