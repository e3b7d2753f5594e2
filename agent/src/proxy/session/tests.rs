use super::*;
use crate::audit::{Kind, Outcome};
use crate::identity::RevocationReason;
use crate::proxy::forward;
use crate::proxy::testing::{Client, ECHO, House, Script, house};

const MODERN: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;
const RESULT: &str =
    r#"{"content":[{"type":"text","text":"\u0041"}],"n":1.0,"zz":12345678901234567890,"_meta":{"b":1,"a":2}}"#;

async fn session(expose: Expose) -> (House, Script, Client) {
    let (house, script) = house(expose).await;
    let mut client = house.connect();
    client.initialize("2025-06-18").await;
    (house, script, client)
}

fn code(answer: &Json) -> String {
    answer.get("error").and_then(|error| error.get("code")).map(Json::to_text).unwrap_or_default()
}

fn text(answer: &Json) -> String {
    let content = answer.get("result").and_then(|result| result.get("content")).and_then(Json::as_array);
    content.and_then(|content| content[0].get("text")).and_then(Json::as_str).unwrap_or_default().to_owned()
}

fn is_error(answer: &Json) -> bool {
    answer.get("result").and_then(|result| result.get("isError")).and_then(Json::as_bool) == Some(true)
}

#[tokio::test]
async fn the_older_handshake_settles_on_what_both_know() {
    let (house, _script) = house(Expose::Search).await;
    for (asked, settled) in [("2024-11-05", "2024-11-05"), ("2025-11-25", "2025-11-25"), ("2031-01-01", "2025-11-25")] {
        let answer = house.connect().initialize(asked).await;
        assert_eq!(answer.get("result").unwrap().get("protocolVersion").unwrap().as_str(), Some(settled));
        assert!(answer.get("result").unwrap().get("resultType").is_none());
    }
}

#[tokio::test]
async fn the_stateless_era_needs_no_handshake_and_says_complete() {
    let (house, _script) = house(Expose::Search).await;
    let mut client = house.connect();
    let answer =
        client.ask(&format!(r#"{{"jsonrpc":"2.0","id":"d","method":"server/discover","params":{{{MODERN}}}}}"#)).await;
    let result = answer.get("result").unwrap();
    assert_eq!(result.get("supportedVersions").unwrap().to_text(), r#"["2026-07-28"]"#);
    for (member, value) in [("resultType", "\"complete\""), ("cacheScope", "\"private\""), ("ttlMs", "60000")] {
        assert_eq!(result.get(member).unwrap().to_text(), value);
    }
    let answer =
        client.ask(&format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{{{MODERN}}}}}"#)).await;
    let result = answer.get("result").unwrap();
    assert_eq!(result.get("resultType").unwrap().as_str(), Some("complete"));
    assert!(result.get("ttlMs").is_some() && result.get("cacheScope").is_some());

    let other = MODERN.replace("2026-07-28", "2099-01-01");
    let answer = client.ask(&format!(r#"{{"jsonrpc":"2.0","id":2,"method":"tools/list","params":{{{other}}}}}"#)).await;
    assert_eq!(code(&answer), "-32022");
    assert_eq!(
        answer.get("error").unwrap().get("data").unwrap().to_text(),
        r#"{"supported":["2026-07-28"],"requested":"2099-01-01"}"#
    );
    let bare = r#"{"jsonrpc":"2.0","id":3,"method":"server/discover","params":{"_meta":{}}}"#;
    assert_eq!(code(&client.ask(bare).await), "-32602");
    let ping = format!(r#"{{"jsonrpc":"2.0","id":4,"method":"ping","params":{{{MODERN}}}}}"#);
    assert_eq!(code(&client.ask(&ping).await), "-32601", "the stateless era has no ping");
}

#[tokio::test]
async fn a_client_can_fall_back_to_the_older_era_on_the_same_pipe() {
    let (house, _script) = house(Expose::Search).await;
    let mut client = house.connect();
    assert_eq!(code(&client.ask(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#).await), "-32600");
    assert_eq!(
        client.ask(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#).await.to_text(),
        r#"{"jsonrpc":"2.0","id":1,"result":{}}"#
    );
    client.initialize("2025-11-25").await;
    let answer = client.ask(r#"{"jsonrpc":"2.0","id":2,"method":"tools/list"}"#).await;
    let tools = answer.get("result").unwrap().get("tools").unwrap().as_array().unwrap();
    let names: Vec<_> = tools.iter().map(|tool| tool.get("name").unwrap().as_str().unwrap()).collect();
    assert_eq!(names, ["search_tools", "describe_tool", "call_tool"]);
    assert_eq!(code(&client.ask(r#"{"jsonrpc":"2.0","id":3,"method":"resources/list"}"#).await), "-32601");
}

#[tokio::test]
async fn a_call_comes_back_byte_for_byte_and_is_on_record() {
    let (house, mut script, mut client) = session(Expose::Search).await;
    client
        .say(r#"{"jsonrpc":"2.0","id":"q","method":"tools/call","params":{"name":"call_tool","arguments":{"server":"s","tool":"echo","arguments":{"x":1.0,"y":"\u0042","big":98765432109876543210}},"_meta":{"claudecode/toolUseId":"t1","io.modelcontextprotocol/x":1}}}"#)
        .await;
    let (id, method, params) = script.request().await;
    assert_eq!(method, "tools/call");
    assert_eq!(
        params.to_text(),
        r#"{"name":"echo","_meta":{"claudecode/toolUseId":"t1"},"arguments":{"x":1.0,"y":"\u0042","big":98765432109876543210}}"#
    );
    script.answer(&id, RESULT).await;
    assert_eq!(client.hear().await, format!(r#"{{"jsonrpc":"2.0","id":"q","result":{RESULT}}}"#));
    let log = house.audit.tail(2).unwrap();
    assert_eq!((log[0].outcome, log[1].outcome), (Outcome::Permit, Outcome::Ok));
    assert_eq!(log[0].call_id, log[1].call_id);
    assert!(log[1].detail["result_digest"].as_str().unwrap().starts_with("sha256:"));
    assert!(!format!("{log:?}").contains("98765432109876543210"), "no argument is in the log");
}

#[tokio::test]
async fn a_stateless_call_gains_the_result_type_and_nothing_else() {
    let (house, mut script) = house(Expose::Direct).await;
    let mut client = house.connect();
    client
        .say(&format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"s__echo","unknown":[1.0],{MODERN}}}}}"#
        ))
        .await;
    let (id, _, params) = script.request().await;
    assert_eq!(params.to_text(), r#"{"name":"echo","unknown":[1.0],"arguments":{}}"#);
    script.answer(&id, RESULT).await;
    let want = format!(
        r#"{{"jsonrpc":"2.0","id":1,"result":{},"resultType":"complete"}}}}"#,
        RESULT.strip_suffix('}').unwrap()
    );
    assert_eq!(client.hear().await, want);
}

#[tokio::test]
async fn an_error_of_the_server_is_given_through() {
    let (_house, mut script, mut client) = session(Expose::Direct).await;
    client.say(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"s__echo"}}"#).await;
    let (id, _, _) = script.request().await;
    script
        .say(&format!(
            r#"{{"jsonrpc":"2.0","id":{},"error":{{"code":-32602,"message":"m","data":{{"n":1.0}}}}}}"#,
            id.as_json()
        ))
        .await;
    assert_eq!(
        client.hear().await,
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"m","data":{"n":1.0}}}"#
    );
}

#[tokio::test]
async fn direct_tools_are_listed_as_written_but_for_the_name() {
    let (_house, _script, mut client) = session(Expose::Direct).await;
    client.say(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#).await;
    let want = ECHO.replace(r#""name":"echo""#, r#""name":"s__echo""#);
    assert_eq!(client.hear().await, format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"tools":[{want}]}}}}"#));
}

#[tokio::test]
async fn tools_are_found_and_described_as_written() {
    let (_house, _script, mut client) = session(Expose::Search).await;
    let call = |name: &str, arguments: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{name}","arguments":{arguments}}}}}"#
        )
    };
    let found = client.ask(&call("search_tools", r#"{"query":"echoes"}"#)).await;
    let structured = found.get("result").unwrap().get("structuredContent").unwrap();
    assert_eq!(text(&found), structured.to_text());
    assert_eq!(structured.get("tools").unwrap().as_array().unwrap()[0].get("tool").unwrap().as_str(), Some("echo"));
    for arguments in [r#"{"server":"s","tool":"echo"}"#, r#"{"name":"s__echo"}"#] {
        let described = client.ask(&call("describe_tool", arguments)).await;
        assert_eq!(described.get("result").unwrap().get("structuredContent").unwrap().to_text(), ECHO);
        assert_eq!(text(&described), ECHO);
    }
    for (name, arguments) in [
        ("search_tools", "{}"),
        ("search_tools", r#"{"query":" "}"#),
        ("search_tools", r#"{"query":"x","limit":0}"#),
        ("describe_tool", r#"{"server":"s"}"#),
        ("call_tool", r#"{"server":"s","tool":"echo","arguments":[]}"#),
        ("call_tool", r#"{"server":"s","tool":"echo","Tool":"other"}"#),
        ("call_tool", r#"{"server":"s","tool":"echo","argument\u017f":{}}"#),
    ] {
        let answer = client.ask(&call(name, arguments)).await;
        assert!(is_error(&answer), "{name} {arguments}: {answer}");
    }
    assert_eq!(code(&client.ask(&call("s__echo", "{}")).await), "-32602");
}

#[tokio::test]
async fn what_is_not_approved_cannot_be_told_from_what_does_not_exist() {
    let (house, _script, mut client) = session(Expose::Search).await;
    house.add("q", &[&ECHO.replace("echo", "hidden")]);
    house.door.index.rebuild(&house.door.admission.approved_tools().unwrap()).unwrap();
    let mut told = Vec::new();
    for (server, tool) in [("q", "hidden"), ("n", "hidden")] {
        for name in ["call_tool", "describe_tool"] {
            let line = format!(
                r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{name}","arguments":{{"server":"{server}","tool":"{tool}"}}}}}}"#
            );
            let answer = client.ask(&line).await;
            assert!(is_error(&answer));
            told.push(answer.to_text().replace(&format!("\\\"{server}\\\""), "SERVER"));
        }
    }
    told.dedup();
    assert_eq!(told.len(), 1, "{told:#?}");
    let found = client
        .ask(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search_tools","arguments":{"query":"hidden"}}}"#)
        .await;
    assert!(!found.to_text().contains("\"q\""), "{found}");
}

#[tokio::test]
async fn calls_run_side_by_side_and_a_cancelled_one_is_not_answered() {
    let (house, mut script, mut client) = session(Expose::Direct).await;
    let call =
        |id: &str| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"s__echo"}}}}"#);
    client.say(&call("1")).await;
    let (first, _, _) = script.request().await;
    client.say(&call("2")).await;
    let (second, _, _) = script.request().await;
    client.say(&call("\"1\"")).await;
    let (third, _, _) = script.request().await;
    assert_eq!(code(&client.ask(&call("2")).await), "-32600", "an id in flight cannot be used twice");
    client.say(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#).await;
    let Some(Message::Notification { method, params }) = script.next().await else { panic!() };
    assert_eq!((method.as_str(), params.unwrap().get("requestId")), ("notifications/cancelled", Some(first.as_json())));
    script.answer(&first, "{}").await;
    script.answer(&third, r#"{"n":3}"#).await;
    script.answer(&second, r#"{"n":2}"#).await;
    let mut heard = [client.hear().await, client.hear().await];
    heard.sort();
    assert!(
        heard[0].contains(r#""id":"1","result":{"n":3}"#) && heard[1].contains(r#""id":2,"result":{"n":2}"#),
        "{heard:?}"
    );
    house.door.unfinished.close();
    house.door.unfinished.wait().await;
    let unknown = |log: &[crate::audit::Record]| log.iter().any(|record| record.outcome == Outcome::Unknown);
    assert!(unknown(&house.audit.tail(20).unwrap()), "the cancelled call's end is on record");
}

#[tokio::test]
async fn progress_comes_back_under_the_clients_token() {
    let (_house, mut script, mut client) = session(Expose::Direct).await;
    client
        .say(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"s__echo","_meta":{"progressToken":"tok"}}}"#)
        .await;
    let (id, _, params) = script.request().await;
    let token = params.get("_meta").unwrap().get("progressToken").unwrap();
    assert_eq!(token, id.as_json(), "the server sees the daemon's token");
    script
        .say(&format!(r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{token},"progress":0.50,"x":1}}}}"#))
        .await;
    script
        .say(r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":77,"progress":1}}"#)
        .await;
    script.answer(&id, "{}").await;
    assert_eq!(
        client.hear().await,
        r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"tok","progress":0.50,"x":1}}"#
    );
    assert_eq!(client.hear().await, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
}

#[tokio::test]
async fn a_revoked_agent_loses_its_session_and_its_calls_at_once() {
    let (house, mut script, mut client) = session(Expose::Direct).await;
    client.say(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"s__echo"}}"#).await;
    script.request().await;
    house.door.registry.revoke(&house.agent, RevocationReason::AdminAction, "operator").unwrap();
    assert!(matches!(client.ended.recv().await, Some(End::NotActive(_))));
    let answer = Json::parse(&client.hear().await, 64).unwrap();
    assert_eq!((code(&answer).as_str(), answer.get("id")), ("-32001", Some(&Json::number(1))), "{answer}");
    assert!(answer.to_text().contains("revoked"), "{answer}");
    assert_eq!(client.lines.next_line().await.unwrap(), None);
    assert_cancelled(&mut script).await;
}

/// The server is told to stop its work.
async fn assert_cancelled(script: &mut Script) {
    let said = script.next().await;
    let cancelled = matches!(&said, Some(Message::Notification { method, .. }) if method == "notifications/cancelled");
    assert!(cancelled, "{said:?}");
}

#[tokio::test]
async fn a_call_in_flight_ends_with_the_approval_of_its_tool_and_the_session_goes_on() {
    let (house, mut script, mut client) = session(Expose::Search).await;
    client
        .say(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"call_tool","arguments":{"server":"s","tool":"echo"}}}"#)
        .await;
    script.request().await;
    let denied = crate::admission::AdmissionState::Denied;
    house.door.admission.set_tool("s", "echo", denied, None, "operator", "no").unwrap();
    let answer = Json::parse(&client.hear().await, 64).unwrap();
    assert!(is_error(&answer) && text(&answer).contains("taken out of service during the call"), "{answer}");
    assert_cancelled(&mut script).await;
    let records = house.audit.tail(2).unwrap();
    assert_eq!((records[0].kind, &records[0].detail["gate"]), (Kind::Denial, &serde_json::json!("revocation")));
    assert_eq!((records[1].kind, records[1].outcome), (Kind::Result, Outcome::Unknown));
    assert_eq!(client.ask(r#"{"jsonrpc":"2.0","id":2,"method":"ping"}"#).await.get("id"), Some(&Json::number(2)));
}

#[tokio::test]
async fn a_call_in_flight_outlives_changes_that_do_not_concern_it() {
    let (house, mut script, mut client) = session(Expose::Direct).await;
    client.say(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"s__echo"}}"#).await;
    let (id, ..) = script.request().await;
    house.add("t", &[ECHO]);
    house.door.admission.approve("t", "operator", None).unwrap();
    house.door.registry.enroll(&"x@y.z".parse().unwrap(), *house.identity.session_pub(), None, "operator").unwrap_err();
    house.door.registry.bind_uid(&house.agent, Some(house.identity.uid()), "operator").unwrap();
    script.answer(&id, RESULT).await;
    while !client.hear().await.contains(RESULT) {}
}

/// `child` acts for the house's agent; the chain's id.
fn child_of(house: &mut House, cap: &str) -> String {
    use crate::identity::delegation::{self, Terms};
    use crate::identity::{Address, AgentKey};
    let registry = &house.door.registry;
    let (root, key, daemon) =
        (AgentKey::generate().unwrap(), AgentKey::generate().unwrap(), AgentKey::generate().unwrap());
    registry.rotate(&house.agent, root.public(), "operator").unwrap();
    let enrolment = crate::identity::Enrolment { sub_agent: true, ..Default::default() };
    let child: Address = "reader@acme.lazaret.local".parse().unwrap();
    let agent = registry.enroll_with(&child, key.public(), enrolment, "operator").unwrap();
    let aud = daemon.public().did();
    let capabilities = delegation::Capabilities::new(vec![cap.parse().unwrap()]).unwrap();
    let now = jiff::Timestamp::now().as_second();
    let terms = Terms { to: key.public(), audience: aud.clone(), exp: now + 600, capabilities, max_depth: None };
    let (chain, jti) = delegation::extend(&[], &root, terms, now).unwrap();
    assert!(registry.lineage(&agent, &key.public(), &[], &aud).is_err(), "never without a delegation");
    let lineage = registry.lineage(&agent, &key.public(), &chain, &aud).unwrap();
    assert_eq!((lineage.depth, lineage.root().address.clone()), (2, house.agent.clone()));
    house.identity = crate::identity::SessionIdentity::for_test(&child, &key.public()).with_lineage(lineage);
    jti
}

#[tokio::test]
async fn a_sub_agent_sees_finds_and_calls_what_it_was_granted_and_no_more() {
    let (mut house, mut script) = house(Expose::Direct).await;
    child_of(&mut house, "s:echo");
    house.add("t", &[ECHO]);
    house.door.admission.approve("t", "operator", None).unwrap();
    house.door.index.rebuild(&house.door.admission.approved_tools().unwrap()).unwrap();
    let mut client = house.connect();
    client.initialize("2025-11-25").await;
    let listed = client.ask(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#).await.to_text();
    assert!(listed.contains("s__echo") && !listed.contains("t__echo"), "{listed}");
    let answer = client.ask(r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"t__echo"}}"#).await;
    assert!(is_error(&answer) && text(&answer).contains("was not found"), "{answer}");
    assert!(house.audit.tail(1).unwrap()[0].reason.as_deref().unwrap().contains("grants s:echo, not this tool"));
    client.say(r#"{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"s__echo"}}"#).await;
    let (id, ..) = script.request().await;
    script.answer(&id, "{}").await;
    client.hear().await;
    let intent = house.audit.tail(2).unwrap().remove(0);
    assert_eq!((&intent.detail["depth"], &intent.detail["evidence"]), (&2.into(), &"proven".into()), "{intent:?}");

    let seen = |tools: Json| tools.to_text();
    let search = super::tools::search(
        &house.door,
        &house.identity,
        &Json::parse(r#"{"query":"echoes"}"#, 9).unwrap(),
        Era::Handshake,
    );
    let found = seen(search);
    assert!(found.contains(r#""server":"s""#) && !found.contains(r#""server":"t""#), "{found}");
    let asked = Json::parse(r#"{"server":"t","tool":"echo"}"#, 9).unwrap();
    assert!(
        seen(super::tools::describe(&house.door, &house.identity, &asked, Era::Handshake)).contains("was not found")
    );
}

#[tokio::test]
async fn a_sub_agent_ends_with_its_delegation_and_with_its_parent() {
    for end in ["delegation", "parent", "suspended", "parent's key"] {
        let (mut house, mut script) = house(Expose::Direct).await;
        let jti = child_of(&mut house, "s:*");
        let mut client = house.connect();
        client.initialize("2025-11-25").await;
        client.say(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"s__echo"}}"#).await;
        script.request().await;
        let (registry, parent) = (&house.door.registry, &house.agent);
        match end {
            "delegation" => drop(registry.revoke_delegation(&jti, "operator").unwrap()),
            "parent" => drop(registry.revoke(parent, RevocationReason::AdminAction, "operator").unwrap()),
            "suspended" => drop(registry.suspend(parent, "operator", "holiday").unwrap()),
            _ => {
                let new = crate::identity::AgentKey::generate().unwrap().public();
                drop(registry.rotate(parent, new, "operator").unwrap());
            }
        }
        let answer = Json::parse(&client.hear().await, 64).unwrap();
        assert_eq!(code(&answer), "-32001", "{end}: {answer}");
        assert!(matches!(client.ended.recv().await, Some(End::NotActive(_))), "{end}");
        assert_cancelled(&mut script).await;
    }
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_shut_out_all_the_same() {
    let (house, mut script) = house(Expose::Direct).await;
    let mut client = house.connect();
    client.initialize("2025-11-25").await;
    client.say(r#"{"jsonrpc":"2.0","id":"held","method":"tools/call","params":{"name":"s__echo"}}"#).await;
    script.request().await;
    // More answers than the pipe takes, and nobody reads them.
    for n in 0..200 {
        let method = format!("tools/{}", "x".repeat(500));
        client.say(&format!(r#"{{"jsonrpc":"2.0","id":"{n}","method":"{method}"}}"#)).await;
    }
    house.door.registry.suspend(&house.agent, "operator", "stop").unwrap();
    assert!(matches!(client.ended.recv().await, Some(End::NotActive(_))));
    assert_cancelled(&mut script).await;
}

#[tokio::test]
async fn a_server_that_dies_in_a_call_gives_an_error_and_an_unknown_end() {
    let (house, mut script, mut client) = session(Expose::Direct).await;
    client.say(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"s__echo"}}"#).await;
    script.request().await;
    drop(script);
    let answer = Json::parse(&client.hear().await, 64).unwrap();
    assert!(is_error(&answer) && text(&answer).contains("ended during the call"), "{answer}");
    assert_eq!(house.audit.tail(1).unwrap()[0].outcome, Outcome::Unknown);
}

#[tokio::test]
async fn a_change_of_approvals_is_told_where_the_list_follows_them() {
    let (house, _script, mut client) = session(Expose::Direct).await;
    client.ask(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#).await;
    house.add("t", &[ECHO]);
    house.door.admission.approve("t", "operator", None).unwrap();
    assert_eq!(client.hear().await, r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#);
}

#[tokio::test]
async fn malformed_lines_are_answered_and_do_not_end_the_session() {
    let (_house, _script, mut client) = session(Expose::Search).await;
    assert_eq!(client.ask("Content-Length: 12").await.get("id"), Some(&Json::Null));
    assert_eq!(code(&client.ask("[]").await), "-32600");
    assert_eq!(code(&client.ask(&"x".repeat(70 << 10)).await), "-32600");
    let twice = r#"{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"call_tool","name":"x"}}"#;
    assert_eq!(code(&client.ask(twice).await), "-32600");
    assert_eq!(code(&client.ask(r#"{"jsonrpc":"2.0","id":6,"method":"tools/call "}"#).await), "-32601");
    client.say(r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"call_tool"}}"#).await;
    assert_eq!(client.ask(r#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#).await.get("id"), Some(&Json::number(7)));
}

#[tokio::test]
async fn a_tool_that_is_denied_while_its_server_is_checked_is_not_called() {
    let (house, mut script, mut client) = session(Expose::Search).await;
    let entry = house.door.admission.get("s").unwrap().unwrap();
    let mut changed = house.door.hub.upstream(&entry).await.unwrap().tools_changed();
    script.say(r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#).await;
    changed.changed().await.unwrap();
    client
        .say(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"call_tool","arguments":{"server":"s","tool":"echo"}}}"#)
        .await;
    let (id, method, _) = script.request().await;
    assert_eq!(method, "tools/list");
    house
        .door
        .admission
        .set_tool("s", "echo", crate::admission::AdmissionState::Denied, None, "operator", "no")
        .unwrap();
    script.answer(&id, &format!(r#"{{"tools":[{ECHO}]}}"#)).await;
    let answer = Json::parse(&client.hear().await, 64).unwrap();
    assert!(is_error(&answer) && text(&answer).contains("was not found"), "{answer}");
    let records = house.audit.tail(2).unwrap();
    assert_eq!((records[0].kind, &records[0].detail["gate"]), (Kind::Denial, &serde_json::json!("revocation")));
    assert_eq!((records[1].kind, records[1].outcome), (Kind::Result, Outcome::Deny));
    assert_eq!(records[0].call_id, records[1].call_id);
    drop((client, house));
    while let Some(said) = script.next().await {
        assert!(!matches!(said, Message::Request { .. }), "{said:?}");
    }
}

#[tokio::test]
async fn an_agent_that_is_bound_to_another_user_loses_its_session() {
    let (house, _script, mut client) = session(Expose::Search).await;
    house.door.registry.bind_uid(&house.agent, Some(house.identity.uid()), "operator").unwrap();
    client.ask(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#).await;
    house.door.registry.bind_uid(&house.agent, Some(house.identity.uid() + 1), "operator").unwrap();
    assert!(matches!(client.ended.recv().await, Some(End::NotActive(_))));
}

#[tokio::test]
async fn a_cancelled_call_keeps_its_place_until_its_end_is_on_record() {
    let (house, mut script) = house(Expose::Search).await;
    let places = Arc::new(Semaphore::new(1));
    let (door, identity) = (house.door.clone(), Arc::new(house.identity.clone()));
    let wanted = forward::Wanted {
        server: "s".into(),
        tool: "echo".into(),
        params: Json::Null,
        arguments: None,
        handle: None,
        patience: None,
    };
    {
        let call = forward::call(&door, &identity, &places, wanted, None);
        tokio::select! {
            _answer = call => panic!("it was not answered"),
            _forwarded = script.request() => {}
        }
    }
    assert_eq!(places.available_permits(), 0);
    door.unfinished.close();
    let (place, ()) = tokio::join!(places.acquire(), door.unfinished.wait());
    drop(place);
    let last = house.audit.tail(1).unwrap().remove(0);
    assert_eq!((last.kind, last.outcome), (Kind::Result, Outcome::Unknown));
}

#[tokio::test]
async fn what_an_agent_is_not_registered_for_is_neither_found_nor_described_nor_called_nor_listed() {
    use crate::identity::{Actions, Amendment};
    let register = |house: &House, pattern: &str| {
        let actions = Some(Actions::of(&[pattern.to_owned()]).unwrap());
        let amendment = Amendment { actions, ..Amendment::default() };
        house.door.registry.amend(&house.agent, amendment, "operator").unwrap();
    };
    let call = |name: &str, arguments: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{name}","arguments":{arguments}}}}}"#
        )
    };
    let (house, _script, mut client) = session(Expose::Search).await;
    let search = call("search_tools", r#"{"query":"echoes"}"#);
    assert!(text(&client.ask(&search).await).contains("\"echo\""));
    register(&house, "s/other");
    assert_eq!(text(&client.ask(&search).await), r#"{"tools":[]}"#);
    let unknown = text(&client.ask(&call("describe_tool", r#"{"server":"s","tool":"nothing"}"#)).await);
    for verb in ["describe_tool", "call_tool"] {
        let answer = client.ask(&call(verb, r#"{"server":"s","tool":"echo"}"#)).await;
        assert!(is_error(&answer));
        assert_eq!(
            text(&answer),
            unknown.replace("nothing", "echo"),
            "{verb} tells what does not exist from what is hidden"
        );
    }

    let (house, _script, mut client) = session(Expose::Direct).await;
    register(&house, "other/*");
    // The open session hears that its list is another one.
    assert!(client.hear().await.contains("notifications/tools/list_changed"));
    let listed = client.ask(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#).await;
    assert_eq!(listed.get("result").unwrap().to_text(), r#"{"tools":[]}"#);
    assert!(is_error(&client.ask(&call("s__echo", "{}")).await));
}

const ASKS: &str = r#"permit (principal, action, resource) when { context.approval == "human" };"#;

/// The id of the one call that waits.
async fn waiting(house: &House) -> String {
    let mut news = house.door.gates.asks().news();
    if let Some(ask) = house.door.gates.asks().list().0.first() {
        return ask.id.clone();
    }
    tokio::time::timeout(std::time::Duration::from_secs(30), news.recv()).await.unwrap().unwrap().id
}

#[tokio::test]
async fn a_call_waits_for_a_human_and_goes_on_as_it_was() {
    let (house, mut script, mut client) = session(Expose::Direct).await;
    house.policy(ASKS);
    let asks = house.door.gates.asks().clone();
    client.say(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"s__echo","arguments":{"x":1.0},"_meta":{"progressToken":"p"}}}"#).await;
    let progress = Json::parse(&client.hear().await, 64).unwrap();
    assert_eq!(progress.get("method").unwrap().as_str(), Some("notifications/progress"));
    let told = progress.get("params").unwrap();
    assert_eq!(told.get("progressToken").unwrap().as_str(), Some("p"));
    assert!(told.get("message").unwrap().as_str().unwrap().contains("waiting for a human"));
    let id = waiting(&house).await;
    assert_eq!(asks.show(&id).unwrap().arguments.as_deref(), Some(r#"{"x":1.0}"#));
    asks.approve(&id, "ann", 1, std::time::Duration::from_secs(60)).unwrap();
    let (call, _, params) = script.request().await;
    assert_eq!(params.get("arguments").unwrap().to_text(), r#"{"x":1.0}"#);
    script.answer(&call, RESULT).await;
    loop {
        let line = client.hear().await;
        if !line.contains("notifications/progress") {
            assert_eq!(line, format!(r#"{{"jsonrpc":"2.0","id":1,"result":{RESULT}}}"#));
            break;
        }
    }
    let log = house.audit.tail(4).unwrap();
    let kinds: Vec<_> = log.iter().map(|record| (record.kind, record.outcome)).collect();
    let expected = [
        (Kind::Ask, Outcome::Held),
        (Kind::Ask, Outcome::Permit),
        (Kind::Call, Outcome::Permit),
        (Kind::Result, Outcome::Ok),
    ];
    assert_eq!(kinds, expected);
    assert_eq!((log[1].actor.as_str(), log[2].detail["approval"]["by"].as_str()), ("ann", Some("ann")));
    assert!(asks.list().0.is_empty() && asks.list().1.is_empty(), "the one use is used");
}

#[tokio::test]
async fn a_stateless_client_is_told_to_come_again_and_only_for_the_same_call() {
    let (house, mut script) = house(Expose::Direct).await;
    house.policy(ASKS);
    house.door.patience(std::time::Duration::from_millis(20));
    let mut client = house.connect();
    let call = |id: u32, x: u32, more: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"s__echo","arguments":{{"x":{x}}},{more}{MODERN}}}}}"#
        )
    };
    let answer = client.ask(&call(1, 1, "")).await;
    let result = answer.get("result").unwrap();
    assert_eq!(result.get("resultType").unwrap().as_str(), Some("input_required"));
    let state = format!(r#""requestState":{},"#, result.get("requestState").unwrap().to_text());
    for (id, x, forged) in [(2, 2, state.clone()), (3, 1, r#""requestState":"lazaret-ask-v1.00","#.to_owned())] {
        let answer = client.ask(&call(id, x, &forged)).await;
        assert!(is_error(&answer) && text(&answer).contains("requestState"), "{}", answer.to_text());
    }
    let again = client.ask(&call(4, 1, &state)).await;
    assert_eq!(again.get("result").unwrap().get("resultType").unwrap().as_str(), Some("input_required"));
    let asks = house.door.gates.asks().clone();
    assert_eq!(asks.list().0.len(), 1, "it is the same call that waits");
    asks.approve(&waiting(&house).await, "ann", 1, std::time::Duration::from_secs(60)).unwrap();
    client.say(&call(5, 1, &state)).await;
    let (id, _, params) = script.request().await;
    assert_eq!(params.to_text(), r#"{"name":"echo","arguments":{"x":1}}"#, "the state is between client and door");
    script.answer(&id, r#"{"content":[]}"#).await;
    assert!(client.hear().await.contains(r#""resultType":"complete""#));
    let answer = client.ask(&call(6, 1, &state)).await;
    assert!(is_error(&answer), "it was approved once: {}", answer.to_text());
}

#[tokio::test]
async fn a_waiting_call_ends_when_its_client_cancels_or_leaves_and_when_its_tool_goes() {
    let (house, _script, mut client) = session(Expose::Direct).await;
    house.policy(ASKS);
    let asks = house.door.gates.asks().clone();
    let gone = async || {
        while !asks.list().0.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"s__echo"}}"#;
    client.say(call).await;
    let id = waiting(&house).await;
    client.say(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#).await;
    gone().await;
    assert!(asks.approve(&id, "ann", 1, std::time::Duration::from_secs(60)).is_err(), "nothing is left to approve");
    client.say(call).await;
    waiting(&house).await;
    drop(client);
    gone().await;
    let mut client = house.connect();
    client.initialize("2025-06-18").await;
    client.say(call).await;
    waiting(&house).await;
    house.door.admission.quarantine("s", "lazaret", "it changed").unwrap();
    let mut line = client.hear().await;
    if line.contains("list_changed") {
        line = client.hear().await;
    }
    let answer = Json::parse(&line, 64).unwrap();
    assert!(is_error(&answer) && text(&answer).contains("not found"), "{line}");
    gone().await;
}
