//! Whatever a waiting call stands on ends it.

use std::time::Duration;

use super::*;
use crate::identity::delegation::{Capabilities, Terms, extend};
use crate::identity::vouch::testing::{public_line, sign, signer};
use crate::identity::{Enrolment, Vouch};

/// A middle agent's session that acts for the house's agent, with the grant's id.
fn delegated(house: &mut House) -> (Address, String) {
    let [root, child, daemon] = [(), (), ()].map(|()| AgentKey::generate().unwrap());
    house.registry.rotate(&house.agent, root.public(), "operator").unwrap();
    let address: Address = "reader@acme.lazaret.local".parse().unwrap();
    let enrolment = Enrolment { sub_agent: true, ..Enrolment::default() };
    let agent = house.registry.enroll_with(&address, child.public(), enrolment, "operator").unwrap();
    let (now, audience) = (jiff::Timestamp::now().as_second(), daemon.public().did());
    let capabilities = Capabilities::new(vec!["time:*".parse().unwrap()]).unwrap();
    let terms = Terms { to: child.public(), audience: audience.clone(), exp: now + 600, capabilities, max_depth: None };
    let (chain, jti) = extend(&[], &root, terms, now).unwrap();
    let lineage = house.registry.lineage(&agent, &child.public(), &chain, &audience).unwrap();
    house.session = SessionIdentity::for_test(&address, &child.public()).with_lineage(lineage);
    (address, jti)
}

/// The session's agent is vouched for.
fn vouch(house: &House, agent: &Address) {
    let signers = house.dir.path().join("allowed_signers");
    std::fs::write(&signers, format!("ann@acme.example {}\n", public_line(signer(1).public_key()))).unwrap();
    let later = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1);
    let document = house.registry.draft_vouch(agent, None, None, later).unwrap().document;
    let signature = sign(&signer(1), crate::identity::vouch::NAMESPACE, &document);
    let vouched = house.registry.vouch(agent, &document, &signature, None, "operator").unwrap();
    assert_eq!(vouched.vouch, Vouch::Valid);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_waiting_call_stands_on_ends_it_at_once_and_says_why() {
    type Act = fn(&House, &Address, &str);
    // What is taken away, how, and what the agent is told.
    let table: [(&str, Act, &str); 11] = [
        ("the agent, for a while", |h, a, _| drop(h.registry.suspend(a, "o", "w").unwrap()), "is suspended"),
        (
            "the agent",
            |h, a, _| drop(h.registry.revoke(a, RevocationReason::KeyCompromise, "o").unwrap()),
            "was revoked on",
        ),
        (
            "the key",
            |h, a, _| drop(h.registry.rotate(a, AgentKey::generate().unwrap().public(), "o").unwrap()),
            "not enrolled here with this key",
        ),
        ("the vouch", |h, a, _| drop(h.registry.withdraw_vouch(a, "o", "laptop lost").unwrap()), "the vouch for"),
        ("the delegation", |h, _, jti| drop(h.registry.revoke_delegation(jti, "o").unwrap()), "was revoked on"),
        (
            "the parent, for a while",
            |h, _, _| drop(h.registry.suspend(&h.agent, "o", "w").unwrap()),
            "acts for another agent that may not",
        ),
        (
            "the parent",
            |h, _, _| drop(h.registry.revoke(&h.agent, RevocationReason::AdminAction, "o").unwrap()),
            "acts for another agent that may not",
        ),
        ("the server", |h, _, _| drop(h.admission.deny("time", "o", "w").unwrap()), "was not found"),
        (
            "the tool",
            |h, _, _| drop(h.admission.set_tool("time", "now", AdmissionState::Denied, None, "o", "w").unwrap()),
            "was not found",
        ),
        ("the pin", |h, _, _| h.review("time", &["now", "set", "more"], "sha256:2"), "was not found"),
        (
            "the policy",
            |h, _, _| h.policy(r#"@id("shut") forbid (principal, action, resource);"#),
            "policy shut forbids this call",
        ),
    ];
    for (what, act, told) in table {
        let mut house = house();
        let (agent, jti) = delegated(&mut house);
        vouch(&house, &agent);
        house.policy(r#"permit (principal, action, resource) when { context.approval == "human" };"#);
        let admitted =
            house.gates.admit_or_ask(&house.session, ("time", "now"), Json::Object(Vec::new()), Json::Null, None);
        let Ok(Admitted::Ask(asking)) = admitted else { panic!("{what}: it does not wait") };
        let mut wait = Box::pin(house.gates.wait(&asking, None, Duration::from_secs(3), |_| {}));
        let early = tokio::time::timeout(Duration::from_millis(20), &mut wait).await;
        assert!(early.is_err(), "{what}: it waits: {early:?}");
        let began = Instant::now();
        act(&house, &agent, &jti);
        let took_to_act = began.elapsed();
        let denied = tokio::time::timeout(Duration::from_secs(30), wait).await.expect(what).unwrap_err();
        let took = began.elapsed().saturating_sub(took_to_act);
        println!("{what}: ended {took:?} after it was taken away");
        assert!(took < Duration::from_secs(1), "{what}: {took:?}");
        assert!(denied.reason.contains(told) && !denied.next_step.is_empty(), "{what}: {denied:?}");
        assert_eq!(house.last().kind, Kind::Denial, "{what}: its end is on record");
        let id = asking.id().to_owned();
        drop(asking);
        assert!(house.gates.asks().approve(&id, "ann", 1, Duration::from_secs(9)).is_err(), "{what}");
        assert!(house.gates.asks().list().0.is_empty(), "{what}");
    }
}

#[test]
fn an_approval_for_more_calls_ends_with_the_agent_s_standing_for_good() {
    let house = house();
    house.policy(r#"permit (principal, action, resource) when { context.approval == "human" };"#);
    let call = || {
        let admitted =
            house.gates.admit_or_ask(&house.session, ("time", "now"), Json::Object(Vec::new()), Json::Null, None);
        match admitted.unwrap() {
            Admitted::Forward(_) => None,
            Admitted::Ask(asking) => Some(asking),
        }
    };
    let asking = call().unwrap();
    house.gates.asks().approve(asking.id(), "ann", 3, Duration::from_secs(60)).unwrap();
    assert!(house.gates.resume(asking).is_ok());
    assert!(call().is_none(), "the second of three");
    house.gates.forget_approvals().unwrap();
    assert_eq!(house.gates.asks().list().1.len(), 1, "nothing was revoked");
    house.registry.suspend(&house.agent, "o", "w").unwrap();
    house.gates.forget_approvals().unwrap();
    house.registry.resume(&house.agent, "o", "w").unwrap();
    assert!(call().is_some(), "it is asked anew");
}
