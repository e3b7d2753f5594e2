//! A connection of which every byte was written by the process that opened it.
//!
//! A socket can be inherited and handed on: who opened it says nothing about who speaks. The kernel names the writer
//! of each read; bytes of another process are an error, and the session ends.

use std::io;
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, Interest, ReadBuf};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;

use crate::identity::{Strange, name_writers, receive};

pub(super) struct OneWriter {
    socket: OwnedReadHalf,
    pid: u32,
}

impl OneWriter {
    /// Before anything is said to the peer, so that it has nothing to answer yet.
    pub(super) fn demand(socket: &UnixStream) -> io::Result<()> {
        name_writers(socket.as_fd())
    }

    pub(super) fn new(socket: OwnedReadHalf, pid: u32) -> Self {
        Self { socket, pid }
    }
}

impl AsyncRead for OneWriter {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let socket: &UnixStream = self.socket.as_ref();
        loop {
            ready!(socket.poll_read_ready(cx))?;
            let read = socket.try_io(Interest::READABLE, || receive(socket.as_fd(), buffer.initialize_unfilled()));
            match read {
                Ok((0, _)) => return Poll::Ready(Ok(())),
                Ok((_, writer)) if writer != self.pid => {
                    let pid = Some(writer).filter(|pid| *pid > 0);
                    return Poll::Ready(Err(io::Error::other(Strange::OtherWriter { pid })));
                }
                Ok((count, _)) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::process::Command;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn what_another_process_writes_ends_the_connection() {
        let dir = tempfile::tempdir().unwrap();
        let listener = tokio::net::UnixListener::bind(dir.path().join("s")).unwrap();
        let mut client = UnixStream::connect(dir.path().join("s")).await.unwrap();
        let (door, _) = listener.accept().await.unwrap();
        OneWriter::demand(&door).unwrap();
        let mut door = OneWriter::new(door.into_split().0, std::process::id());
        client.write_all(b"honest").await.unwrap();
        let mut said = [0; 6];
        door.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"honest");

        let handed_on = client.into_std().unwrap();
        handed_on.set_nonblocking(false).unwrap();
        let status = Command::new("/bin/echo").arg("stolen").stdout(OwnedFd::from(handed_on)).status().unwrap();
        assert!(status.success());
        let error = door.read_exact(&mut said).await.unwrap_err().to_string();
        assert!(error.contains("and not by the connector that opened it"), "{error}");
    }

    #[tokio::test]
    async fn the_end_is_the_end() {
        let (client, door) = UnixStream::pair().unwrap();
        OneWriter::demand(&door).unwrap();
        drop(client);
        let mut door = OneWriter::new(door.into_split().0, std::process::id());
        assert_eq!(door.read(&mut [0; 4]).await.unwrap(), 0);
    }
}
