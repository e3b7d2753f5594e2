use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;
use crate::proxy::envelope::Reply;
use crate::proxy::testing::limits;
use crate::proxy::upstream::{Client, Listener, Upstream, UpstreamLimits};
use crate::remote::testing::{self, Peer, STREAM, Say, Seen, answer, events, json, server};

const HELLO: &str =
    r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{"listChanged":true}},"serverInfo":{"name":"s"}}"#;
/// Everything that a typed reader would lose or change.
const ODD: &str = r#"{"n":1.0,"big":12345678901234567890,"s":"\u0041","z":1,"a":2}"#;

fn result(seen: &Seen, result: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, seen.id())
}

/// What every good server does; `None` for all else.
fn manners(seen: &Seen) -> Option<Say> {
    if seen.is_rpc("initialize") {
        let body = result(seen, HELLO);
        return Some(answer("200 OK", "content-type: application/json\r\nmcp-session-id: abc-1\r\n", &body));
    }
    match seen.method.as_str() {
        "GET" => Some(answer("405 Method Not Allowed", "", "")),
        "DELETE" => Some(answer("200 OK", "", "")),
        _ if seen.is_rpc("notifications/initialized") || seen.is_rpc("notifications/cancelled") => {
            Some(answer("202 Accepted", "", ""))
        }
        _ => None,
    }
}

async fn open_with(url: &str, limits: UpstreamLimits) -> Result<Arc<Upstream>, UpstreamError> {
    let (remotes, dir) = testing::remotes();
    // The state outlives its use; the directory goes with the process.
    let _ = dir.keep();
    let link = RemoteLink::of(&remotes, &server(url, None)).unwrap().unwrap();
    Upstream::open(link, limits).await
}

/// A polite server that answers everything else as it is told.
async fn upstream(say: impl Fn(&Seen) -> Say + Send + Sync + 'static) -> (Arc<Upstream>, Peer) {
    let peer = Peer::start(move |seen| manners(seen).unwrap_or_else(|| say(seen))).await;
    (open_with(&peer.url(), limits()).await.unwrap(), peer)
}

async fn ask(upstream: &Upstream) -> Result<Reply, UpstreamError> {
    upstream.request("x/y", Json::object::<&str>([])).await
}

fn odd() -> Reply {
    Reply::Result(Json::parse(ODD, 32).unwrap())
}

#[tokio::test]
async fn an_answer_is_as_it_was_written_in_either_shape_and_who_asks_says_who_it_is() {
    let turn = AtomicUsize::new(0);
    let (upstream, peer) = upstream(move |seen| match turn.fetch_add(1, Ordering::SeqCst) {
        0 => json(&result(seen, ODD)),
        // In lines of its own, behind a comment, a message of another kind, and with what nobody waits for.
        _ => events(&format!(
            ": hello\n\nevent: other\ndata: {{}}\n\ndata: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{{}}}}\n\nid: 7\ndata: {}\n\n",
            result(seen, ODD).replace(",\"z\"", "\ndata: ,\"z\"")
        )),
    })
    .await;
    for _ in 0..2 {
        assert_eq!(ask(&upstream).await.unwrap(), odd());
    }
    upstream.stop().await;
    let gone = peer.until(|seen| seen.method == "DELETE").await;
    assert_eq!(gone.headers["mcp-session-id"], "abc-1");
    for seen in peer.seen().iter().filter(|seen| seen.is_rpc("x/y")) {
        let header = |name: &str| seen.headers.get(name).map(String::as_str);
        assert_eq!(header("mcp-protocol-version"), Some("2025-11-25"));
        assert_eq!(header("mcp-session-id"), Some("abc-1"));
        assert_eq!(header("x-key"), Some("k hunter2"));
        assert_eq!(header("accept"), Some("application/json, text/event-stream"));
        assert_eq!(header("authorization"), None);
    }
}

#[tokio::test]
async fn a_redirect_is_followed_within_the_origin_only() {
    let other = Peer::start(|seen| json(&result(seen, HELLO))).await;
    for to in [
        "http://169.254.169.254/latest/meta-data".to_owned(),
        other.url(),
        format!("http://localhost:{}/mcp", other.port),
        "https://evil.example/".to_owned(),
    ] {
        let location = format!("location: {to}\r\n");
        let peer = Peer::start(move |_| answer("307 Temporary Redirect", &location, "")).await;
        let error = open_with(&peer.url(), limits()).await.err().unwrap().to_string();
        assert!(error.contains("another origin"), "{to}: {error}");
        assert_eq!(peer.seen().len(), 1);
    }
    assert_eq!(other.seen().len(), 0, "nothing went to the other one");

    let peer = Peer::start(|seen| match seen.path.as_str() {
        "/mcp" => answer("307 Temporary Redirect", "location: /other?x=1\r\n", ""),
        _ => manners(seen).unwrap_or_else(|| json(&result(seen, ODD))),
    })
    .await;
    let upstream = open_with(&peer.url(), limits()).await.unwrap();
    assert_eq!(ask(&upstream).await.unwrap(), odd());
    assert!(peer.seen().iter().any(|seen| seen.path == "/other?x=1" && seen.is_rpc("x/y")));

    let round = Peer::start(|_| answer("308 Permanent Redirect", "location: /mcp\r\n", "")).await;
    assert!(open_with(&round.url(), limits()).await.err().unwrap().to_string().contains("redirects"));
    let post = Peer::start(|_| answer("302 Found", "location: /mcp\r\n", "")).await;
    assert!(open_with(&post.url(), limits()).await.is_err());
    assert_eq!(post.seen().len(), 1, "a POST never becomes another request");
}

#[tokio::test]
async fn what_is_too_long_ends_it_in_either_shape() {
    let long = "x".repeat(100 << 10);
    for shape in [true, false] {
        let long = long.clone();
        let (upstream, _peer) = upstream(move |seen| {
            let body = result(seen, &format!("{{\"x\":\"{long}\"}}"));
            if shape { json(&body) } else { events(&format!("data: {body}\n\n")) }
        })
        .await;
        let error = ask(&upstream).await.unwrap_err().to_string();
        assert!(error.contains("more than 65536 bytes"), "{error}");
        assert!(!upstream.is_alive());
    }
}

#[tokio::test]
async fn an_answer_that_never_ends_is_given_up_and_its_stream_closed() {
    for endless in [
        Say::Hang(STREAM.into()),
        Say::Hang(String::new()),
        Say::Hang("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{".into()),
    ] {
        let endless = Mutex::new(Some(endless));
        let peer = Peer::start(move |seen| {
            manners(seen).unwrap_or_else(|| endless.lock().unwrap().take().unwrap_or_else(|| json(&result(seen, ODD))))
        })
        .await;
        let limits = UpstreamLimits { call_timeout: Duration::from_millis(300), ..limits() };
        let upstream = open_with(&peer.url(), limits).await.unwrap();
        let error = ask(&upstream).await.unwrap_err();
        assert!(matches!(error, UpstreamError::Timeout { .. }), "{error}");
        peer.until(|seen| seen.is_rpc("notifications/cancelled")).await;
    }
}

#[tokio::test]
async fn a_stream_of_nothing_without_end_ends_it() {
    let (upstream, _peer) = upstream(|_| Say::Endless(STREAM.into(), ": nothing\n\n".repeat(10_000))).await;
    let error = ask(&upstream).await.unwrap_err().to_string();
    assert!(error.contains("floods"), "{error}");
    assert!(!upstream.is_alive());
}

#[tokio::test]
async fn a_session_that_is_over_takes_nothing_and_the_next_call_opens_another() {
    let (upstream, _peer) = upstream(|_| answer("404 Not Found", "", "")).await;
    let error = ask(&upstream).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Ended { sent: false, .. }), "{error:?}");
    assert!(!upstream.is_alive());
    assert!(upstream.ended().await.to_string().contains("session is over"));
}

#[tokio::test]
async fn what_is_no_answer_fails_its_call_and_not_the_server() {
    let bad = [
        events("data: {\"jsonrpc\":\"2.0\",\"id\":1,\n\n"),
        events("data: [1]\n\n\u{0}\u{1}: x\n\n"),
        events(""),
        answer("202 Accepted", "", ""),
        answer("200 OK", "content-type: text/html\r\n", "<html>"),
        json("{"),
        json(r#"{"jsonrpc":"2.0","id":999,"result":{}}"#),
        json(r#"{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"x"}}"#),
        answer("500 Internal Server Error", "content-type: application/json\r\n", "{\"x\":1}"),
        answer("403 Forbidden", "www-authenticate: Bearer error=\"insufficient_scope\", scope=\"a\u{7f}b\"\r\n", ""),
        Say::Whole("nonsense\r\n\r\n".into()),
    ];
    let left = Mutex::new(bad.into_iter());
    let (upstream, _peer) =
        upstream(move |seen| left.lock().unwrap().next().unwrap_or_else(|| json(&result(seen, ODD)))).await;
    for n in 0..11 {
        let error = ask(&upstream).await.expect_err("it is no answer");
        assert!(matches!(error, UpstreamError::Protocol { .. } | UpstreamError::Remote { .. }), "{n}: {error:?}");
        assert!(!error.to_string().contains("hunter2"));
    }
    assert_eq!(ask(&upstream).await.unwrap(), odd(), "the next one is served");
}

#[tokio::test]
async fn an_error_of_json_rpc_is_the_answer_whatever_http_says() {
    let (upstream, _peer) = upstream(|seen| {
        let body =
            format!(r#"{{"jsonrpc":"2.0","id":{},"error":{{"message":"no","code":-7,"data":[1.50]}}}}"#, seen.id());
        answer("400 Bad Request", "content-type: application/json; charset=utf-8\r\n", &body)
    })
    .await;
    let error = Json::parse(r#"{"message":"no","code":-7,"data":[1.50]}"#, 8).unwrap();
    assert_eq!(ask(&upstream).await.unwrap(), Reply::Error(error));
}

#[tokio::test]
async fn a_server_that_asks_for_peace_has_it() {
    let (upstream, peer) = upstream(|_| answer("429 Too Many Requests", "retry-after: 30\r\n", "")).await;
    for _ in 0..3 {
        match ask(&upstream).await {
            Err(UpstreamError::Remote { sent: false, after: Some(secs), .. }) => assert!((25..=30).contains(&secs)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(peer.seen().iter().filter(|seen| seen.is_rpc("x/y")).count(), 1, "it was asked once");
    assert!(upstream.is_alive());
}

#[tokio::test]
async fn a_change_is_heard_on_the_stream_of_the_server_and_its_requests_are_answered() {
    let peer = Peer::start(|seen| match (seen.method.as_str(), seen.headers.get("last-event-id")) {
        ("GET", None) => events(
            "retry: 1\nid: 5\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\"}\n\ndata: {\"jsonrpc\":\"2.0\",\"id\":\"p\",\"method\":\"ping\"}\n\n",
        ),
        ("GET", Some(_)) => Say::Hang(STREAM.into()),
        ("POST", _) if seen.body.contains(r#""id":"p""#) => answer("202 Accepted", "", ""),
        _ => manners(seen).unwrap_or_else(|| json(&result(seen, ODD))),
    })
    .await;
    let upstream = open_with(&peer.url(), limits()).await.unwrap();
    let mut changed = upstream.tools_changed();
    if *changed.borrow_and_update() == 0 {
        tokio::time::timeout(Duration::from_secs(30), changed.changed()).await.unwrap().unwrap();
    }
    let answered = peer.until(|seen| seen.body.contains(r#""id":"p""#)).await;
    assert!(answered.body.contains(r#""result":{}"#), "{}", answered.body);
    let again = peer.until(|seen| seen.headers.contains_key("last-event-id")).await;
    assert_eq!(again.headers["last-event-id"], "5");
}

#[tokio::test]
async fn a_stream_that_ends_early_is_taken_up_where_it_was() {
    let asked = Arc::new(Mutex::new(String::new()));
    let peer = Peer::start(move |seen| match seen.headers.get("last-event-id").map(String::as_str) {
        Some("a1") => events(&format!("id: a2\ndata: {}\n\n", asked.lock().unwrap())),
        _ => manners(seen).unwrap_or_else(|| {
            *asked.lock().unwrap() = result(seen, ODD);
            events("retry: 10\nid: a1\ndata:\n\n")
        }),
    })
    .await;
    let upstream = open_with(&peer.url(), limits()).await.unwrap();
    assert_eq!(ask(&upstream).await.unwrap(), odd());
}

#[tokio::test]
async fn a_stateless_server_is_asked_in_its_own_way() {
    let peer = Peer::start(|seen| {
        let said = |name: &str| seen.headers.get(name).map(String::as_str);
        if said("mcp-protocol-version") != Some("2026-07-28") {
            let body = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32022,"message":"Unsupported protocol version"}}"#;
            return answer("400 Bad Request", "content-type: application/json\r\n", body);
        }
        match said("mcp-method") {
            Some("server/discover") => json(&result(
                seen,
                r#"{"supportedVersions":["2026-07-28"],"capabilities":{"tools":{"listChanged":true}},"instructions":"x","resultType":"complete"}"#,
            )),
            Some("subscriptions/listen") => events(
                "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\",\"params\":{}}\n\n",
            ),
            Some("tools/list") => json(&result(
                seen,
                r#"{"tools":[{"name":"größer","inputSchema":{"properties":{"a":{"type":"integer","x-mcp-header":"A"}}}}]}"#,
            )),
            Some("tools/call") => json(&result(seen, ODD)),
            _ => answer("404 Not Found", "", ""),
        }
    })
    .await;
    let upstream = open_with(&peer.url(), limits()).await.unwrap();
    assert_eq!((upstream.protocol_version(), upstream.instructions()), ("2026-07-28", Some("x")));
    assert_eq!(upstream.list_all("tools/list", "tools").await.unwrap().len(), 1);
    let params = Json::parse(r#"{"name":"größer","arguments":{"a":1},"_meta":{"progressToken":1}}"#, 8).unwrap();
    assert_eq!(upstream.request("tools/call", params).await.unwrap(), odd());
    let call = peer.until(|seen| seen.is_rpc("tools/call")).await;
    assert_eq!(call.headers["mcp-name"], "=?base64?Z3LDtsOfZXI=?=");
    assert_eq!(call.headers["mcp-param-a"], "1");
    for member in [r#""io.modelcontextprotocol/protocolVersion":"2026-07-28""#, r#""progressToken":1"#, r#""a":1}"#] {
        assert!(call.body.contains(member), "{}", call.body);
    }
    assert!(!call.headers.contains_key("mcp-session-id"));
    assert!(call.body.contains(r#""io.modelcontextprotocol/clientCapabilities":{}"#), "{}", call.body);
    // What the client of a call can do is told with that call, and with no other.
    let client =
        Client { capabilities: Json::parse(r#"{"elicitation":{}}"#, 8).ok(), log_level: Some(Json::string("info")) };
    let listener = Listener { to: tokio::sync::mpsc::channel(1).0, progress: false, client };
    let params = Json::parse(r#"{"name":"größer","arguments":{},"inputResponses":{"a":1.0}}"#, 8).unwrap();
    upstream.exchange("tools/call", params, limits().call_timeout, Some(listener)).await.unwrap();
    let call = peer.until(|seen| seen.is_rpc("tools/call") && seen.body.contains("elicitation")).await;
    for member in [
        r#""io.modelcontextprotocol/clientCapabilities":{"elicitation":{}}"#,
        r#""io.modelcontextprotocol/logLevel":"info""#,
        r#""inputResponses":{"a":1.0}"#,
    ] {
        assert!(call.body.contains(member), "{}", call.body);
    }
    let heard = peer.until(|seen| seen.is_rpc("subscriptions/listen")).await;
    assert!(heard.body.contains(r#""toolsListChanged":true"#));
    let mut changed = upstream.tools_changed();
    if *changed.borrow_and_update() == 0 {
        tokio::time::timeout(Duration::from_secs(30), changed.changed()).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn only_a_certificate_that_is_trusted_and_of_that_name_is_spoken_to() {
    let say = |seen: &Seen| manners(seen).unwrap_or_else(|| json(&result(seen, ODD)));
    let open = async |peer: &Peer, trusted: Option<&[u8]>, host: &str| {
        let (remotes, _dir) = trusted.map_or_else(testing::remotes, testing::remotes_trusting);
        let url = format!("https://{host}:{}/mcp", peer.port);
        let link = RemoteLink::of(&remotes, &server(&url, None)).unwrap().unwrap();
        Upstream::open(link, limits()).await
    };
    let (peer, der) = Peer::with_tls(say).await;
    let upstream = open(&peer, Some(&der), "localhost").await.unwrap();
    assert_eq!(ask(&upstream).await.unwrap(), odd());

    let (peer, own) = Peer::with_tls(say).await;
    for (trusted, host) in [(Some(own.as_slice()), "127.0.0.1"), (Some(&der), "localhost"), (None, "localhost")] {
        let error = open(&peer, trusted, host).await.err().unwrap().to_string();
        assert!(error.contains("cannot trust"), "{host}: {error}");
    }
    assert_eq!(peer.seen().len(), 0, "nothing was said to it");
}

#[tokio::test]
async fn a_server_that_is_not_there_fails_without_having_been_told_anything() {
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/mcp", closed.local_addr().unwrap());
    drop(closed);
    let error = open_with(&url, limits()).await.err().unwrap();
    assert!(matches!(error, UpstreamError::Remote { sent: false, .. }), "{error}");
    assert!(error.to_string().contains("cannot reach 127.0.0.1"), "{error}");
}

#[test]
fn a_name_is_wrapped_where_a_header_cannot_carry_it() {
    for (name, header) in
        [("echo", "echo"), ("a b", "a b"), (" a", "=?base64?IGE=?="), ("=?base64?x", "=?base64?PT9iYXNlNjQ/eA==?=")]
    {
        assert_eq!(header_text(name).unwrap(), header, "{name}");
    }
    assert!(header_text("a\r\nb").unwrap().to_str().unwrap().starts_with("=?base64?"));
}
