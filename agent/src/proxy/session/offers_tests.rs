//! Prompts, resources and completions through the door, and what servers say and ask while a call is in flight.

use super::*;
use crate::audit::Outcome;
use crate::config::ProxyConfig;
use crate::identity::Amendment;
use crate::proxy::testing::{Client, House, Script, house};

const MODERN: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;
const GREET: &str = r#"{"name":"greet","x-unknown":1.0,"arguments":[{"name":"who","required":true}]}"#;
const FILES: &str = r#"{"uriTemplate":"file:///{path}","name":"files","x-unknown":1.0}"#;

async fn offering(expose: Expose) -> (House, Script) {
    let (house, _s) = house(expose).await;
    let script = house.offer("p", &format!("[{GREET}]"), &format!("[{FILES}]")).await;
    (house, script)
}

async fn connected(house: &House) -> Client {
    let mut client = house.connect();
    client.initialize("2025-11-25").await;
    client
}

fn request(id: u32, method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#)
}

fn code(answer: &Json) -> String {
    answer.get("error").and_then(|error| error.get("code")).map(Json::to_text).unwrap_or_default()
}

fn result(answer: &Json) -> String {
    answer.get("result").map(Json::to_text).unwrap_or_else(|| panic!("no result: {answer}"))
}

/// Lets the agent use these alone.
fn narrow(house: &House, actions: &[&str]) {
    let actions = actions.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let actions = crate::identity::Actions::of(&actions).unwrap();
    let amendment = Amendment { actions: Some(actions), ..Amendment::default() };
    house.door.registry.amend(&house.agent, amendment, "operator").unwrap();
}

#[tokio::test]
async fn what_no_approved_server_has_is_neither_announced_nor_served() {
    let (house, _script) = house(Expose::Search).await;
    let mut client = house.connect();
    let greeted = client.initialize("2025-11-25").await;
    assert_eq!(
        greeted.get("result").unwrap().get("capabilities").unwrap().to_text(),
        r#"{"tools":{"listChanged":false}}"#
    );
    for (method, params) in [
        ("prompts/list", "{}"),
        ("prompts/get", r#"{"name":"p__greet"}"#),
        ("resources/list", "{}"),
        ("resources/templates/list", "{}"),
        ("resources/read", r#"{"uri":"file:///x"}"#),
        ("resources/subscribe", r#"{"uri":"file:///x"}"#),
        ("completion/complete", r#"{"ref":{},"argument":{}}"#),
        ("logging/setLevel", r#"{"level":"info"}"#),
        ("subscriptions/listen", "{}"),
    ] {
        assert_eq!(code(&client.ask(&request(1, method, params)).await), "-32601", "{method}");
    }
}

#[tokio::test]
async fn lists_are_the_servers_own_but_for_the_names() {
    let (house, mut script) = offering(Expose::Search).await;
    let mut client = house.connect();
    let greeted = client.initialize("2025-11-25").await;
    assert_eq!(
        greeted.get("result").unwrap().get("capabilities").unwrap().to_text(),
        r#"{"tools":{"listChanged":false},"prompts":{"listChanged":true},"resources":{"listChanged":true},"completions":{},"logging":{}}"#
    );
    let answer = client.ask(&request(1, "prompts/list", "{}")).await;
    assert_eq!(result(&answer), format!(r#"{{"prompts":[{}]}}"#, GREET.replace("greet", "p__greet")));
    let answer = client.ask(&request(2, "resources/templates/list", "{}")).await;
    let wrapped = FILES.replace("file:///", "lazaret://p/file:///");
    assert_eq!(result(&answer), format!(r#"{{"resourceTemplates":[{wrapped}]}}"#));
    client.say(&request(3, "resources/list", "{}")).await;
    let (id, method, _) = script.request().await;
    assert_eq!(method, "resources/list");
    script.answer(&id, r#"{"resources":[{"uri":"file:///a","name":"a","size":1.0},{"name":"no uri"}]}"#).await;
    let answer = Json::parse(&client.hear().await, 32).unwrap();
    assert_eq!(result(&answer), r#"{"resources":[{"uri":"lazaret://p/file:///a","name":"a","size":1.0}]}"#);

    let answer = client.ask(&request(4, "prompts/list", r#"{"cursor":"x"}"#)).await;
    assert_eq!(code(&answer), "-32602");
    let answer = client.ask(&request(5, "prompts/list", &format!("{{{MODERN}}}"))).await;
    for member in ["\"resultType\":\"complete\"", "\"ttlMs\":0", "\"cacheScope\":\"private\""] {
        assert!(result(&answer).contains(member), "{answer}");
    }
    let answer = client.ask(&request(6, "server/discover", &format!("{{{MODERN}}}"))).await;
    assert!(result(&answer).contains(r#""prompts":{},"resources":{},"completions":{}"#), "{answer}");
}

#[tokio::test]
async fn what_is_got_read_and_completed_comes_back_as_it_was_written_and_is_on_record() {
    let (house, mut script) = offering(Expose::Search).await;
    let mut client = connected(&house).await;
    const REPLY: &str =
        r#"{"z":1.0,"messages":[{"role":"user","content":{"type":"text","text":"\u0041"}}],"contents":[]}"#;
    for (method, params, forwarded, name) in [
        (
            "prompts/get",
            r#"{"x":1.0,"name":"p__greet","arguments":{"who":"\u0042"},"_meta":{"io.modelcontextprotocol/x":1}}"#,
            r#"{"x":1.0,"name":"greet","arguments":{"who":"\u0042"}}"#,
            "prompt:greet",
        ),
        ("prompts/get", r#"{"name":"p__greet"}"#, r#"{"name":"greet"}"#, "prompt:greet"),
        ("resources/read", r#"{"uri":"lazaret://p/file:///a/b"}"#, r#"{"uri":"file:///a/b"}"#, "resource:file:///a/b"),
        // A single server has resources, so that its own URIs say enough.
        ("resources/read", r#"{"uri":"file:///a/b"}"#, r#"{"uri":"file:///a/b"}"#, "resource:file:///a/b"),
        (
            "completion/complete",
            r#"{"ref":{"type":"ref/prompt","name":"p__greet"},"argument":{"name":"who","value":"a"}}"#,
            r#"{"ref":{"type":"ref/prompt","name":"greet"},"argument":{"name":"who","value":"a"}}"#,
            "completion:prompt:greet",
        ),
        (
            "completion/complete",
            r#"{"ref":{"type":"ref/resource","uri":"lazaret://p/file:///{path}"},"argument":{"name":"path","value":"a"},"context":{"arguments":{}}}"#,
            r#"{"ref":{"type":"ref/resource","uri":"file:///{path}"},"argument":{"name":"path","value":"a"},"context":{"arguments":{}}}"#,
            "completion:resource:file:///{path}",
        ),
    ] {
        client.say(&request(7, method, params)).await;
        let (id, asked, params) = script.request().await;
        assert_eq!((asked.as_str(), params.to_text().as_str()), (method, forwarded));
        script.answer(&id, REPLY).await;
        assert_eq!(client.hear().await, format!(r#"{{"jsonrpc":"2.0","id":7,"result":{REPLY}}}"#));
        let log = house.audit.tail(2).unwrap();
        assert_eq!((log[0].outcome, log[1].outcome), (Outcome::Permit, Outcome::Ok));
        assert_eq!((log[0].server.as_deref(), log[0].tool.as_deref()), (Some("p"), Some(name)));
    }
    client.say(&request(8, "resources/read", &format!(r#"{{"uri":"file:///a",{MODERN}}}"#))).await;
    let (id, ..) = script.request().await;
    script.answer(&id, r#"{"contents":[],"ttlMs":9}"#).await;
    let answer = client.hear().await;
    let members = r#"{"contents":[],"ttlMs":9,"resultType":"complete","cacheScope":"private"}"#;
    assert_eq!(answer, format!(r#"{{"jsonrpc":"2.0","id":8,"result":{members}}}"#));
}

#[tokio::test]
async fn what_does_not_exist_is_not_found_in_the_words_of_each_era() {
    let (house, _script) = offering(Expose::Search).await;
    let mut client = connected(&house).await;
    for (method, params, wanted) in [
        ("prompts/get", r#"{"name":"p__other"}"#, "-32602"),
        ("prompts/get", r#"{"name":"greet"}"#, "-32602"),
        ("prompts/get", r#"{"name":"s__greet"}"#, "-32602"),
        ("resources/read", r#"{"uri":"lazaret://s/file:///x"}"#, "-32002"),
        ("resources/read", r#"{"uri":"lazaret://no/file:///x"}"#, "-32002"),
        ("completion/complete", r#"{"ref":{"type":"ref/tool"},"argument":{}}"#, "-32602"),
        ("completion/complete", r#"{"ref":{"type":"ref/resource","uri":"lazaret://p/x:{y}"},"argument":{}}"#, "-32602"),
    ] {
        assert_eq!(code(&client.ask(&request(1, method, params)).await), wanted, "{method} {params}");
    }
    let modern = format!(r#"{{"uri":"lazaret://s/file:///x",{MODERN}}}"#);
    assert_eq!(code(&client.ask(&request(2, "resources/read", &modern)).await), "-32602");
    // Neither is any of them a tool.
    let call = r#"{"name":"call_tool","arguments":{"server":"p","tool":"prompt:greet"}}"#;
    assert!(result(&client.ask(&request(3, "tools/call", call)).await).contains("not found"));
}

#[tokio::test]
async fn an_agent_sees_and_uses_what_its_actions_name_and_nothing_else() {
    let (house, mut script) = offering(Expose::Search).await;
    narrow(&house, &["p/resource:file:///a/*", "p/echo"]);
    let mut client = house.connect();
    let greeted = client.initialize("2025-11-25").await;
    let capabilities = greeted.get("result").unwrap().get("capabilities").unwrap().to_text();
    assert_eq!(capabilities, r#"{"tools":{"listChanged":false},"resources":{"listChanged":true},"logging":{}}"#);
    assert_eq!(code(&client.ask(&request(1, "prompts/get", r#"{"name":"p__greet"}"#)).await), "-32601");
    assert_eq!(code(&client.ask(&request(2, "resources/read", r#"{"uri":"file:///b"}"#)).await), "-32002");
    client.say(&request(3, "resources/list", "{}")).await;
    let (id, ..) = script.request().await;
    script.answer(&id, r#"{"resources":[{"uri":"file:///a/1"},{"uri":"file:///b"}]}"#).await;
    let answer = Json::parse(&client.hear().await, 32).unwrap();
    assert_eq!(result(&answer), r#"{"resources":[{"uri":"lazaret://p/file:///a/1"}]}"#);

    narrow(&house, &["s/*"]);
    let mut client = connected(&house).await;
    assert_eq!(code(&client.ask(&request(1, "resources/list", "{}")).await), "-32601");
}

#[tokio::test]
async fn policies_judge_the_prompt_its_arguments_and_the_uri() {
    let (house, mut script) = offering(Expose::Search).await;
    house.policy(
        r#"@id("ok") permit(principal, action, resource);
           @id("etc") forbid(principal, action == Action::"read_resource", resource in Server::"p") when { context.path_ancestors.contains("/etc") };
           @id("hosts") forbid(principal, action == Action::"read_resource", resource) when { context.url_host.contains("inner.example") };
           @id("greet") forbid(principal, action == Action::"get_prompt", resource == Prompt::"p:greet") when { context.arguments.contains("who") };
           @id("no completion") forbid(principal, action == Action::"complete", resource is Prompt);"#,
    );
    let mut client = connected(&house).await;
    for (method, params, policy) in [
        ("resources/read", r#"{"uri":"file:///a/../etc/shadow"}"#, "etc"),
        ("resources/read", r#"{"uri":"https://INNER.example/x"}"#, "hosts"),
        ("prompts/get", r#"{"name":"p__greet","arguments":{"who":"x"}}"#, "greet"),
        (
            "completion/complete",
            r#"{"ref":{"type":"ref/prompt","name":"p__greet"},"argument":{"name":"who","value":""}}"#,
            "no completion",
        ),
    ] {
        let answer = client.ask(&request(1, method, params)).await;
        assert_eq!(code(&answer), "-32003", "{answer}");
        assert!(answer.to_text().contains(&format!("policy {policy} forbids")), "{answer}");
        assert!(answer.to_text().contains(r#""data":{"gate":"policy"}"#), "{answer}");
        assert_eq!(house.audit.tail(1).unwrap()[0].outcome, Outcome::Deny);
    }
    client.say(&request(2, "prompts/get", r#"{"name":"p__greet"}"#)).await;
    let (id, ..) = script.request().await;
    script.answer(&id, r#"{"messages":[]}"#).await;
    assert!(client.hear().await.contains("messages"));
    // What permits calls permits nothing else.
    house.policy(r#"permit(principal, action == Action::"call", resource);"#);
    assert_eq!(code(&client.ask(&request(3, "prompts/get", r#"{"name":"p__greet"}"#)).await), "-32003");
}

#[tokio::test]
async fn two_servers_with_one_name_are_told_apart_or_refused() {
    let (house, _p) = offering(Expose::Direct).await;
    let _q = house.offer("q", &format!(r#"[{GREET},{{"name":"only"}}]"#), "[]").await;
    let mut client = connected(&house).await;
    let answer = client.ask(&request(1, "prompts/list", "{}")).await;
    for name in ["p__greet", "q__greet", "q__only"] {
        assert!(result(&answer).contains(&format!("\"name\":\"{name}\"")), "{answer}");
    }
    let answer = client.ask(&request(2, "resources/read", r#"{"uri":"file:///a"}"#)).await;
    assert_eq!(code(&answer), "-32602");
    assert!(answer.to_text().contains("lazaret://p/file:///a, lazaret://q/file:///a"), "{answer}");
}

/// As [`offering`], with names as the servers have them.
async fn bare_names() -> (House, Script) {
    let (mut house, script) = offering(Expose::Direct).await;
    let door = &house.door;
    let config = ProxyConfig { prefix: false, ..door.config.clone() };
    house.door = Door::new(
        config,
        door.gates.clone(),
        door.registry.clone(),
        door.admission.clone(),
        door.index.clone(),
        door.hub.clone(),
    );
    (house, script)
}

#[tokio::test]
async fn without_prefixes_a_single_server_looks_as_it_does_bare() {
    let (house, mut script) = bare_names().await;
    narrow(&house, &["p/*"]);
    let mut client = connected(&house).await;
    let answer = client.ask(&request(1, "tools/list", "{}")).await;
    assert!(result(&answer).contains(r#""name":"echo""#), "{answer}");
    let answer = client.ask(&request(2, "prompts/list", "{}")).await;
    assert_eq!(result(&answer), format!(r#"{{"prompts":[{GREET}]}}"#));
    let answer = client.ask(&request(3, "resources/templates/list", "{}")).await;
    assert_eq!(result(&answer), format!(r#"{{"resourceTemplates":[{FILES}]}}"#));
    for (method, params) in [("tools/call", r#"{"name":"echo"}"#), ("prompts/get", r#"{"name":"greet"}"#)] {
        client.say(&request(4, method, params)).await;
        let (id, asked, _) = script.request().await;
        assert_eq!(asked, method);
        script.answer(&id, "{}").await;
        client.hear().await;
    }
}

#[tokio::test]
async fn without_prefixes_a_name_of_two_servers_is_refused_and_both_are_listed_with_theirs() {
    let (house, mut script) = bare_names().await;
    let mut client = connected(&house).await;
    let answer = client.ask(&request(1, "tools/list", "{}")).await;
    assert!(result(&answer).contains(r#""name":"p__echo""#), "{answer}");
    assert!(result(&answer).contains(r#""name":"s__echo""#), "{answer}");
    let answer = client.ask(&request(2, "tools/call", r#"{"name":"echo"}"#)).await;
    assert!(result(&answer).contains("call one of p__echo, s__echo"), "{answer}");
    client.say(&request(3, "tools/call", r#"{"name":"p__echo"}"#)).await;
    let (id, _, params) = script.request().await;
    assert_eq!(params.get("name").unwrap().as_str(), Some("echo"));
    script.answer(&id, "{}").await;
    assert_eq!(client.hear().await, r#"{"jsonrpc":"2.0","id":3,"result":{}}"#);
}

#[tokio::test]
async fn a_changed_prompt_is_gone_until_it_is_approved_again_and_clients_hear_of_it() {
    let (house, _script) = offering(Expose::Search).await;
    let mut client = connected(&house).await;
    client.ask(&request(1, "ping", "{}")).await;
    house.door.admission.quarantine("p", "lazaret", "it changed").unwrap();
    let mut told = std::collections::BTreeSet::new();
    while told.len() < 2 {
        told.insert(client.hear().await);
    }
    assert!(told.iter().any(|line| line.contains("notifications/prompts/list_changed")), "{told:?}");
    assert!(told.iter().any(|line| line.contains("notifications/resources/list_changed")), "{told:?}");
    assert_eq!(code(&client.ask(&request(2, "prompts/get", r#"{"name":"p__greet"}"#)).await), "-32601");
    house.list_again("p", r#"[{"name":"greet","description":"another"}]"#, "[]");
    let prompts = loop {
        client.say(&request(3, "prompts/list", "{}")).await;
        let line = client.hear().await;
        if line.contains("\"id\":3") {
            break line;
        }
    };
    assert!(prompts.contains("another"), "{prompts}");
}

#[tokio::test]
async fn a_tool_with_a_header_that_breaks_the_rules_is_neither_listed_nor_found() {
    let (house, mut script) = house(Expose::Direct).await;
    let bad = r#"{"name":"bad","inputSchema":{"properties":{"a":{"type":"number","x-mcp-header":"A"}}}}"#;
    let good = r#"{"name":"good","inputSchema":{"properties":{"a":{"type":"string","x-mcp-header":"A"}}}}"#;
    house.add("h", &[bad, good]);
    let server = house.door.admission.approve("h", "operator", None).unwrap();
    let findings = &server.review.unwrap().findings;
    assert!(findings.iter().any(|f| f.kind == "not-served" && f.place == "tool bad"), "{findings:?}");
    assert!(!findings.iter().any(|f| f.place == "tool good"), "{findings:?}");
    let mut client = connected(&house).await;
    let answer = client.ask(&request(1, "tools/list", "{}")).await;
    assert!(result(&answer).contains("h__good") && !result(&answer).contains("h__bad"), "{answer}");
    let answer = client.ask(&request(2, "tools/call", r#"{"name":"h__bad"}"#)).await;
    assert!(result(&answer).contains("was not found"), "{answer}");
    // A tool of the same server that is in order is served: it is only not the one that runs here.
    client.say(&request(3, "tools/call", r#"{"name":"s__echo"}"#)).await;
    let (id, ..) = script.request().await;
    script.answer(&id, "{}").await;
    client.hear().await;
}

#[tokio::test]
async fn a_server_that_asks_the_client_for_something_is_refused_with_the_reason() {
    let (house, mut script) = offering(Expose::Direct).await;
    let mut client = connected(&house).await;
    client.say(&request(1, "tools/call", r#"{"name":"p__echo"}"#)).await;
    let (id, ..) = script.request().await;
    for method in ["elicitation/create", "sampling/createMessage", "roots/list"] {
        script.say(&request(77, method, "{}")).await;
        let Some(Message::Response { id, reply: Reply::Error(error) }) = script.next().await else {
            panic!("{method} was not refused")
        };
        assert_eq!((id.as_u64(), error.get("code").unwrap().to_text()), (Some(77), "-32601".into()));
        assert!(error.get("message").unwrap().as_str().unwrap().contains(method));
    }
    script.answer(&id, "{}").await;
    assert_eq!(client.hear().await, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, "the client heard of none of it");
}

#[tokio::test]
async fn log_messages_of_a_server_that_many_share_are_given_to_nobody() {
    let (house, mut script) = offering(Expose::Direct).await;
    let mut client = connected(&house).await;
    client.say(&request(1, "tools/call", r#"{"name":"p__echo"}"#)).await;
    let (id, ..) = script.request().await;
    script
        .say(r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"of whom?"}}"#)
        .await;
    script.answer(&id, "{}").await;
    assert_eq!(client.hear().await, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
}

#[tokio::test]
async fn log_messages_of_a_server_of_one_agent_reach_its_call_from_the_level_on_that_was_set() {
    let (house, mut script) = offering(Expose::Direct).await;
    let entry = house.door.admission.get("p").unwrap().unwrap();
    house.door.hub.upstream(&entry).await.unwrap().hears_for_one();
    let mut client = connected(&house).await;
    assert_eq!(code(&client.ask(&request(1, "logging/setLevel", r#"{"level":"loud"}"#)).await), "-32602");
    assert_eq!(result(&client.ask(&request(2, "logging/setLevel", r#"{"level":"warning"}"#)).await), "{}");
    client.say(&request(3, "tools/call", r#"{"name":"p__echo"}"#)).await;
    let (id, ..) = script.request().await;
    for level in ["info", "error"] {
        script
            .say(&format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{{"data":1.0,"level":"{level}"}}}}"#
            ))
            .await;
    }
    script.answer(&id, "{}").await;
    let said = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"data":1.0,"level":"error"}}"#;
    assert_eq!(client.hear().await, said);
    assert_eq!(client.hear().await, r#"{"jsonrpc":"2.0","id":3,"result":{}}"#);
    // A request of the newer era hears what it asks for.
    client.say(&request(4, "tools/call", &format!(r#"{{"name":"p__echo",{MODERN}}}"#))).await;
    let (id, ..) = script.request().await;
    script.say(said).await;
    script.answer(&id, "{}").await;
    assert_eq!(client.hear().await, r#"{"jsonrpc":"2.0","id":4,"result":{"resultType":"complete"}}"#);
}

#[tokio::test]
async fn a_read_that_is_cancelled_is_cancelled_at_the_server() {
    let (house, mut script) = offering(Expose::Search).await;
    let mut client = connected(&house).await;
    client.say(&request(5, "resources/read", r#"{"uri":"file:///a"}"#)).await;
    let (id, ..) = script.request().await;
    client.say(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":5}}"#).await;
    let Some(Message::Notification { method, params }) = script.next().await else { panic!("it was not told") };
    assert_eq!(method, "notifications/cancelled");
    assert_eq!(params.unwrap().get("requestId"), Some(id.as_json()));
}
