use proptest::prelude::*;

use super::*;

fn ends() -> (LineSigner, LineVerifier) {
    let key = AgentKey::generate().unwrap();
    let verifier = LineVerifier::new("s1".into(), key.public());
    (LineSigner::new("s1".into(), key), verifier)
}

/// As it comes out of the framing.
fn framed(signer: &mut LineSigner, line: &str) -> Bytes {
    let mut bytes = signer.frame(line.as_bytes());
    assert_eq!(bytes.pop(), Some(b'\n'));
    bytes.into()
}

#[test]
fn lines_come_out_as_they_went_in_and_in_order() {
    let (mut signer, mut verifier) = ends();
    for (number, line) in ["{\"a\":1.0}", "", " x  y ", "not json \u{fc}"].into_iter().enumerate() {
        let (out, signature) = verifier.open(&framed(&mut signer, line)).unwrap();
        assert_eq!(out, line.as_bytes());
        assert_eq!(signature.seq, number as u64 + 1);
    }
}

#[test]
fn a_line_with_a_carriage_return_is_signed_as_it_arrives() {
    let (mut signer, mut verifier) = ends();
    assert_eq!(verifier.open(&framed(&mut signer, "{}\r")).unwrap().0, b"{}".as_slice());
}

#[test]
fn a_replayed_a_dropped_and_a_reordered_line_are_refused() {
    let (mut signer, mut verifier) = ends();
    let [one, two, three] = ["1", "2", "3"].map(|line| framed(&mut signer, line));
    verifier.open(&one).unwrap();
    assert_eq!(verifier.open(&one).unwrap_err(), BadLine::OutOfOrder { expected: 2, found: 1 });
    assert_eq!(verifier.open(&three).unwrap_err(), BadLine::OutOfOrder { expected: 2, found: 3 });
    verifier.open(&two).unwrap();
    verifier.open(&three).unwrap();
}

#[test]
fn a_line_of_another_session_or_key_and_an_altered_one_are_refused() {
    let (mut signer, mut verifier) = ends();
    let (mut other_key, _) = ends();
    assert_eq!(verifier.open(&framed(&mut other_key, "x")).unwrap_err(), BadLine::Forged(1));
    let key = AgentKey::generate().unwrap();
    let mut same_key = LineVerifier::new("s1".into(), key.public());
    let mut elsewhere = LineSigner::new("another session".into(), key);
    assert_eq!(same_key.open(&framed(&mut elsewhere, "x")).unwrap_err(), BadLine::Forged(1));

    let mut verifier = LineVerifier::new("s1".into(), signer.key.public());
    let honest = framed(&mut signer, r#"{"path":"/srv"}"#);
    let altered = Bytes::from(String::from_utf8(honest.to_vec()).unwrap().replace("/srv", "/etc"));
    assert_eq!(verifier.open(&altered).unwrap_err(), BadLine::Forged(1));
}

#[test]
fn a_line_that_is_too_long_keeps_its_place() {
    let (mut signer, mut verifier) = ends();
    let head = framed(&mut signer, "long beginning");
    assert_eq!(verifier.pass_over(&head).unwrap(), b"long beginning".as_slice());
    assert!(verifier.pass_over(&head).is_err());
    verifier.open(&framed(&mut signer, "next")).unwrap();
}

#[test]
fn lines_without_a_signature_are_refused() {
    let (_, mut verifier) = ends();
    for line in ["{\"jsonrpc\":\"2.0\"}", "", "1", "1 ", "1 x {}", "01 x {}", "-1 x {}", "+1 x {}"] {
        assert_eq!(verifier.open(&Bytes::from_static(line.as_bytes())).unwrap_err(), BadLine::Unsigned, "{line}");
    }
}

#[test]
fn the_signed_text_is_the_documented_one() {
    let value = serde_json::json!({ "session": "abc", "seq": 7, "line_digest": "sha256:00" });
    let jcs = crate::proxy::json::Json::from_value(&value).canonical();
    assert_eq!(String::from_utf8(signed_text("abc", 7, "sha256:00")).unwrap(), format!("lazaret-line-v1\n{jcs}"));
}

proptest! {
    #[test]
    fn any_bytes_are_a_signed_line_or_none(bytes in prop::collection::vec(any::<u8>(), 0..300), digits in "[0-9]{0,25}") {
        let _ = parse(&bytes);
        let mixed = [digits.as_bytes(), b" ", &bytes].concat();
        if let Some((seq, _, _)) = parse(&mixed) {
            prop_assert_eq!(seq.to_string(), digits);
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed(line in "[ -~]{1,60}", at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let (mut signer, mut verifier) = ends();
        let mut bytes = framed(&mut signer, &line).to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(verifier.open(&Bytes::from(bytes)).is_err());
    }
}
