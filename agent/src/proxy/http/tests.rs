use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::*;
use crate::config::Expose;
use crate::identity::TokenLimits;
use crate::proxy::testing::{self, House, Script};

const PATIENCE: Duration = Duration::from_secs(30);
const INITIALIZE: &str = r#"{"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}},"jsonrpc":"2.0","id":0}"#;
const READY: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
const LIST: &str = r#"{"jsonrpc":"2.0","id":7,"method":"tools/list"}"#;

/// A door that is served by HTTP, and a token for it.
struct Served {
    house: House,
    http: Arc<Http>,
    address: SocketAddr,
    token: String,
    cancel: CancellationToken,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

async fn served(expose: Expose) -> (Served, Script) {
    let (house, script) = testing::house(expose).await;
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let limits = TokenLimits { default_secs: 600, max_secs: 3600 };
    let tokens = Arc::new(Tokens::new(Some(listener.url()), limits));
    let config = HttpConfig { allowed_origins: vec!["https://app.example.com".into()], ..HttpConfig::default() };
    let cancel = CancellationToken::new();
    let registry = house.door.registry.clone();
    let mut http = Http::new(&listener, house.door.clone(), registry, tokens, &config, cancel.clone());
    http.deadlines = Deadlines { head: Duration::from_millis(300), body: Duration::from_millis(300) };
    let http = Arc::new(http);
    let address = listener.address;
    tokio::spawn(connection::serve(http.clone(), listener.listener, None));
    let mut served = Served { house, http, address, token: String::new(), cancel };
    served.token = served.mint("one");
    (served, script)
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

impl Served {
    fn mint(&self, session: &str) -> String {
        let uid = std::fs::metadata("/proc/self").unwrap().uid();
        self.mint_for(uid, session)
    }

    fn mint_for(&self, uid: u32, session: &str) -> String {
        let proven = self.house.identity.clone().of_uid(uid, session);
        self.http.tokens.mint(&self.http.registry, &proven).unwrap().token
    }

    fn host(&self) -> String {
        format!("Host: {}\r\n", self.address)
    }

    fn bearer(&self) -> String {
        format!("Authorization: Bearer {}\r\n", self.token)
    }

    /// What a client's POST carries, but for the session.
    fn usual(&self) -> String {
        format!(
            "{}{}Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n",
            self.host(),
            self.bearer()
        )
    }

    async fn open(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    /// Sends a request as it is, and reads until the door closes.
    async fn raw(&self, request: &str) -> Answer {
        let mut stream = self.open(request).await;
        let mut text = String::new();
        tokio::time::timeout(PATIENCE, stream.read_to_string(&mut text)).await.expect("an answer in time").unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.into(), body: body.into() }
    }

    async fn ask(&self, line: &str, headers: &str) -> Answer {
        self.raw(&format!("{line} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n")).await
    }

    async fn post(&self, headers: &str, body: &str) -> Answer {
        let length = body.len();
        self.raw(&format!("POST /mcp HTTP/1.1\r\n{headers}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}"))
            .await
    }

    async fn session(&self) -> String {
        let answer = self.post(&self.usual(), INITIALIZE).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let session = format!("Mcp-Session-Id: {}\r\n", answer.header("mcp-session-id").unwrap());
        let ready = self.post(&format!("{}{session}", self.usual()), READY).await;
        assert_eq!((ready.status, ready.body.as_str()), (202, ""));
        session
    }

    /// Status of one POST of the newer era.
    async fn alone(&self, method: &str, name: Option<&str>, body: &str) -> Answer {
        let name = name.map(|name| format!("Mcp-Name: {name}\r\n")).unwrap_or_default();
        let usual = self.usual();
        self.post(&format!("{usual}MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: {method}\r\n{name}"), body).await
    }
}

fn newer(id: &str, method: &str, params: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{{params}"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{{}},"progressToken":"p"}}}}}}"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_meant_for_the_door_is_refused_before_anything_is_read() {
    let (door, _script) = served(Expose::Search).await;
    let (host, bearer, port) = (door.host(), door.bearer(), door.address.port());
    let all = format!("{host}{bearer}");
    let evil = format!("Host: evil.example:{port}\r\n{bearer}");
    let token = &door.token;
    for (status, line, headers) in [
        (403, "POST /mcp", evil.clone()),
        (403, "GET /mcp", evil),
        (403, "POST http://evil.example/mcp", all.clone()),
        (403, "POST /mcp", bearer.clone()),
        (403, "POST /mcp", format!("{host}{all}")),
        (403, "POST /mcp", format!("{all}Origin: https://evil.example\r\n")),
        (403, "OPTIONS /mcp", format!("{all}Origin: null\r\n")),
        (404, "POST /", all.clone()),
        (404, "GET /.well-known/oauth-protected-resource", all.clone()),
        (404, "POST /mcp/", all.clone()),
        (405, "PUT /mcp", all.clone()),
        (405, "OPTIONS /mcp", all.clone()),
        (405, "OPTIONS /mcp", format!("{all}Origin: http://localhost:1\r\n")),
        (400, "POST /mcp?access_token=x", all.clone()),
        (400, "POST /mcp?", all.clone()),
        (401, "POST /mcp", host.clone()),
        (401, "POST /mcp", format!("{host}Authorization: Basic {token}\r\n")),
        (401, "POST /mcp", format!("{host}Authorization: Bearer {token}0\r\n")),
        (401, "POST /mcp", format!("{all}{bearer}")),
        (401, "GET /mcp", host.clone()),
        (401, "DELETE /mcp", host.clone()),
        (415, "POST /mcp", all.clone()),
        (415, "POST /mcp", format!("{all}Content-Type: text/plain\r\n")),
        (406, "POST /mcp", format!("{all}Content-Type: application/json\r\nAccept: application/json\r\n")),
        (406, "GET /mcp", format!("{all}Accept: application/json\r\n")),
        (400, "GET /mcp", format!("{all}Accept: text/event-stream\r\n")),
        (404, "GET /mcp", format!("{all}Accept: text/event-stream\r\nMcp-Session-Id: no\r\n")),
        (405, "GET /mcp", format!("{all}Accept: text/event-stream\r\nMCP-Protocol-Version: 2026-07-28\r\n")),
        (405, "DELETE /mcp", format!("{all}MCP-Protocol-Version: 2026-07-28\r\n")),
        (400, "DELETE /mcp", all.clone()),
        (404, "DELETE /mcp", format!("{all}Mcp-Session-Id: no\r\n")),
    ] {
        let answer = door.ask(line, &headers).await;
        assert_eq!(answer.status, status, "{line}\n{headers}{answer:?}");
        assert!(answer.header("access-control-allow-origin").is_none(), "{answer:?}");
        assert!(answer.body.starts_with(r#"{"jsonrpc":"2.0","error":{"code":-32"#), "it says why: {answer:?}");
        assert_eq!(answer.header("www-authenticate").is_some(), status == 401, "{answer:?}");
        assert_eq!(answer.header("allow").is_some(), status == 405, "{answer:?}");
    }
    let answer = door.ask("POST /mcp", &host).await;
    assert!(answer.body.contains("lazaret token --agent"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_a_named_origin_may_ask_and_read() {
    let (door, _script) = served(Expose::Search).await;
    let origin = format!("{}Origin: https://app.example.com\r\n", door.host());
    let preflight = door.ask("OPTIONS /mcp", &origin).await;
    assert_eq!(preflight.status, 204);
    assert_eq!(preflight.header("access-control-allow-origin"), Some("https://app.example.com"));
    assert!(preflight.header("access-control-allow-headers").unwrap().contains("authorization"));
    assert_eq!(door.ask("POST /mcp", &origin).await.status, 401, "a page needs a token as well");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_no_message_are_refused() {
    let (door, _script) = served(Expose::Search).await;
    let session = door.session().await;
    let headers = format!("{}{session}", door.usual());
    for (status, code, body) in [
        (400, "-32700", "{"),
        (400, "-32700", "\u{0}"),
        (400, "-32600", "[]"),
        (400, "-32600", &format!("[{LIST}]")),
        (400, "-32600", r#"{"jsonrpc":"2.0","id":1,"id":1,"method":"ping"}"#),
        (400, "-32600", r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#),
        (400, "-32602", r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"Name":"x"}}"#),
        (
            413,
            "-32600",
            &format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{"x":"{}"}}}}"#, "x".repeat(65536)),
        ),
    ] {
        let answer = door.post(&headers, body).await;
        assert_eq!(answer.status, status, "{body:.80}: {answer:?}");
        assert!(answer.body.contains(&format!("\"code\":{code}")), "{body:.80}: {answer:?}");
    }
    let mismatch = door.post(&format!("{headers}Mcp-Method: ping\r\n"), LIST).await;
    assert_eq!(mismatch.status, 400);
    assert!(mismatch.body.starts_with(r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32020"#), "{mismatch:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_older_era_has_a_session_that_its_token_alone_finds_and_delete_ends() {
    let (mut door, _script) = served(Expose::Search).await;
    assert_eq!(door.post(&door.usual(), LIST).await.status, 400, "there is no session without `initialize`");
    let session = door.session().await;
    let listed = door.post(&format!("{}{session}", door.usual()), LIST).await;
    assert_eq!(listed.status, 200);
    assert_eq!(listed.header("content-type"), Some("application/json"));
    assert!(
        listed.body.starts_with(r#"{"jsonrpc":"2.0","id":7,"result":{"tools":[{"name":"search_tools""#),
        "{listed:?}"
    );

    let second = door.mint("two");
    let first = std::mem::replace(&mut door.token, second);
    let stolen = door.post(&format!("{}{session}", door.usual()), LIST).await;
    assert_eq!(stolen.status, 404, "{stolen:?}");
    let ended = door.ask("DELETE /mcp", &format!("{}{}{session}", door.host(), door.bearer())).await;
    assert_eq!(ended.status, 404, "nor can it be ended by another");

    door.token = first;
    let ended = door.ask("DELETE /mcp", &format!("{}{}{session}", door.host(), door.bearer())).await;
    assert_eq!(ended.status, 204);
    assert_eq!(door.post(&format!("{}{session}", door.usual()), LIST).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_and_its_progress_are_forwarded_as_they_are() {
    let (door, mut script) = served(Expose::Direct).await;
    let strange = r#"{"z":1.0,"big":12345678901234567890123,"a":"\u0041\/"}"#;
    let params = format!(r#""name":"s__echo","arguments":{strange},"#);
    let body = newer(r#""x""#, "tools/call", &params);
    let call = door.alone("tools/call", Some("s__echo"), &body);
    let server = async {
        let (id, method, params) = script.request().await;
        assert_eq!(method, "tools/call");
        assert_eq!(params.get("arguments").unwrap().to_text(), strange);
        let token = params.get("_meta").unwrap().get("progressToken").unwrap().to_text();
        script
            .say(&format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{token},"progress":1.50}}}}"#
            ))
            .await;
        script.answer(&id, r#"{"content":[],"x-unknown":1.0}"#).await;
    };
    let (answer, ()) = tokio::join!(call, server);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    let said = answer.body.lines().filter_map(|line| line.strip_prefix("data: ")).collect::<Vec<_>>();
    assert_eq!(
        said,
        [
            r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"p","progress":1.50}}"#,
            r#"{"jsonrpc":"2.0","id":"x","result":{"content":[],"x-unknown":1.0,"resultType":"complete"}}"#
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newer_era_is_served_without_a_session_and_errors_have_their_status() {
    let (door, _script) = served(Expose::Search).await;
    let found = door.alone("server/discover", None, &newer("1", "server/discover", "")).await;
    assert!(found.status == 200 && found.body.contains("supportedVersions"), "{found:?}");
    assert!(found.header("mcp-session-id").is_none());
    assert_eq!(door.alone("tools/list", None, &newer("1", "tools/list", "")).await.status, 200);
    let unknown = door.alone("no/such", None, &newer("1", "no/such", "")).await;
    assert!(unknown.status == 404 && unknown.body.contains("-32601"), "{unknown:?}");
    let removed = door.alone("initialize", None, &newer("1", "initialize", "")).await;
    assert!(removed.status == 404 && removed.body.contains("-32601"), "{removed:?}");
    let mismatch = door.alone("tools/list", None, &newer("1", "server/discover", "")).await;
    assert!(mismatch.status == 400 && mismatch.body.contains("-32020"), "{mismatch:?}");
    let body = newer("1", "tools/list", "").replace("2026-07-28", "2031-01-01");
    let headers = format!("{}MCP-Protocol-Version: 2031-01-01\r\nMcp-Method: tools/list\r\n", door.usual());
    let version = door.post(&headers, &body).await;
    assert!(version.status == 400 && version.body.contains("-32022"), "{version:?}");
    let call = newer("1", "tools/call", r#""name":"search_tools","arguments":{"query":"echo"},"#);
    let searched = door.alone("tools/call", Some("search_tools"), &call).await;
    assert!(searched.status == 200 && searched.body.contains(r#""tool":"echo""#), "{searched:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_the_newer_era_that_goes_away_has_its_call_cancelled() {
    let (door, mut script) = served(Expose::Direct).await;
    let body = newer("1", "tools/call", r#""name":"s__echo","#);
    let headers =
        format!("{}MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: s__echo\r\n", door.usual());
    let length = body.len();
    let stream = door.open(&format!("POST /mcp HTTP/1.1\r\n{headers}Content-Length: {length}\r\n\r\n{body}")).await;
    script.request().await;
    drop(stream);
    let cancelled = tokio::time::timeout(PATIENCE, script.next()).await.expect("it is cancelled in time");
    assert!(format!("{cancelled:?}").contains("notifications/cancelled"), "{cancelled:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_agent_s_stream_hears_of_changed_tools_and_ends_with_the_token() {
    let (door, _script) = served(Expose::Direct).await;
    let session = door.session().await;
    let get = format!("{}{}{session}Accept: text/event-stream\r\n", door.host(), door.bearer());
    let stream = door.open(&format!("GET /mcp HTTP/1.1\r\n{get}\r\n")).await;
    let mut lines = BufReader::new(stream).lines();
    let mut next = async |what: &str| loop {
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("a line in time").unwrap();
        match line {
            Some(line) if line.contains(what) => return Some(line),
            Some(_) => {}
            None => return None,
        }
    };
    assert!(next("still there").await.is_some());
    let second = door.ask("GET /mcp", &get).await;
    assert_eq!(second.status, 409, "{second:?}");
    door.house.door.admission.deny("s", "operator", "test").unwrap();
    assert!(next("notifications/tools/list_changed").await.is_some());
    let id = door.http.tokens.list(&door.http.registry)[0].id.clone();
    door.http.tokens.revoke(&door.http.registry, &id, "operator").unwrap();
    assert_eq!(next("anything more").await, None, "the stream ends");
    assert_eq!(door.post(&door.usual(), LIST).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_agent_and_another_uid_get_nothing() {
    let (mut door, _script) = served(Expose::Search).await;
    let session = door.session().await;
    door.http.registry.suspend(&door.house.agent, "operator", "test").unwrap();
    let refused = door.post(&format!("{}{session}", door.usual()), LIST).await;
    assert_eq!(refused.status, 401, "{refused:?}");
    assert!(refused.header("www-authenticate").unwrap().contains("invalid_token"), "{refused:?}");
    assert!(refused.body.contains("suspended") && refused.body.contains("agent resume"), "{refused:?}");
    door.http.registry.resume(&door.house.agent, "operator", "test").unwrap();
    let resumed = door.post(&format!("{}{session}", door.usual()), LIST).await;
    assert_eq!(resumed.status, 404, "its session is over: {resumed:?}");
    assert_eq!(door.post(&door.usual(), INITIALIZE).await.status, 200);

    let own = std::fs::metadata("/proc/self").unwrap().uid();
    door.token = door.mint_for(own + 1, "three");
    let refused = door.post(&door.usual(), INITIALIZE).await;
    assert!(refused.status == 401 && refused.body.contains(&format!("uid {own}")), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_is_not_waited_for() {
    let (door, _script) = served(Expose::Search).await;
    let mut slow = door.open("POST /mcp HTTP/1.1\r\nHost: ").await;
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(PATIENCE, slow.read_to_end(&mut rest)).await.expect("it is closed in time");
    assert!(closed.is_ok() || rest.is_empty());
    let usual = door.usual();
    let body =
        door.raw(&format!("POST /mcp HTTP/1.1\r\n{usual}Connection: close\r\nContent-Length: 5\r\n\r\n{{")).await;
    assert_eq!(body.status, 408, "{body:?}");
    let many: String = (0..200).map(|n| format!("X-{n}: 1\r\n")).collect();
    let refused = door.ask("POST /mcp", &format!("{usual}{many}")).await;
    assert_eq!(refused.status, 431, "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_daemon_stops_nothing_is_left() {
    let (door, _script) = served(Expose::Search).await;
    let session = door.session().await;
    let get = format!("{}{}{session}Accept: text/event-stream\r\n", door.host(), door.bearer());
    let mut stream = door.open(&format!("GET /mcp HTTP/1.1\r\n{get}\r\n")).await;
    let mut first = [0; 12];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    door.cancel.cancel();
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("it is closed in time").unwrap();
    tokio::time::timeout(PATIENCE, door.http.tasks.wait()).await.expect("sessions end");
    assert!(door.http.tokens.list(&door.http.registry).is_empty());
}
