use super::*;
use crate::proxy::testing::{Script, cage, limits, upstream};

async fn ask(upstream: &Arc<Upstream>) -> tokio::task::JoinHandle<Result<Reply, UpstreamError>> {
    let upstream = upstream.clone();
    tokio::spawn(async move { upstream.request("x/y", Json::object::<&str>([])).await })
}

fn json(text: &str) -> Json {
    Json::parse(text, 32).unwrap()
}

#[tokio::test]
async fn answers_come_back_as_written_to_whoever_asked() {
    let (upstream, mut script) = upstream(limits()).await;
    assert_eq!(upstream.protocol_version(), "2025-06-18");
    let (first, second) = (ask(&upstream).await, ask(&upstream).await);
    let (a, _, _) = script.request().await;
    let (b, _, _) = script.request().await;
    assert_ne!(a, b);
    script.say(r#"{"jsonrpc":"2.0","id":999,"result":{}}"#).await;
    script.say(r#"{"jsonrpc":"2.0","id":"1","result":{}}"#).await;
    script.say("Server running on stdio").await;
    script.say("").await;
    let text = r#"{"n":1.0,"big":12345678901234567890,"s":"\u0041","z":1,"a":2}"#;
    script.answer(&b, text).await;
    script
        .say(&format!(r#"{{"jsonrpc":"2.0","id":{},"error":{{"message":"no","code":-7,"data":[1.50]}}}}"#, a.as_json()))
        .await;
    let mut got = [first.await.unwrap().unwrap(), second.await.unwrap().unwrap()];
    got.sort_by_key(|reply| matches!(reply, Reply::Error(_)));
    assert_eq!(got[0], Reply::Result(json(text)));
    assert_eq!(got[1], Reply::Error(json(r#"{"message":"no","code":-7,"data":[1.50]}"#)));
}

#[tokio::test]
async fn a_server_that_dies_fails_every_call_with_its_exit() {
    let (upstream, mut script) = upstream(limits()).await;
    let (first, second) = (ask(&upstream).await, ask(&upstream).await);
    script.request().await;
    script.exit.send_replace(Some(crate::sandbox::CageExit { code: Some(3), out_of_memory: false }));
    drop(script);
    for call in [first, second] {
        let error = call.await.unwrap().unwrap_err().to_string();
        assert!(error.contains("exited with code 3"), "{error}");
    }
    upstream.ended().await;
    assert!(!upstream.is_alive());
    assert!(matches!(upstream.request("x", Json::Null).await, Err(UpstreamError::Ended { .. })));
}

#[tokio::test]
async fn a_call_that_its_server_never_got_is_told_from_one_that_it_may_have_acted_on() {
    let (upstream, mut script) = upstream(limits()).await;
    let written = ask(&upstream).await;
    script.request().await;
    // More than fits into the pipe: what comes behind it is not written until the server reads.
    let stuck = {
        let (upstream, long) = (upstream.clone(), Json::string("x".repeat(1 << 20)));
        tokio::spawn(async move { upstream.request("x/y", Json::object([("long", long)])).await })
    };
    tokio::task::yield_now().await;
    let behind = ask(&upstream).await;
    tokio::task::yield_now().await;
    drop(script);
    let sent = async |call: tokio::task::JoinHandle<Result<Reply, UpstreamError>>| match call.await.unwrap() {
        Err(UpstreamError::Ended { sent, .. }) => sent,
        other => panic!("{other:?}"),
    };
    assert!(sent(written).await && sent(stuck).await);
    assert!(!sent(behind).await);
    assert!(!sent(ask(&upstream).await).await, "nor did it get what was asked after its end");
}

/// Answers each of so many pings with what is given, and then nothing any more.
async fn pinged(limits: UpstreamLimits, answers: &[&str]) -> (Arc<Upstream>, UpstreamError) {
    let (upstream, mut script) = upstream(limits).await;
    for answer in answers {
        let (id, method, _) = script.request().await;
        assert_eq!(method, "ping");
        script.say(&answer.replace("ID", &id.as_json().to_text())).await;
    }
    let end = upstream.ended().await;
    drop(script);
    (upstream, end)
}

#[tokio::test]
async fn a_server_that_is_silent_is_asked_and_ended_when_it_stays_so() {
    let limits =
        UpstreamLimits { ping_after: Duration::from_millis(20), ping_timeout: Duration::from_millis(200), ..limits() };
    let alive = [
        r#"{"jsonrpc":"2.0","id":ID,"result":{}}"#,
        r#"{"jsonrpc":"2.0","id":ID,"error":{"code":-32601,"message":"what?"}}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/message","params":{}}"#,
    ];
    let (upstream, end) = pinged(limits, &alive).await;
    assert!(end.to_string().contains("did not answer a ping"), "{end}");
    assert!(!upstream.was_stopped());
    assert!(upstream.idle().unwrap() >= Duration::from_millis(200), "to be asked is no use of it");
}

#[tokio::test]
async fn a_server_that_lets_a_call_time_out_is_asked_at_once() {
    let limits =
        UpstreamLimits { call_timeout: Duration::from_millis(20), ping_timeout: Duration::from_millis(50), ..limits() };
    let (upstream, _script) = upstream(limits).await;
    assert!(matches!(ask(&upstream).await.await.unwrap(), Err(UpstreamError::Timeout { .. })));
    let end = upstream.ended().await;
    assert!(end.to_string().contains("did not answer a ping"), "{end}");
}

#[tokio::test]
async fn a_flood_of_messages_that_nobody_asked_for_ends_the_server() {
    let (upstream, mut script) = upstream(limits()).await;
    let notes = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{}}"#.to_owned() + "\n";
    let some = notes.repeat(1000);
    let write = async {
        // Until the reader has gone.
        while tokio::io::AsyncWriteExt::write_all(&mut script.out, some.as_bytes()).await.is_ok() {}
    };
    let (end, ()) = tokio::join!(upstream.ended(), write);
    assert!(end.to_string().contains("floods its output"), "{end}");
}

#[tokio::test]
async fn a_message_beyond_the_limit_ends_the_server() {
    let (upstream, mut script) = upstream(limits()).await;
    let call = ask(&upstream).await;
    script.request().await;
    let huge = vec![b'x'; 100 << 10];
    // The reader stops in the middle of it.
    let _gone = tokio::io::AsyncWriteExt::write_all(&mut script.out, &huge).await;
    let error = call.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("more than 65536 bytes"), "{error}");
}

#[tokio::test]
async fn an_answer_that_is_malformed_fails_its_call_at_once() {
    let (upstream, mut script) = upstream(limits()).await;
    let call = ask(&upstream).await;
    let (id, _, _) = script.request().await;
    script.say(&format!(r#"{{"jsonrpc":"2.0","id":{},"result":7}}"#, id.as_json())).await;
    assert!(matches!(call.await.unwrap(), Err(UpstreamError::Protocol { .. })));
}

#[tokio::test]
async fn a_call_that_is_dropped_is_cancelled_at_the_server() {
    let (upstream, mut script) = upstream(limits()).await;
    let call = ask(&upstream).await;
    let (id, _, _) = script.request().await;
    call.abort();
    let Some(envelope::Message::Notification { method, params }) = script.next().await else { panic!() };
    assert_eq!(method, "notifications/cancelled");
    assert_eq!(params.unwrap().get("requestId"), Some(id.as_json()));
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_cancelled_and_said_so() {
    let limits = UpstreamLimits { call_timeout: Duration::from_millis(20), ..limits() };
    let (upstream, mut script) = upstream(limits).await;
    let call = ask(&upstream).await;
    script.request().await;
    let error = call.await.unwrap().unwrap_err();
    assert!(matches!(error, UpstreamError::Timeout { .. }), "{error}");
    assert!(matches!(script.next().await, Some(envelope::Message::Notification { .. })));
    assert!(upstream.is_alive());
}

#[tokio::test]
async fn a_servers_own_requests_are_answered_without_giving_it_anything() {
    let (upstream, mut script) = upstream(limits()).await;
    script.say(r#"{"jsonrpc":"2.0","id":"p","method":"ping"}"#).await;
    script.say(r#"{"jsonrpc":"2.0","id":1,"method":"roots/list"}"#).await;
    script.say(r#"{"jsonrpc":"2.0","id":2,"method":"sampling/createMessage","params":{}}"#).await;
    let mut replies = Vec::new();
    while replies.len() < 3 {
        if let Some(envelope::Message::Response { reply, .. }) = script.next().await {
            replies.push(reply);
        }
    }
    assert_eq!(replies[0], Reply::Result(json("{}")));
    for reply in &replies[1..] {
        assert!(matches!(reply, Reply::Error(error) if error.get("code") == Some(&Json::number(-32601))), "{reply:?}");
    }
    drop(upstream);
}

#[tokio::test]
async fn a_change_of_tools_is_noticed() {
    let (upstream, mut script) = upstream(limits()).await;
    let mut changed = upstream.tools_changed();
    script.say(r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#).await;
    changed.changed().await.unwrap();
    assert_eq!(*changed.borrow(), 1);
}

async fn list(answer: impl Fn(Option<&str>) -> String + Send + 'static) -> Result<Vec<Json>, UpstreamError> {
    let (upstream, mut script) = upstream(limits()).await;
    tokio::spawn(async move {
        loop {
            let (id, _, params) = script.request().await;
            script.answer(&id, &answer(params.get("cursor").and_then(Json::as_str))).await;
        }
    });
    upstream.list_all("tools/list", "tools").await
}

#[tokio::test]
async fn all_pages_of_a_list_are_read_and_one_without_end_is_not() {
    let pages = list(|cursor| match cursor {
        None => r#"{"tools":[1],"nextCursor":"b"}"#.into(),
        Some("b") => r#"{"tools":[2.0]}"#.into(),
        Some(other) => panic!("{other}"),
    });
    assert_eq!(pages.await.unwrap(), [json("1"), json("2.0")]);
    let round = list(|_| r#"{"tools":[1],"nextCursor":"b"}"#.into()).await;
    assert!(round.unwrap_err().to_string().contains("same cursor"));
    let shape = list(|_| r#"{"tools":{}}"#.into()).await;
    assert!(shape.unwrap_err().to_string().contains("no array `tools`"));
}

#[tokio::test]
async fn a_list_is_bounded_in_entries_bytes_and_time() {
    let page = |entry: String, count: usize| {
        let pages = std::sync::atomic::AtomicUsize::new(0);
        let entries = vec![entry; count].join(",");
        move |_: Option<&str>| {
            let next = pages.fetch_add(1, Ordering::Relaxed);
            format!(r#"{{"tools":[{entries}],"nextCursor":"{next}"}}"#)
        }
    };
    let many = list(page("1".into(), 1_000)).await.unwrap_err();
    assert!(many.to_string().contains("more than 5000 entries"), "{many}");
    let long = list(page(format!("\"{}\"", "x".repeat(60 << 10)), 1)).await.unwrap_err();
    assert!(long.to_string().contains("more than 16777216 bytes"), "{long}");

    let limits = UpstreamLimits { call_timeout: Duration::from_millis(50), ..limits() };
    let (upstream, mut script) = upstream(limits).await;
    let server = tokio::spawn(async move {
        for next in 0u64.. {
            let (id, _, _) = script.request().await;
            script.answer(&id, &format!(r#"{{"tools":[],"nextCursor":"{next}"}}"#)).await;
            if next == 2 {
                return script;
            }
        }
        script
    });
    let slow = upstream.list_all("tools/list", "tools").await.unwrap_err();
    assert!(matches!(slow, UpstreamError::Timeout { .. }), "{slow}");
    drop(server.await);
}

#[tokio::test]
async fn a_permit_is_for_one_server_under_one_pin() {
    let (house, _script) = crate::proxy::testing::house(crate::config::Expose::Search).await;
    let admit = || house.door.gates.admit(&house.identity, "s", "echo", Json::object::<&str>([]), Json::Null).unwrap();
    let permit = admit();
    let pin = permit.server().decided_pin.clone().unwrap();
    for identity in [None, Some(("t", pin.as_str())), Some(("s", "sha256:other"))] {
        let (upstream, mut script) = upstream(limits()).await;
        if let Some((name, pin)) = identity {
            upstream.identify(name, pin);
        }
        let refused = upstream.call_tool(&permit, None).await.unwrap_err();
        assert!(matches!(refused, UpstreamError::NotPermitted { .. }), "{refused}");
        drop(upstream);
        while let Some(said) = script.next().await {
            assert!(!matches!(said, envelope::Message::Request { .. }), "{said:?}");
        }
    }
}

#[tokio::test]
async fn a_container_that_is_another_holders_takes_no_call() {
    let (house, _script) = crate::proxy::testing::house(crate::config::Expose::Search).await;
    let permit = house.door.gates.admit(&house.identity, "s", "echo", Json::object::<&str>([]), Json::Null).unwrap();
    let pin = permit.server().decided_pin.clone().unwrap();
    let (upstream, _script) = upstream(limits()).await;
    upstream.identify("s", &pin);
    upstream.belongs_to(Holder::Agent { address: "other@acme.lazaret.local".into(), did: "did:key:z".into() });
    let refused = upstream.call_tool(&permit, None).await.unwrap_err();
    assert!(matches!(refused, UpstreamError::NotPermitted { .. }), "{refused}");
}

#[tokio::test]
async fn what_a_server_does_not_have_is_not_asked_for() {
    let (upstream, _script) = upstream(limits()).await;
    assert_eq!(upstream.list_all("prompts/list", "prompts").await.unwrap(), []);
}

async fn start(answer: &str) -> UpstreamError {
    let (cage, mut script) = cage();
    let scripted = async {
        let (id, _, _) = script.request().await;
        script.say(&answer.replace("ID", &id.as_json().to_text())).await;
    };
    let (upstream, ()) = tokio::join!(Upstream::start(cage, limits()), scripted);
    upstream.err().expect("no such server is taken")
}

#[tokio::test]
async fn a_handshake_that_is_not_one_is_refused() {
    let refused = start(r#"{"jsonrpc":"2.0","id":ID,"error":{"code":-32601,"message":"what?"}}"#).await;
    assert!(matches!(refused, UpstreamError::Refused { .. }), "{refused}");
    let version =
        start(r#"{"jsonrpc":"2.0","id":ID,"result":{"protocolVersion":"1999-01-01","capabilities":{}}}"#).await;
    assert!(version.to_string().contains("1999-01-01"), "{version}");
    let bare = start(r#"{"jsonrpc":"2.0","id":ID,"result":{}}"#).await;
    assert!(matches!(bare, UpstreamError::Protocol { .. }), "{bare}");
}

#[tokio::test]
async fn stopping_ends_the_servers_input_and_fails_what_is_in_flight() {
    let (upstream, mut script) = upstream(limits()).await;
    let call = ask(&upstream).await;
    script.request().await;
    let server = async {
        while script.next().await.is_some() {}
        let Script { out, exit, .. } = script;
        drop((out, exit));
    };
    tokio::join!(upstream.stop(), server);
    assert!(matches!(call.await.unwrap(), Err(UpstreamError::Ended { .. })));
}
