use super::*;
use crate::identity::AgentKey;
use proptest::prelude::*;

fn now() -> Timestamp {
    "2026-06-01T12:00:00.5Z".parse().unwrap()
}

fn address() -> Address {
    "claude@acme.lazaret.local".parse().unwrap()
}

fn card(key: &AgentKey, lifetime: SignedDuration) -> String {
    let fields =
        CardFields { alias: Some("Claude".into()), owner: Some("ann".into()), capabilities: vec!["a/*".into()] };
    Card::sign(&address(), &fields, key, now(), lifetime).unwrap()
}

/// The same card with one member changed and signed again by `key`: only the content is wrong.
fn with(key: &AgentKey, change: impl Fn(&mut Value)) -> Result<Card, CardError> {
    let mut value: Value = serde_json::from_str(&card(key, MAX_LIFETIME)).unwrap();
    value.as_object_mut().unwrap().remove("signature");
    change(&mut value);
    let signature = key.sign(format!("{PREFIX}{}", Json::from_value(&value).canonical()).as_bytes());
    value["signature"] = serde_json::to_value(signature).unwrap();
    Card::verify(&value.to_string(), now())
}

#[test]
fn a_card_says_who_has_which_key_and_can_be_checked_by_anybody() {
    let key = AgentKey::generate().unwrap();
    let read = Card::verify(&card(&key, SignedDuration::from_hours(1)), now()).unwrap();
    assert_eq!((read.address, read.key), (address(), key.public()));
    assert_eq!(read.expires_at.to_string(), "2026-06-01T13:00:00Z");
    assert_eq!(read.alias.as_deref(), Some("Claude"));
}

/// `openssl pkeyutl -verify -rawin` accepts such a signature; here the text is spelt out by hand.
#[test]
fn the_signed_text_is_the_documented_one() {
    let key = AgentKey::generate().unwrap();
    let value: Value = serde_json::from_str(&card(&key, SignedDuration::from_hours(1))).unwrap();
    let text = format!(
        "amp-agent-card-v1\n{{\"address\":\"claude@acme.lazaret.local\",\"alias\":\"Claude\",\"amp_agent_card\":\"1.0\",\"capabilities\":[\"a/*\"],\"did\":\"{}\",\"expires_at\":\"2026-06-01T13:00:00Z\",\"fingerprint\":\"{}\",\"fingerprint_spki\":\"{}\",\"issued_at\":\"2026-06-01T12:00:00Z\",\"key_algorithm\":\"Ed25519\",\"owner\":\"ann\",\"public_key\":{}}}",
        key.public().did(),
        key.public().fingerprint_raw(),
        key.public().fingerprint_spki(),
        serde_json::to_string(&key.public().to_spki_pem()).unwrap(),
    );
    let signature: Signature = serde_json::from_value(value["signature"].clone()).unwrap();
    assert_eq!(key.public().verify(text.as_bytes(), &signature), Ok(()));
}

#[test]
fn every_member_is_covered_by_the_signature() {
    let key = AgentKey::generate().unwrap();
    let value: Value = serde_json::from_str(&card(&key, MAX_LIFETIME)).unwrap();
    for name in value.as_object().unwrap().keys() {
        let mut changed = value.clone();
        changed.as_object_mut().unwrap().remove(name);
        assert!(Card::verify(&changed.to_string(), now()).is_err(), "without {name}");
        let mut changed = value.clone();
        changed[name] = "x".into();
        assert!(Card::verify(&changed.to_string(), now()).is_err(), "another {name}");
    }
    let mut more = value.clone();
    more["more"] = 1.into();
    assert!(Card::verify(&more.to_string(), now()).is_err());
}

#[test]
fn a_card_whose_content_is_wrong_is_refused_with_the_reason_though_its_key_signed_it() {
    let key = AgentKey::generate().unwrap();
    let other = AgentKey::generate().unwrap().public();
    assert!(with(&key, |_| {}).is_ok());
    assert!(with(&key, |card| card["fingerprint"] = key.public().fingerprint_spki().into()).is_ok(), "either will do");
    assert!(with(&key, |card| card["unknown"] = 1.into()).is_ok());
    type Change<'a> = &'a dyn Fn(&mut Value);
    let cases: [(&str, Change<'_>); 11] = [
        ("fingerprint is not", &|card| card["fingerprint"] = other.fingerprint_raw().into()),
        ("fingerprint_spki is not", &|card| card["fingerprint_spki"] = other.fingerprint_spki().into()),
        ("did is not", &|card| card["did"] = other.did().into()),
        ("does not fit", &|card| card["public_key"] = other.to_spki_pem().into()),
        ("address is none", &|card| card["address"] = "nobody".into()),
        ("version", &|card| card["amp_agent_card"] = "2.0".into()),
        ("not Ed25519", &|card| card["key_algorithm"] = "RSA".into()),
        ("more than six months", &|card| card["expires_at"] = "2026-12-03T00:00:00Z".into()),
        ("expired", &|card| card["expires_at"] = "2026-06-01T12:00:00Z".into()),
        ("in the future", &|card| card["issued_at"] = "2026-06-01T12:06:00Z".into()),
        ("no time", &|card| card["issued_at"] = "yesterday".into()),
    ];
    for (reason, change) in cases {
        let error = with(&key, change).unwrap_err().to_string();
        assert!(error.contains(reason), "{reason}: {error}");
    }
}

#[test]
fn a_card_s_end_is_never_more_than_six_months_away() {
    let key = AgentKey::generate().unwrap();
    let read = Card::verify(&card(&key, SignedDuration::from_hours(24 * 3650)), now()).unwrap();
    assert_eq!(read.expires_at.duration_since(read.issued_at), MAX_LIFETIME);
}

#[test]
fn a_member_that_stands_twice_is_no_card() {
    let key = AgentKey::generate().unwrap();
    let text = card(&key, MAX_LIFETIME);
    let twice = text.replacen('{', "{\"address\":\"evil@acme.lazaret.local\",", 1);
    assert!(Card::verify(&twice, now()).is_err());
}

proptest! {
    #[test]
    fn any_text_is_a_card_or_an_error(text in "\\PC{0,200}") {
        prop_assert!(Card::verify(&text, now()).is_err());
    }

    #[test]
    fn a_card_with_one_byte_changed_is_refused(at in 0usize..4096, byte in 0x20u8..0x7f) {
        let key = AgentKey::generate().unwrap();
        let text = card(&key, MAX_LIFETIME);
        let mut bytes = text.clone().into_bytes();
        let at = at % bytes.len();
        let before = bytes[at];
        bytes[at] = byte;
        let changed = String::from_utf8(bytes).unwrap();
        // White space between members is not content.
        if byte != before && !before.is_ascii_whitespace() && byte != b' ' {
            prop_assert!(Card::verify(&changed, now()).is_err(), "{}", changed);
        }
    }
}

#[test]
fn another_implementation_s_numbers_are_canonical_and_its_spelling_is_free() {
    let key = AgentKey::generate().unwrap();
    let signed = |member: &str, as_signed: &str| {
        let mut text = Json::parse(&card(&key, MAX_LIFETIME), 8).unwrap();
        text.remove("signature").unwrap();
        text.set("zz", Json::parse(as_signed, 8).unwrap());
        let signature = key.sign(format!("{PREFIX}{}", text.canonical()).as_bytes());
        text.set("zz", Json::parse(member, 8).unwrap());
        text.set("signature", Json::from_value(&serde_json::to_value(signature).unwrap()));
        Card::verify(&text.to_text(), now()).map(|_| ()).map_err(|e| e.to_string())
    };
    assert_eq!(signed("[1.0, -0.0, 1E21, 0.0000001, 2.50]", "[1,0,1e+21,1e-7,2.5]"), Ok(()));
    assert!(signed("[1.5]", "[1]").unwrap_err().contains("does not fit"));
    assert!(signed("[1e999]", "[1e999]").unwrap_err().contains("too large"));
}

#[test]
fn a_card_that_ends_before_it_begins_is_refused() {
    let key = AgentKey::generate().unwrap();
    let error = with(&key, |card| {
        card["issued_at"] = "2026-06-01T12:04:00Z".into();
        card["expires_at"] = "2026-06-01T12:02:00Z".into();
    });
    let error = error.unwrap_err().to_string();
    assert!(error.contains("ends before it begins"), "{error}");
}
