//! The client's end: lines from stdin, whole lines to stdout.

use std::io::{self, BufRead as _, Write as _};

use tokio::sync::mpsc;

/// Lines that may wait for the daemon before the client is made to wait.
const AHEAD: usize = 64;

pub(super) struct Stdio {
    pub input: Input,
    pub output: Output,
}

impl Stdio {
    /// Reads in a thread of its own: stdin may be a file, a pipe, a socket or a terminal, and must
    /// not be made non-blocking, because others may share it.
    pub(super) fn open() -> Self {
        Self { input: Input::spawn(io::stdin()), output: Output(Box::new(io::stdout())) }
    }

    #[cfg(test)]
    pub(super) fn of(input: impl io::Read + Send + 'static, output: impl io::Write + 'static) -> Self {
        Self { input: Input::spawn(input), output: Output(Box::new(output)) }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.input.lines.is_closed() && self.input.lines.is_empty()
    }
}

pub(super) struct Input {
    lines: mpsc::Receiver<Vec<u8>>,
}

impl Input {
    fn spawn(source: impl io::Read + Send + 'static) -> Self {
        let (send, lines) = mpsc::channel(AHEAD);
        std::thread::spawn(move || {
            let mut source = io::BufReader::with_capacity(64 << 10, source);
            loop {
                let mut line = Vec::new();
                match source.read_until(b'\n', &mut line) {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                }
                if line.last() == Some(&b'\n') {
                    line.pop();
                }
                if send.blocking_send(line).is_err() {
                    return;
                }
            }
        });
        Self { lines }
    }

    /// The next line without its end, `None` at the end of the input.
    pub(super) async fn next(&mut self) -> Option<Vec<u8>> {
        self.lines.recv().await
    }
}

pub(super) struct Output(Box<dyn io::Write>);

impl Output {
    /// Writes one line and its end as one piece.
    pub(super) fn line(&mut self, line: &[u8]) -> io::Result<()> {
        let mut whole = Vec::with_capacity(line.len() + 1);
        whole.extend_from_slice(line);
        whole.push(b'\n');
        self.0.write_all(&whole)?;
        self.0.flush()
    }
}
