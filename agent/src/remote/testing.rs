//! A peer over HTTP that says what a test has it say, however wrong.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;

use super::tls::Trust;
use super::{Remotes, address};
use crate::admission::{AdmissionState, LaunchDefinition, OAuth, Remote, SecretHeader, Server, Source};
use crate::store::Store;

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Seen {
    pub fn is_rpc(&self, method: &str) -> bool {
        self.body.contains(&format!("\"method\":\"{method}\""))
    }

    /// The id of the JSON-RPC request, as it was written.
    pub fn id(&self) -> String {
        let json: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_default();
        json["id"].to_string()
    }
}

pub(crate) enum Say {
    /// These bytes, and then the next request.
    Whole(String),
    /// These bytes, and then these again and again, for as long as somebody reads.
    Endless(String, String),
    /// These bytes, and then nothing until the other side goes.
    Hang(String),
}

pub(crate) fn answer(status: &str, headers: &str, body: &str) -> Say {
    Say::Whole(format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len()))
}

pub(crate) fn json(body: &str) -> Say {
    answer("200 OK", "content-type: application/json\r\n", body)
}

/// A whole stream of events that ends.
pub(crate) fn events(body: &str) -> Say {
    answer("200 OK", "content-type: text/event-stream\r\n", body)
}

pub(crate) const STREAM: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";

pub(crate) struct Peer {
    pub port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
    changed: tokio::sync::watch::Receiver<usize>,
    task: tokio::task::JoinHandle<()>,
}

impl Peer {
    pub async fn start(say: impl Fn(&Seen) -> Say + Send + Sync + 'static) -> Self {
        Self::serve(None, say).await
    }

    /// Over TLS as `localhost`; the certificate of who vouches for it.
    pub async fn with_tls(say: impl Fn(&Seen) -> Say + Send + Sync + 'static) -> (Self, Vec<u8>) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let der = made.cert.der().to_vec();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        (Self::serve(Some(tokio_rustls::TlsAcceptor::from(Arc::new(config))), say).await, der)
    }

    async fn serve(tls: Option<tokio_rustls::TlsAcceptor>, say: impl Fn(&Seen) -> Say + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (count, changed) = tokio::sync::watch::channel(0);
        let (say, count, all) = (Arc::new(say), Arc::new(count), seen.clone());
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (say, all, count, tls) = (say.clone(), all.clone(), count.clone(), tls.clone());
                open.spawn(async move {
                    match tls {
                        None => talk(stream, &*say, &all, &count).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                talk(stream, &*say, &all, &count).await;
                            }
                        }
                    }
                });
            }
        });
        Self { port, seen, changed, task }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/mcp", self.port)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Waits until a request came that is wanted.
    pub async fn until(&self, wanted: impl Fn(&Seen) -> bool) -> Seen {
        let mut changed = self.changed.clone();
        let wait = async {
            loop {
                if let Some(found) = self.seen().into_iter().find(&wanted) {
                    return found;
                }
                changed.changed().await.unwrap();
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(30), wait).await.expect("it comes")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    say: &(impl Fn(&Seen) -> Say + ?Sized),
    seen: &Mutex<Vec<Seen>>,
    count: &tokio::sync::watch::Sender<usize>,
) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream).await {
        let answer = say(&request);
        seen.lock().unwrap().push(request);
        count.send_modify(|n| *n += 1);
        let stream = stream.get_mut();
        let done = match answer {
            Say::Whole(bytes) => stream.write_all(bytes.as_bytes()).await.is_ok() && stream.flush().await.is_ok(),
            Say::Endless(head, rest) => {
                let _ = stream.write_all(head.as_bytes()).await;
                while stream.write_all(rest.as_bytes()).await.is_ok() {}
                false
            }
            Say::Hang(head) => {
                let _ = stream.write_all(head.as_bytes()).await;
                let _ = stream.flush().await;
                let _ = stream.read_u8().await;
                false
            }
        };
        if !done {
            return;
        }
    }
}

async fn read<S: AsyncRead + Unpin>(stream: &mut BufReader<S>) -> Option<Seen> {
    let mut first = String::new();
    stream.read_line(&mut first).await.ok().filter(|read| *read > 0)?;
    let mut words = first.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(Seen { method, path, headers, body: String::from_utf8(body).ok()? })
}

/// What remote servers share, with a state of its own.
pub(crate) fn remotes() -> (Arc<Remotes>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&dir.path().join("s")).unwrap());
    (Arc::new(Remotes::new(store)), dir)
}

/// The same, trusting only this certificate.
pub(crate) fn remotes_trusting(der: &[u8]) -> (Arc<Remotes>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&dir.path().join("s")).unwrap());
    let credentials = super::Credentials::new(store);
    (Arc::new(Remotes { lookup: address::system(), tls: Trust::only(der), credentials }), dir)
}

/// An entry for this URL, with the header `x-key` from the secret `KEY`.
pub(crate) fn server(url: &str, oauth: Option<OAuth>) -> Server {
    let header = SecretHeader { name: "x-key".into(), prefix: "k ".into(), secret: "KEY".into() };
    let remote = Remote::new(url, vec![header], true, true, oauth).unwrap();
    let launch = LaunchDefinition {
        source: Source::Remote(Box::new(remote)),
        args: Vec::new(),
        env: [("KEY".to_owned(), "hunter2".to_owned()), ("CLIENT".to_owned(), "s3cret".to_owned())].into(),
        mounts: Vec::new(),
        egress: Vec::new(),
        secrets: ["KEY".to_owned()].into(),
        isolation: Default::default(),
        configured: vec![url.to_owned()],
    };
    Server {
        name: "r".into(),
        state: AdmissionState::Quarantined,
        launch,
        origin: "operator".into(),
        review: None,
        decided_pin: None,
        history: Vec::new(),
    }
}
