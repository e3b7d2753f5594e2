//! Sessions whose every line is signed.

use super::*;
use crate::audit::Kind;
use crate::identity::signed::CallSignature;
use crate::proxy::testing::{Client, House, house};

const INITIALIZE: &[u8] =
    br#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25"}}"#;
const PING: &[u8] = br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
const CALL: &str = r#"{"jsonrpc":"2.0","id":"c","method":"tools/call","params":{"name":"call_tool","arguments":{"server":"s","tool":"echo","arguments":{"x":1.0}}}}"#;

async fn is_over(house: &House, mut client: Client, why: &str) {
    assert!(matches!(client.ended.recv().await, Some(End::NotActive(told)) if told.contains(why)));
    let denial = house.audit.tail(1).unwrap().remove(0);
    assert_eq!((denial.kind, denial.detail["gate"].as_str()), (Kind::Denial, Some("registration")));
    assert!(denial.reason.unwrap().contains(why));
}

#[tokio::test]
async fn a_signed_call_is_forwarded_untouched_and_its_signature_is_on_record() {
    let (mut house, mut script) = house(Expose::Search).await;
    let (mut client, mut signer) = house.connect_signing();
    let key = signer.public();
    client.say_framed(&signer.frame(INITIALIZE)).await;
    client.hear().await;
    client.say_framed(&signer.frame(CALL.as_bytes())).await;
    let (id, _, params) = script.request().await;
    assert_eq!(params.to_text(), r#"{"name":"echo","arguments":{"x":1.0}}"#);
    script.answer(&id, r#"{"content":[]}"#).await;
    client.hear().await;
    let intent = house.audit.tail(2).unwrap().remove(0);
    let signature: CallSignature = serde_json::from_value(intent.detail["signature"].clone()).unwrap();
    assert_eq!((signature.seq, signature.session_pub), (2, key));
    use sha2::Digest as _;
    assert_eq!(signature.line_digest, format!("sha256:{}", hex::encode(sha2::Sha256::digest(CALL))));
}

#[tokio::test]
async fn an_unsigned_line_ends_the_session() {
    let (mut house, _script) = house(Expose::Search).await;
    let (mut client, _signer) = house.connect_signing();
    client.say_framed(&[PING, b"\n"].concat()).await;
    is_over(&house, client, "without a signature").await;
}

#[tokio::test]
async fn a_replayed_line_ends_the_session_before_it_is_acted_on() {
    let (mut house, _script) = house(Expose::Search).await;
    let (mut client, mut signer) = house.connect_signing();
    let ping = signer.frame(PING);
    client.say_framed(&ping).await;
    assert!(client.hear().await.contains("result"));
    client.say_framed(&ping).await;
    is_over(&house, client, "the line 1 came where the line 2 was due").await;
}

#[tokio::test]
async fn a_dropped_line_ends_the_session() {
    let (mut house, _script) = house(Expose::Search).await;
    let (mut client, mut signer) = house.connect_signing();
    let _lost = signer.frame(PING);
    client.say_framed(&signer.frame(PING)).await;
    is_over(&house, client, "the line 2 came where the line 1 was due").await;
}

#[tokio::test]
async fn a_line_that_was_altered_on_its_way_ends_the_session() {
    let (mut house, _script) = house(Expose::Search).await;
    let (mut client, mut signer) = house.connect_signing();
    let altered = String::from_utf8(signer.frame(PING)).unwrap().replace("ping", "pong");
    client.say_framed(altered.as_bytes()).await;
    is_over(&house, client, "the line 1 is not what").await;
}

#[tokio::test]
async fn a_line_that_is_too_long_is_refused_and_the_session_goes_on() {
    let (mut house, _script) = house(Expose::Search).await;
    let (mut client, mut signer) = house.connect_signing();
    let long = format!(r#"{{"id":5,"jsonrpc":"2.0","method":"ping","params":{{"x":"{}"}}}}"#, "y".repeat(128 << 10));
    let long = signer.frame(long.as_bytes());
    let (refusal, ()) = tokio::join!(client.lines.next_line(), async { client.write.write_all(&long).await.unwrap() });
    let refusal = refusal.unwrap().unwrap();
    assert!(refusal.contains(r#""id":5"#) && refusal.contains("longer than"), "{refusal}");
    client.say_framed(&signer.frame(PING)).await;
    assert!(client.hear().await.contains("result"));
}
