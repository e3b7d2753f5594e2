use std::io::{Read as _, Write as _};
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::*;
use crate::audit::AuditLog;
use crate::identity::{AgentKey, Peer, Registry, challenge, signed};
use crate::proxy::json::Json;
use crate::store::Store;

/// A daemon that lets the agent in and leaves the rest to the test.
struct Daemon {
    dir: tempfile::TempDir,
    registry: Registry,
    key: AgentKey,
    agent: Address,
}

impl Daemon {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&dir.path().join("s")).unwrap());
        let registry = Registry::new(store.clone(), Arc::new(AuditLog::new(store)));
        let agent: Address = "claude@acme.lazaret.local".parse().unwrap();
        let key = AgentKey::generate().unwrap();
        key.save(&dir.path().join("agent.pem")).unwrap();
        registry.enroll(&agent, key.public(), None, "operator").unwrap();
        Self { dir, registry, key: AgentKey::generate().unwrap(), agent }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("mcp.sock")
    }

    fn listen(&self) -> UnixListener {
        let _former = std::fs::remove_file(self.socket());
        UnixListener::bind(self.socket()).unwrap()
    }

    async fn accept(&self, listener: &UnixListener) -> BufReader<UnixStream> {
        let (stream, _) = listener.accept().await.unwrap();
        let (read, mut write) = stream.into_split();
        let mut read = BufReader::new(read);
        let peer = Peer { uid: 0, gid: 0, pid: None };
        challenge::accept(&mut read, &mut write, peer, None, &self.key, &self.registry).await.unwrap();
        assert!(read.buffer().is_empty());
        BufReader::new(read.into_inner().reunite(write).unwrap())
    }

    async fn connect(&self, stdio: &mut Stdio) -> Result<(), ConnectError> {
        let key = SourceName::File(self.dir.path().join("agent.pem"));
        serve(&self.agent, &key, None, &self.socket(), stdio).await
    }
}

/// The client's ends of the connector's stdio.
struct ClientEnd {
    input: std::io::PipeWriter,
    output: std::io::BufReader<std::io::PipeReader>,
}

fn stdio() -> (Stdio, ClientEnd) {
    let (theirs, input) = std::io::pipe().unwrap();
    let (output, ours) = std::io::pipe().unwrap();
    (Stdio::of(theirs, ours), ClientEnd { input, output: std::io::BufReader::new(output) })
}

impl ClientEnd {
    fn say(&mut self, line: &str) {
        self.input.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    fn rest(mut self) -> String {
        let mut text = String::new();
        self.output.read_to_string(&mut text).unwrap();
        text
    }
}

async fn line(stream: &mut BufReader<UnixStream>) -> String {
    let mut text = String::new();
    stream.read_line(&mut text).await.unwrap();
    // What the client said stands behind a number and a signature.
    signed::parse(text.as_bytes()).map(|(_, _, line)| String::from_utf8(line.to_vec()).unwrap()).unwrap_or(text)
}

#[tokio::test]
async fn lines_go_both_ways_unchanged_and_due_answers_are_waited_for() {
    let daemon = Daemon::new();
    let listener = daemon.listen();
    let (mut stdio, mut client) = stdio();
    let odd = r#"{ "id" : "\u0061", "method":"x", "params":{"n":1.0}, "jsonrpc":"2.0"}"#;
    client.say(odd);
    client.say("not json");
    drop(std::mem::replace(&mut client.input, std::io::pipe().unwrap().1));
    let script = async {
        let mut stream = daemon.accept(&listener).await;
        assert_eq!(line(&mut stream).await, format!("{odd}\n"));
        assert_eq!(line(&mut stream).await, "not json\n");
        stream.write_all(b"{\"jsonrpc\":\"2.0\",\"id\":\"\\u0061\",\"result\":{\"n\":1.0}}\n").await.unwrap();
        stream
    };
    let (served, _stream) = tokio::join!(daemon.connect(&mut stdio), script);
    served.unwrap();
    drop(stdio);
    assert_eq!(client.rest(), "{\"jsonrpc\":\"2.0\",\"id\":\"\\u0061\",\"result\":{\"n\":1.0}}\n");
}

#[tokio::test]
async fn a_daemon_that_restarts_costs_the_calls_in_flight_only() {
    let daemon = Daemon::new();
    let listener = daemon.listen();
    let (mut stdio, mut client) = stdio();
    let initialize = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25"}}"#;
    client.say(initialize);
    let script = async {
        let mut stream = daemon.accept(&listener).await;
        assert_eq!(line(&mut stream).await, format!("{initialize}\n"));
        stream.write_all(b"{\"jsonrpc\":\"2.0\",\"id\":0,\"result\":{\"a\":1}}\n").await.unwrap();
        client.say(r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"x"}}"#);
        client.say(r#"{"jsonrpc":"2.0","id":6,"method":"ping"}"#);
        line(&mut stream).await;
        line(&mut stream).await;
        drop((stream, listener));

        let listener = daemon.listen();
        let mut stream = daemon.accept(&listener).await;
        let replay = Json::parse(&line(&mut stream).await, 8).unwrap();
        assert_eq!(replay.get("method").unwrap().as_str(), Some("initialize"));
        let id = replay.get("id").unwrap().to_text();
        stream.write_all(format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{}}}}\n").as_bytes()).await.unwrap();
        assert!(line(&mut stream).await.contains("notifications/initialized"));
        assert!(line(&mut stream).await.contains(r#""id":6"#), "what does no harm is asked again");
        stream.write_all(b"{\"jsonrpc\":\"2.0\",\"id\":6,\"result\":{}}\n").await.unwrap();
        client.say(r#"{"jsonrpc":"2.0","id":8,"method":"tools/list"}"#);
        assert!(line(&mut stream).await.contains("tools/list"));
        stream.write_all(b"{\"jsonrpc\":\"2.0\",\"id\":8,\"result\":{}}\n").await.unwrap();
        drop(std::mem::replace(&mut client.input, std::io::pipe().unwrap().1));
        (stream, client)
    };
    let (served, (_stream, client)) = tokio::join!(daemon.connect(&mut stdio), script);
    served.unwrap();
    drop(stdio);
    let heard = client.rest();
    let heard: Vec<&str> = heard.lines().collect();
    assert_eq!(heard.len(), 4, "{heard:?}");
    assert_eq!(heard[0], r#"{"jsonrpc":"2.0","id":0,"result":{"a":1}}"#);
    assert!(heard[1].contains(r#""id":7,"error":{"code":-32000"#) && heard[1].contains("went away"), "{heard:?}");
    assert_eq!(heard[2], r#"{"jsonrpc":"2.0","id":6,"result":{}}"#);
    assert_eq!(heard[3], r#"{"jsonrpc":"2.0","id":8,"result":{}}"#);
}

#[tokio::test]
async fn who_cannot_be_served_is_told_where_clients_look() {
    let daemon = Daemon::new();
    let (mut stdio, mut client) = stdio();
    let error = daemon.connect(&mut stdio).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
    client.say(r#"{"jsonrpc":"2.0","method":"notifications/x"}"#);
    client.say(r#"{"jsonrpc":"2.0","id":"first","method":"server/discover"}"#);
    client.say(r#"{"jsonrpc":"2.0","id":2,"method":"initialize","params":{"protocolVersion":"2025-11-25"}}"#);
    farewell(&mut stdio, &error.to_string()).await;
    drop(stdio);
    let heard = client.rest();
    assert_eq!(heard.lines().count(), 2, "{heard}");
    assert!(heard.contains(r#""id":"first""#) && heard.contains("lazaret status"), "{heard}");
}

#[tokio::test]
async fn a_stranger_is_refused_and_a_missing_key_is_named() {
    let daemon = Daemon::new();
    let listener = daemon.listen();
    let stranger_file = daemon.dir.path().join("stranger.pem");
    AgentKey::generate().unwrap().save(&stranger_file).unwrap();
    let stranger = SourceName::File(stranger_file);
    let (mut stdio, _client) = stdio();
    let script = async {
        let (stream, _) = listener.accept().await.unwrap();
        let (read, mut write) = stream.into_split();
        let peer = Peer { uid: 0, gid: 0, pid: None };
        challenge::accept(&mut BufReader::new(read), &mut write, peer, None, &daemon.key, &daemon.registry)
            .await
            .unwrap_err()
    };
    let socket = daemon.socket();
    let (served, _) = tokio::join!(serve(&daemon.agent, &stranger, None, &socket, &mut stdio), script);
    assert!(matches!(served, Err(ConnectError::Refused { .. })), "{served:?}");

    let missing = SourceName::File(daemon.dir.path().join("missing.pem"));
    let error = serve(&daemon.agent, &missing, None, &socket, &mut stdio).await.unwrap_err().to_string();
    assert!(error.contains("missing.pem") && error.contains("lazaret agent enroll"), "{error}");
}

#[test]
fn the_id_of_an_answer_is_read_from_its_beginning() {
    for (line, id) in [
        (r#"{"jsonrpc":"2.0","id":12,"result":{}}"#, Some("12")),
        (r#"{"jsonrpc":"2.0","id":"a\"b\\","error":{}}"#, Some(r#""a\"b\\""#)),
        (r#"{"jsonrpc":"2.0","id":null,"error":{}}"#, None),
        (r#"{"jsonrpc":"2.0","method":"x"}"#, None),
        (r#"{"jsonrpc":"2.0","id":"a"#, None),
        ("", None),
    ] {
        let got = envelope::reply_id(line.as_bytes()).map(|id| id.as_json().to_text());
        assert_eq!(got.as_deref(), id, "{line}");
    }
}

#[test]
fn a_request_that_the_client_cancelled_is_not_waited_for() {
    let client = Client::default();
    for line in [
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}"#,
        r#"{"jsonrpc":"2.0","id":"1","method":"tools/call","params":{"name":"x"}}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#,
    ] {
        client.sent(line.as_bytes());
    }
    let waiting: Vec<_> = client.state.borrow().in_flight.keys().cloned().collect();
    assert_eq!(waiting, ["\"1\""]);
}
