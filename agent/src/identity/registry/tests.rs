use super::*;
use crate::identity::AgentKey;

struct House {
    _dir: tempfile::TempDir,
    registry: Registry,
    audit: Arc<AuditLog>,
}

fn house() -> House {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&dir.path().join("s")).unwrap());
    let audit = Arc::new(AuditLog::new(store.clone()));
    House { _dir: dir, registry: Registry::new(store, audit.clone()), audit }
}

fn address(text: &str) -> Address {
    text.parse().unwrap()
}

fn key() -> PublicKey {
    AgentKey::generate().unwrap().public()
}

#[test]
fn an_operator_s_enrolment_is_active_at_once_and_on_record() {
    let house = house();
    let mut changes = house.registry.changes();
    let key = key();
    let agent = house.registry.enroll_for(&address("a@x.y"), key, Some("Ann".into()), Some(1000), "uid:0").unwrap();
    assert_eq!((agent.owner.as_deref(), agent.uid), (Some("Ann"), Some(1000)));
    assert_eq!(agent.state, AgentState::Active);
    assert_eq!((agent.did.clone(), agent.fingerprint.clone()), (key.did(), key.fingerprint_raw()));
    assert_eq!(agent.history.iter().map(|step| step.to).collect::<Vec<_>>(), [AgentState::Pending, AgentState::Active]);
    assert_eq!(house.registry.require(&address("a@x.y")).unwrap(), agent);
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    let record = house.audit.tail(1).unwrap().remove(0);
    assert_eq!((record.kind, record.outcome, record.agent.as_deref()), (Kind::Agent, Outcome::Permit, Some("a@x.y")));
}

#[test]
fn the_stored_names_are_the_promised_ones() {
    let house = house();
    house.registry.enroll(&address("a@x.y"), key(), None, "uid:0").unwrap();
    let json = serde_json::to_value(house.registry.list().unwrap().remove(0)).unwrap();
    let names: Vec<&String> = json.as_object().unwrap().keys().collect();
    let promised = [
        "address",
        "did",
        "public_key",
        "fingerprint",
        "fingerprint_spki",
        "state",
        "owner",
        "uid",
        "vouch",
        "created_at",
        "revoked",
        "history",
        "not_after",
        "actions",
        "limits",
        "vouched",
    ];
    assert_eq!(names, promised);
    assert_eq!((&json["state"], &json["vouch"]), (&serde_json::json!("active"), &serde_json::json!("none")));
}

#[test]
fn an_address_that_is_taken_is_not_enrolled_again() {
    let house = house();
    let a = address("a@x.y");
    house.registry.enroll(&a, key(), None, "o").unwrap();
    assert!(matches!(house.registry.enroll(&a, key(), None, "o"), Err(RegistryError::Enrolled { .. })));
    house.registry.suspend(&a, "o", "w").unwrap();
    assert!(matches!(house.registry.enroll(&a, key(), None, "o"), Err(RegistryError::Enrolled { .. })));
    house.registry.revoke(&a, RevocationReason::AdminAction, "o").unwrap();
    let again = house.registry.enroll(&a, key(), None, "o").unwrap();
    assert_eq!(again.state, AgentState::Active);
    assert_eq!(again.revoked, None);
    assert!(again.history.iter().any(|step| step.to == AgentState::Revoked), "the former life is kept");
}

#[test]
fn a_key_belongs_to_one_agent() {
    let house = house();
    let key = key();
    house.registry.enroll(&address("a@x.y"), key, None, "o").unwrap();
    let error = house.registry.enroll(&address("b@x.y"), key, None, "o").unwrap_err();
    assert!(matches!(error, RegistryError::SharedKey { .. }), "{error}");
}

#[test]
fn a_revoked_key_never_comes_back_under_any_name() {
    let house = house();
    let (a, b) = (address("a@x.y"), address("b@x.y"));
    let old = key();
    house.registry.enroll(&a, old, None, "o").unwrap();
    house.registry.revoke(&a, RevocationReason::KeyCompromise, "o").unwrap();
    for who in [&a, &b] {
        assert!(matches!(house.registry.enroll(who, old, None, "o"), Err(RegistryError::RevokedKey { .. })));
    }
    house.registry.enroll(&b, key(), None, "o").unwrap();
    assert!(matches!(house.registry.rotate(&b, old, "o"), Err(RegistryError::RevokedKey { .. })));
    let revocation = house.registry.revocation(&old).unwrap().unwrap();
    assert_eq!((revocation.agent_address, revocation.reason), (a, RevocationReason::KeyCompromise));
}

#[test]
fn a_rotated_key_is_revoked_and_names_its_successor() {
    let house = house();
    let a = address("a@x.y");
    let (old, new) = (key(), key());
    house.registry.enroll(&a, old, None, "o").unwrap();
    let agent = house.registry.rotate(&a, new, "o").unwrap();
    assert_eq!((agent.state, agent.public_key), (AgentState::Active, new));
    let revocation = house.registry.revocation(&old).unwrap().unwrap();
    assert_eq!(revocation.superseded_by, Some(new.fingerprint_raw()));
    assert!(house.registry.standing(&a, &new.did()).is_ok());
    assert!(matches!(house.registry.standing(&a, &old.did()), Err(NotActive::Unknown(_))));
}

#[test]
fn only_active_agents_with_their_own_key_have_standing() {
    let house = house();
    let a = address("a@x.y");
    let mine = key();
    let standing = |did: &str| house.registry.standing(&a, did);
    assert!(matches!(standing(&mine.did()), Err(NotActive::Unknown(_))));
    house.registry.enroll(&a, mine, None, "o").unwrap();
    assert!(standing(&mine.did()).is_ok());
    assert!(matches!(standing(&key().did()), Err(NotActive::Unknown(_))));
    house.registry.suspend(&a, "o", "holiday").unwrap();
    assert!(matches!(standing(&mine.did()), Err(NotActive::State { state: AgentState::Suspended, .. })));
    house.registry.resume(&a, "o", "back").unwrap();
    assert!(standing(&mine.did()).is_ok());
    house.registry.revoke(&a, RevocationReason::AdminAction, "o").unwrap();
    let refusal = standing(&mine.did()).unwrap_err();
    assert!(refusal.next_step().contains("lazaret agent enroll a@x.y"), "{refusal}");
}

#[test]
fn the_revocation_of_the_key_counts_even_where_the_agent_s_own_record_is_behind() {
    let house = house();
    let a = address("a@x.y");
    let mine = key();
    let agent = house.registry.enroll(&a, mine, None, "o").unwrap();
    // As after a crash between the two writes of a revocation.
    house.registry.store.put(&agent.revocation(RevocationReason::KeyCompromise, None)).unwrap();
    assert!(matches!(house.registry.standing(&a, &mine.did()), Err(NotActive::RevokedKey { .. })));
}

#[test]
fn final_states_have_no_way_back() {
    for from in AgentState::ALL {
        for to in AgentState::ALL {
            if from.is_final() && !to.is_final() {
                assert!(!from.can_become(to), "{from} -> {to}");
            }
        }
        assert!(!from.can_become(AgentState::Pending));
    }
    let house = house();
    let a = address("a@x.y");
    house.registry.enroll(&a, key(), None, "o").unwrap();
    let agent = house.registry.revoke(&a, RevocationReason::AgentDeregistered, "o").unwrap();
    assert_eq!(agent.state, AgentState::Deregistered);
    assert!(matches!(house.registry.resume(&a, "o", "w"), Err(RegistryError::Transition { .. })));
    assert!(matches!(house.registry.suspend(&a, "o", "w"), Err(RegistryError::Transition { .. })));
    assert!(matches!(house.registry.rotate(&a, key(), "o"), Err(RegistryError::Transition { .. })));
}

#[test]
fn unknown_agents_are_an_error_with_a_next_step() {
    let house = house();
    let error = house.registry.suspend(&address("a@x.y"), "o", "w").unwrap_err();
    assert!(error.to_string().contains("lazaret agent enroll a@x.y"), "{error}");
    assert_eq!(house.registry.get(&address("a@x.y")).unwrap(), None);
}

#[test]
fn an_agent_that_is_bound_to_another_user_loses_its_standing() {
    let house = house();
    let (a, key) = (address("a@x.y"), key());
    house.registry.enroll(&a, key, None, "uid:0").unwrap();
    let standing = |uid| house.registry.standing_for(&a, &key.did(), uid);
    assert!(standing(1000).is_ok());
    house.registry.bind_uid(&a, Some(1001), "uid:0").unwrap();
    assert!(matches!(standing(1000), Err(NotActive::OtherUser { bound: 1001, uid: 1000, .. })));
    assert!(standing(1001).is_ok());
}

#[test]
fn a_rotation_takes_both_keys_and_happens_once() {
    use crate::identity::Rotation;
    let house = house();
    let a = address("a@x.y");
    let (old, new) = (AgentKey::generate().unwrap(), AgentKey::generate().unwrap());
    house.registry.enroll(&a, old.public(), None, "o").unwrap();
    let rotation = Rotation::sign(&a, &old, &new, Timestamp::now()).unwrap();
    let forged = Rotation { new: key(), ..rotation.clone() };
    assert!(matches!(house.registry.rotate_signed(&forged, "o"), Err(RegistryError::Rotation(_))));
    assert_eq!(house.registry.rotate_signed(&rotation, "o").unwrap().public_key, new.public());
    assert!(house.registry.rotate_signed(&rotation, "o").is_err(), "the same word again is worth nothing");
}

#[test]
fn keys_that_others_revoked_are_not_taken_by_whichever_fingerprint_they_are_named() {
    let house = house();
    let (a, b, by_raw, by_spki) = (address("a@x.y"), address("b@x.y"), key(), key());
    house.registry.enroll(&a, by_raw, None, "o").unwrap();
    let record = |fingerprint: String, reason: &str| -> Revocation {
        serde_json::from_value(json!({
            "fingerprint": fingerprint, "agent_address": "z@other.example.org", "revoked_at": "2026-01-01T00:00:00Z",
            "reason": reason, "superseded_by": null,
        }))
        .unwrap()
    };
    let list = vec![
        record(by_raw.fingerprint_raw(), "key_compromise"),
        record(by_spki.fingerprint_spki(), "agent_deregistered"),
    ];
    assert_eq!(house.registry.import_revocations(list.clone(), "o").unwrap(), 2);
    assert_eq!(house.registry.import_revocations(list, "o").unwrap(), 0);
    assert!(matches!(house.registry.standing(&a, &by_raw.did()), Err(NotActive::RevokedKey { .. })));
    assert!(matches!(house.registry.enroll(&b, by_spki, None, "o"), Err(RegistryError::RevokedKey { .. })));
    // What is here already is not overwritten.
    house.registry.import_revocations(vec![record(by_raw.fingerprint_raw(), "admin_action")], "o").unwrap();
    assert_eq!(house.registry.revocation(&by_raw).unwrap().unwrap().reason, RevocationReason::KeyCompromise);
}
