//! The CLI's side of `admin.sock`: one connection per request, HTTP/1.1.

use std::path::PathBuf;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::types::{ErrorBody, ErrorKind, ErrorReply, Line};

/// Longest answer, or line of a streamed answer, in bytes.
const MAX_ANSWER: usize = 256 << 20;

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(
        "cannot reach the daemon at {socket}: {source}; start it with `lazaret daemon`, or name its directory with --run-dir"
    )]
    Unreachable { socket: PathBuf, source: std::io::Error },
    #[error("cannot use {socket}: {source}; run this as root or as a member of the group lazaret")]
    Socket { socket: PathBuf, source: std::io::Error },
    #[error("the daemon's answer broke off: {cause}; see its log, then try again")]
    Broken { cause: String },
    #[error("{}", .0.message)]
    Refused(ErrorBody),
}

pub struct AdminClient {
    socket: PathBuf,
}

type Result<T> = std::result::Result<T, ClientError>;

fn broken(cause: impl std::fmt::Display) -> ClientError {
    ClientError::Broken { cause: cause.to_string() }
}

impl AdminClient {
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.whole(self.send(Method::GET, path, Bytes::new()).await?).await
    }

    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        let body = serde_json::to_vec(body).map_err(broken)?;
        self.whole(self.send(Method::POST, path, body.into()).await?).await
    }

    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.whole(self.send(Method::DELETE, path, Bytes::new()).await?).await
    }

    /// Long work: hands each progress line to `progress` and returns what it ended with.
    pub async fn work<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        mut progress: impl FnMut(&str),
    ) -> Result<T> {
        let body = serde_json::to_vec(body).map_err(broken)?;
        let mut end = None;
        let response = self.send(Method::POST, path, body.into()).await?;
        self.lines(response, |line| {
            match serde_json::from_slice(line).map_err(broken)? {
                Line::Progress(text) => progress(&text),
                Line::Done(value) => end = Some(serde_json::from_value(value).map_err(broken)?),
                Line::Error(body) => return Err(ClientError::Refused(body)),
            }
            Ok(())
        })
        .await?;
        end.ok_or_else(|| broken("it ended before the work was done"))
    }

    /// A stream of JSON lines, for as long as the daemon sends or `line` wants them.
    pub async fn follow<E: From<ClientError>>(
        &self,
        path: &str,
        line: impl FnMut(&[u8]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let response = self.send(Method::GET, path, Bytes::new()).await?;
        self.lines(response, line).await
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|source| match source.kind() {
            std::io::ErrorKind::PermissionDenied => ClientError::Socket { socket: self.socket.clone(), source },
            _ => ClientError::Unreachable { socket: self.socket.clone(), source },
        })?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // Ends when the response does; what breaks there shows in the body.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "lazaret")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(broken)?;
        let response = sender.send_request(request).await.map_err(broken)?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = self.body(response).await?;
        Err(match serde_json::from_slice::<ErrorReply>(&body) {
            Ok(reply) => ClientError::Refused(reply.error),
            Err(_) => ClientError::Refused(ErrorBody {
                kind: ErrorKind::Failed,
                message: format!(
                    "the daemon refused {path} with {status}; is it of the same version? See `lazaret --version`"
                ),
            }),
        })
    }

    async fn body(&self, response: Response<Incoming>) -> Result<Vec<u8>> {
        let body = http_body_util::Limited::new(response.into_body(), MAX_ANSWER);
        Ok(body.collect().await.map_err(broken)?.to_bytes().to_vec())
    }

    async fn whole<T: DeserializeOwned>(&self, response: Response<Incoming>) -> Result<T> {
        serde_json::from_slice(&self.body(response).await?).map_err(broken)
    }

    async fn lines<E: From<ClientError>>(
        &self,
        response: Response<Incoming>,
        mut each: impl FnMut(&[u8]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let mut body = response.into_body();
        let mut buffer = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(broken)?;
            let Some(data) = frame.data_ref() else { continue };
            buffer.extend_from_slice(data);
            let mut start = 0;
            while let Some(length) = buffer[start..].iter().position(|byte| *byte == b'\n') {
                each(&buffer[start..start + length])?;
                start += length + 1;
            }
            buffer.drain(..start);
            if buffer.len() > MAX_ANSWER {
                return Err(broken("a line is longer than any answer").into());
            }
        }
        if !buffer.is_empty() {
            return Err(broken("the last line is not whole").into());
        }
        Ok(())
    }
}

/// A name as one segment of a path or one value of a query.
pub fn escape(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_path_segment() {
        assert_eq!(escape("../agents?x=1&a b"), "%2E%2E%2Fagents%3Fx%3D1%26a%20b");
        assert_eq!(escape("server-1_a"), "server-1_a");
    }

    #[tokio::test]
    async fn no_daemon_is_unreachable() {
        let dir = tempfile::tempdir().unwrap();
        let error =
            AdminClient::new(dir.path().join("admin.sock")).get::<super::super::types::Done>("/v1/status").await;
        assert!(matches!(error, Err(ClientError::Unreachable { .. })));
    }
}
