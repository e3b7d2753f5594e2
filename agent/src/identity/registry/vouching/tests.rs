use super::*;
use crate::audit::AuditLog;
use crate::identity::registry::{AgentState, Amendment, Enrolment};
use crate::identity::vouch::testing::{public_line, sign, signer};
use crate::identity::{AgentKey, Part, PartKind, PublicKey, RevocationReason};
use crate::store::Store;
use std::sync::Arc;

struct House {
    dir: tempfile::TempDir,
    registry: Registry,
    agent: Address,
    key: PublicKey,
}

fn measurement(config: &str) -> Measurement {
    let part = |kind, name: &str, digest: &str| Part { kind, name: name.into(), digest: digest.into() };
    Measurement::of(vec![
        part(PartKind::Executable, "/usr/bin/claude", "sha256:1"),
        part(PartKind::McpConfig, "/home/ann/.claude.json", config),
    ])
}

/// An active agent, and signer 1 whose word counts.
fn house(require: bool) -> House {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&dir.path().join("s")).unwrap());
    let audit = Arc::new(AuditLog::new(store.clone()));
    let registry = Registry::new(store, audit).vouching(dir.path().join("allowed_signers"), require);
    let (agent, key): (Address, _) = ("claude@acme.lazaret.local".parse().unwrap(), AgentKey::generate().unwrap());
    registry.enroll(&agent, key.public(), None, "o").unwrap();
    let house = House { dir, registry, agent, key: key.public() };
    house.signers(&format!("ann@acme.example {}\n", public_line(signer(1).public_key())));
    house
}

impl House {
    fn signers(&self, text: &str) {
        // Another file each time, as an editor leaves it.
        let path = self.dir.path().join("allowed_signers");
        let fresh = self.dir.path().join("fresh");
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(fresh, path).unwrap();
    }

    fn later() -> Timestamp {
        Timestamp::now() + jiff::SignedDuration::from_hours(24)
    }

    fn draft(&self) -> Draft {
        self.registry.draft_vouch(&self.agent, None, None, Self::later()).unwrap()
    }

    fn vouch(&self, seed: u8) -> Result<Agent, RegistryError> {
        let document = self.draft().document;
        self.registry.vouch(&self.agent, &document, &sign(&signer(seed), NAMESPACE, &document), None, "o")
    }

    fn standing(&self, measured: Option<&Measurement>) -> Vouch {
        self.registry.standing_as(&self.agent, &self.key.did(), 1000, measured).unwrap().vouch
    }

    fn shown(&self) -> Agent {
        self.registry.require(&self.agent).unwrap()
    }
}

#[test]
fn a_vouch_is_valid_for_what_was_measured_and_drifts_with_it() {
    let house = house(false);
    assert_eq!(house.standing(None), Vouch::None);
    let then = measurement("sha256:a");
    house.registry.measured(&house.agent, &then).unwrap();
    let agent = house.vouch(1).unwrap();
    assert_eq!(agent.vouch, Vouch::Valid);
    let vouched = agent.vouched.unwrap();
    assert_eq!((vouched.by.as_str(), vouched.measurement), ("ann@acme.example", Some(then.clone())));
    assert_eq!(house.standing(Some(&then)), Vouch::Valid);
    let now = measurement("sha256:b");
    assert_eq!(house.standing(Some(&now)), Vouch::Drifted);
    assert_eq!(house.standing(None), Vouch::Drifted, "what was not measured is not shown to be the same");
    house.registry.measured(&house.agent, &now).unwrap();
    assert_eq!(house.shown().vouch, Vouch::Drifted);
    house.vouch(1).unwrap();
    assert_eq!(house.standing(Some(&now)), Vouch::Valid);
    assert_eq!(house.standing(Some(&then)), Vouch::Drifted);
}

#[test]
fn a_vouch_for_the_key_alone_holds_whatever_is_measured() {
    let house = house(false);
    let agent = house.vouch(1).unwrap();
    assert_eq!(agent.vouched.unwrap().document.measurement, None);
    assert_eq!(house.standing(None), Vouch::Valid);
    assert_eq!(house.standing(Some(&measurement("sha256:a"))), Vouch::Valid);
}

#[test]
fn a_vouch_ends_at_its_end() {
    let house = house(false);
    let agent = house.vouch(1).unwrap();
    let end = agent.vouched.as_ref().unwrap().document.not_after;
    let second = jiff::SignedDuration::from_secs(1);
    assert_eq!(agent.vouch_state(None, end - second), Vouch::Valid);
    assert_eq!(agent.vouch_state(None, end), Vouch::Expired);
    let past = house.registry.draft_vouch(&house.agent, None, None, Timestamp::now() - second).unwrap().document;
    let error = house.registry.vouch(&house.agent, &past, &sign(&signer(1), NAMESPACE, &past), None, "o");
    assert!(matches!(error, Err(RegistryError::Vouch(VouchError::Stale { .. }))));
}

#[test]
fn a_signer_who_is_struck_off_takes_the_vouches_along_at_once() {
    let house = house(false);
    house.vouch(1).unwrap();
    let both = |a: &str| format!("{a}ann@acme.example {}\n", public_line(signer(1).public_key()));
    house.signers(&format!("bob@acme.example {}\n", public_line(signer(2).public_key())));
    assert_eq!(house.standing(None), Vouch::Revoked);
    assert!(house.shown().distrusted.unwrap().contains("no line with this key"));
    house.signers(&both("# back\n"));
    assert_eq!(house.standing(None), Vouch::Valid, "and back again");
    house.signers(&both("what is this\n"));
    assert_eq!(house.standing(None), Vouch::Revoked, "a spoilt file trusts nobody");
    assert!(house.shown().distrusted.unwrap().contains("allowed_signers:1:"));
    std::fs::remove_file(house.dir.path().join("allowed_signers")).unwrap();
    assert_eq!(house.standing(None), Vouch::Revoked);
}

#[test]
fn a_file_that_others_may_write_names_nobody() {
    use std::os::unix::fs::PermissionsExt as _;
    let house = house(false);
    let path = house.dir.path().join("allowed_signers");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    let error = house.registry.draft_vouch(&house.agent, None, None, House::later()).unwrap_err().to_string();
    assert!(error.contains("may write to it") && error.contains("chmod 644"), "{error}");
}

#[test]
fn a_vouch_that_was_taken_back_is_revoked_until_there_is_a_new_one() {
    let house = house(false);
    assert!(matches!(house.registry.withdraw_vouch(&house.agent, "o", "w"), Err(RegistryError::NotVouched(_))));
    house.vouch(1).unwrap();
    assert_eq!(house.registry.withdraw_vouch(&house.agent, "o", "lost laptop").unwrap().vouch, Vouch::Revoked);
    assert_eq!(house.standing(None), Vouch::Revoked);
    assert!(matches!(house.registry.withdraw_vouch(&house.agent, "o", "w"), Err(RegistryError::NotVouched(_))));
    house.vouch(1).unwrap();
    assert_eq!(house.standing(None), Vouch::Valid);
}

#[test]
fn a_new_key_has_no_vouch() {
    let house = house(false);
    house.vouch(1).unwrap();
    let old = house.draft().document;
    let new = AgentKey::generate().unwrap().public();
    assert_eq!(house.registry.rotate(&house.agent, new, "o").unwrap().vouch, Vouch::None);
    let error = house.registry.vouch(&house.agent, &old, &sign(&signer(1), NAMESPACE, &old), None, "o").unwrap_err();
    assert!(error.to_string().contains("another key"), "{error}");
}

#[test]
fn a_vouch_for_another_agent_or_another_measurement_is_refused() {
    let house = house(false);
    let other: Address = "other@acme.lazaret.local".parse().unwrap();
    house.registry.enroll(&other, AgentKey::generate().unwrap().public(), None, "o").unwrap();
    let document = house.draft().document;
    let signature = sign(&signer(1), NAMESPACE, &document);
    let error = house.registry.vouch(&other, &document, &signature, None, "o").unwrap_err().to_string();
    assert!(error.contains("it is for claude@"), "{error}");
    house.registry.measured(&house.agent, &measurement("sha256:a")).unwrap();
    let document = house.draft().document;
    let signature = sign(&signer(1), NAMESPACE, &document);
    house.registry.measured(&house.agent, &measurement("sha256:b")).unwrap();
    let error = house.registry.vouch(&house.agent, &document, &signature, None, "o").unwrap_err().to_string();
    assert!(error.contains("has changed since"), "{error}");
    let wrong = house.registry.vouch(&house.agent, &document, &signature, Some(measurement("sha256:c")), "o");
    assert!(wrong.is_err());
    // A digest that is not that of its parts is worth nothing.
    let forged = Measurement { digest: measurement("sha256:a").digest, parts: vec![] };
    assert!(house.registry.vouch(&house.agent, &document, &signature, Some(forged), "o").is_err());
    let right = measurement("sha256:a");
    let agent = house.registry.vouch(&house.agent, &document, &signature, Some(right.clone()), "o").unwrap();
    assert_eq!(agent.vouched.unwrap().measurement, Some(right));
}

#[test]
fn who_is_not_in_the_file_vouches_for_nobody() {
    let house = house(false);
    let error = house.vouch(2).unwrap_err();
    assert!(matches!(error, RegistryError::Vouch(VouchError::Signer { .. })), "{error}");
    assert_eq!(house.standing(None), Vouch::None);
}

#[test]
fn where_a_vouch_is_demanded_nothing_less_than_a_valid_one_will_do() {
    let house = house(true);
    let demand = || {
        let agent = house.registry.standing_as(&house.agent, &house.key.did(), 1000, None).unwrap();
        house.registry.demand_vouch(&agent).map_err(|refusal| refusal.next_step())
    };
    assert!(demand().unwrap_err().contains("lazaret agent vouch claude@acme.lazaret.local"));
    house.vouch(1).unwrap();
    assert_eq!(demand(), Ok(()));
    house.registry.measured(&house.agent, &measurement("sha256:a")).unwrap();
    house.vouch(1).unwrap();
    assert!(demand().unwrap_err().contains("lazaret agent show"));
}

#[test]
fn what_may_be_called_is_what_is_registered_and_vouched_for() {
    let house = house(false);
    let actions = |patterns: &[&str]| Actions::of(&patterns.iter().map(|p| (*p).into()).collect::<Vec<_>>()).unwrap();
    let may = |tool: &str| house.shown().may_call("time", tool);
    assert!(may("now") && may("set"));
    let amendment = Amendment { actions: Some(actions(&["time/now", "time/zone"])), ..Amendment::default() };
    house.registry.amend(&house.agent, amendment, "o").unwrap();
    assert!(may("now") && may("zone") && !may("set"));
    let narrow = Some(actions(&["*/now", "*/set"]));
    let document = house.registry.draft_vouch(&house.agent, None, narrow, House::later()).unwrap().document;
    house.registry.vouch(&house.agent, &document, &sign(&signer(1), NAMESPACE, &document), None, "o").unwrap();
    assert!(may("now") && !may("zone") && !may("set"), "a vouch narrows and never widens");
    house.registry.withdraw_vouch(&house.agent, "o", "w").unwrap();
    assert!(may("now") && !may("zone"), "and what nobody answers for any more is not more");
}

#[test]
fn an_agent_has_no_standing_from_its_end_on_and_the_timer_writes_it_down() {
    let house = house(false);
    let soon: Address = "soon@acme.lazaret.local".parse().unwrap();
    let key = AgentKey::generate().unwrap().public();
    let end = Timestamp::now() + jiff::SignedDuration::from_millis(50);
    let enrolment = Enrolment { not_after: Some(end), ..Enrolment::default() };
    house.registry.enroll_with(&soon, key, enrolment, "o").unwrap();
    assert_eq!(house.registry.expire(end - jiff::SignedDuration::from_millis(1)).unwrap(), Some(end));
    while Timestamp::now() < end {
        std::thread::yield_now();
    }
    let refusal = house.registry.standing(&soon, &key.did()).unwrap_err();
    assert!(matches!(refusal, NotActive::State { state: AgentState::Expired, .. }), "{refusal}");
    assert_eq!(house.registry.require(&soon).unwrap().state, AgentState::Active, "not written down yet");
    let mut changes = house.registry.changes();
    changes.mark_unchanged();
    assert_eq!(house.registry.expire(Timestamp::now()).unwrap(), None);
    assert_eq!(house.registry.require(&soon).unwrap().state, AgentState::Expired);
    assert!(changes.has_changed().unwrap(), "open sessions look again");
    let late = Enrolment { not_after: Some(end), ..Enrolment::default() };
    let error = house.registry.enroll_with(&soon, AgentKey::generate().unwrap().public(), late, "o").unwrap_err();
    assert!(matches!(error, RegistryError::Ended { .. }), "{error}");
}

#[test]
fn a_pending_agent_waits_for_a_second_word() {
    let house = house(false);
    let other: Address = "other@acme.lazaret.local".parse().unwrap();
    let key = AgentKey::generate().unwrap().public();
    let enrolment = Enrolment { pending: true, ..Enrolment::default() };
    assert_eq!(house.registry.enroll_with(&other, key, enrolment, "o").unwrap().state, AgentState::Pending);
    let refusal = house.registry.standing(&other, &key.did()).unwrap_err();
    assert!(refusal.next_step().contains("agent activate"), "{}", refusal.next_step());
    let wrong = house.registry.resume(&other, "o", "known").unwrap_err().to_string();
    assert!(wrong.contains("lazaret agent activate other@acme.lazaret.local"), "{wrong}");
    house.registry.activate(&other, "o").unwrap();
    house.registry.suspend(&other, "o", "holiday").unwrap();
    let wrong = house.registry.activate(&other, "o").unwrap_err().to_string();
    assert!(wrong.contains("lazaret agent resume other@acme.lazaret.local"), "{wrong}");
    house.registry.resume(&other, "o", "back").unwrap();
    assert!(house.registry.standing(&other, &key.did()).is_ok());
    house.registry.revoke(&other, RevocationReason::AgentDeregistered, "o").unwrap();
    assert!(house.registry.standing(&other, &key.did()).is_err());
}
