use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use proptest::prelude::*;

use super::*;
use crate::identity::AgentKey;

const NOW: i64 = 1_800_000_000;
const AUD: &str = "did:key:zDaemon";

fn key() -> AgentKey {
    AgentKey::generate().unwrap()
}

fn caps(text: &str) -> Capabilities {
    Capabilities::new(text.split(',').map(|cap| cap.parse().unwrap()).collect()).unwrap()
}

fn terms(to: &AgentKey, cap: &str) -> Terms {
    Terms { to: to.public(), audience: AUD.into(), exp: NOW + 3600, capabilities: caps(cap), max_depth: Some(8) }
}

/// The claims of a hop, to be changed and signed again.
fn claims(text: &str) -> Claims {
    parse(text).unwrap()
}

/// Top grants to middle, middle to leaf.
fn three() -> ([AgentKey; 3], Vec<String>) {
    let keys = [key(), key(), key()];
    let (first, _) = extend(&[], &keys[0], terms(&keys[1], "fs:*,time:now"), NOW).unwrap();
    let (both, _) = extend(&first, &keys[1], terms(&keys[2], "fs:read"), NOW).unwrap();
    (keys, both)
}

fn refused(chain: &[String]) -> ChainError {
    check(chain, AUD, NOW).unwrap_err()
}

#[test]
fn an_honest_chain_is_taken_and_says_who_granted_what_to_whom() {
    let (keys, chain) = three();
    let checked = check(&chain, AUD, NOW).unwrap();
    assert_eq!(checked.hops().len(), 2);
    assert_eq!((checked.hops()[0].issuer, checked.hops()[0].subject), (keys[0].public(), keys[1].public()));
    assert_eq!((checked.last().issuer, checked.last().subject), (keys[1].public(), keys[2].public()));
    assert!(checked.last().capabilities.allows("fs", "read") && !checked.last().capabilities.allows("fs", "write"));
    let file = format!("# written by a test\n{}\n\n{}\n", chain[0], chain[1]);
    assert_eq!(read_lines(&file), chain);
}

#[test]
fn a_sub_agent_that_widens_its_grant_is_refused_by_hop_and_capability() {
    let keys = [key(), key(), key()];
    let (first, _) = extend(&[], &keys[0], terms(&keys[1], "fs:read,time:*"), NOW).unwrap();
    let error = extend(&first, &keys[1], terms(&keys[2], "time:now,fs:write"), NOW).unwrap_err();
    assert_eq!(error.to_string(), "hop 2 of the delegation grants fs:write, which hop 1 does not grant");
    assert!(error.next_step().contains("only narrows"));
    // By hand, past our own issuer.
    let mut wide = claims(&extend(&first, &keys[1], terms(&keys[2], "fs:read"), NOW).unwrap().0[1]);
    for cap in ["fs:*", "*:*", "time:*,other:x"] {
        wide.cap = caps(cap);
        let chain = [first[0].clone(), wide.sign(&keys[1]).unwrap()];
        assert!(matches!(refused(&chain), ChainError::Widens { hop: 2, .. }), "{cap}");
    }
}

#[test]
fn depth_and_expiry_only_narrow() {
    let (keys, chain) = three();
    let resign = |change: &dyn Fn(&mut Claims)| {
        let mut hop = claims(&chain[1]);
        change(&mut hop);
        check(&[chain[0].clone(), hop.sign(&keys[1]).unwrap()], AUD, NOW)
    };
    assert!(resign(&|_| {}).is_ok());
    assert!(matches!(resign(&|hop| hop.max_depth = 9), Err(ChainError::Deepens { hop: 2, found: 9, parent: 8 })));
    assert!(matches!(resign(&|hop| hop.max_depth = 2), Err(ChainError::TooDeep { hop: 2, depth: 3, max: 2 })));
    assert!(matches!(resign(&|hop| hop.exp += 1), Err(ChainError::Outlives { hop: 2, .. })));
    assert!(matches!(resign(&|hop| hop.exp = NOW), Err(ChainError::Expired { hop: 2, .. })));
    assert!(matches!(check(&chain, AUD, NOW + 3600), Err(ChainError::Expired { hop: 1, .. })));
    assert!(matches!(resign(&|hop| hop.exp = i64::MIN), Err(ChainError::Expired { .. })));
    // Unless the parent says more, the sub-agent hands on nothing.
    let alone = Terms { max_depth: None, ..terms(&keys[1], "fs:read") };
    let (first, _) = extend(&[], &keys[0], alone, NOW).unwrap();
    let error = extend(&first, &keys[1], Terms { max_depth: None, ..terms(&keys[2], "fs:read") }, NOW).unwrap_err();
    assert!(matches!(error, ChainError::Deepens { hop: 2, found: 3, parent: 2 }), "{error}");
}

#[test]
fn hops_that_were_moved_left_out_or_stolen_are_refused() {
    let (keys, chain) = three();
    assert_eq!(refused(&[]), ChainError::Empty);
    assert_eq!(refused(&[chain[1].clone()]), ChainError::Headless);
    assert_eq!(refused(&[chain[1].clone(), chain[0].clone()]), ChainError::Headless);
    assert!(matches!(refused(&[chain[0].clone(), chain[0].clone()]), ChainError::Issuer { hop: 2, .. }));
    assert!(matches!(check(&chain, "did:key:zOther", NOW), Err(ChainError::Audience { hop: 1, .. })));
    // Another grant of the same parent to the same sub-agent is not the one that was extended.
    let (other, _) = extend(&[], &keys[0], terms(&keys[1], "fs:*"), NOW).unwrap();
    assert_eq!(refused(&[other[0].clone(), chain[1].clone()]), ChainError::Linkage { hop: 2 });
    // Signed by somebody who was not granted anything.
    let thief = key();
    let mut stolen = claims(&chain[1]);
    stolen.iss = thief.public().did();
    assert!(matches!(refused(&[chain[0].clone(), stolen.sign(&thief).unwrap()]), ChainError::Issuer { hop: 2, .. }));
    let forged = claims(&chain[1]).sign(&thief).unwrap();
    assert!(matches!(refused(&[chain[0].clone(), forged]), ChainError::Jws { hop: 2, source: JwsError::Signature(_) }));
    // Back to the top agent, which would look narrower than it is.
    let circle = Terms { to: keys[0].public(), ..terms(&keys[0], "fs:read") };
    assert_eq!(extend(&chain[..1], &keys[1], circle, NOW).unwrap_err(), ChainError::Circle { hop: 2 });
    let many = vec![chain[0].clone(); MAX_HOPS + 1];
    assert_eq!(refused(&many), ChainError::TooLong(MAX_HOPS + 1));
}

#[test]
fn a_jws_has_one_form_only() {
    let (keys, chain) = three();
    let parts: Vec<&str> = chain[0].split('.').collect();
    let with = |header: &str, payload: &str| {
        let text = format!("{}.{}", BASE64URL.encode(header), BASE64URL.encode(payload));
        let signature = BASE64URL.encode(keys[0].sign(text.as_bytes()).to_bytes());
        parse(&format!("{text}.{signature}"))
    };
    let header = String::from_utf8(BASE64URL.decode(parts[0]).unwrap()).unwrap();
    let payload = String::from_utf8(BASE64URL.decode(parts[1]).unwrap()).unwrap();
    assert!(with(&header, &payload).is_ok());
    assert_eq!(with(r#"{"alg":"none"}"#, &payload), Err(JwsError::Header));
    assert_eq!(with(r#"{"alg":"EdDSA"}"#, &payload), Err(JwsError::Header));
    let twice = payload.replacen("{", r#"{"max_depth":1,"#, 1);
    assert!(matches!(with(&header, &twice), Err(JwsError::Claims(_))));
    let more = payload.replacen("{", r#"{"admin":true,"#, 1);
    assert!(matches!(with(&header, &more), Err(JwsError::Claims(_))));
    let short = payload.replacen(&claims(&chain[0]).jti, "1", 1);
    assert!(matches!(with(&header, &short), Err(JwsError::Claims(_))));
    assert!(matches!(with(&header, "not json"), Err(JwsError::Claims(_))));
    for text in ["", "..", "a.b", "a.b.c.d", &format!("{}=", chain[0]), &chain[0].replace('.', ",")] {
        assert!(matches!(parse(text), Err(JwsError::Form | JwsError::Header)), "{text}");
    }
    assert_eq!(parse(&"a".repeat(MAX_JWS + 1)), Err(JwsError::TooLong));
}

#[test]
fn capabilities_are_read_as_they_are_written() {
    for text in ["fs:read_file", "fs:*", "*:*", "@scope/fs:a:b"] {
        assert_eq!(text.parse::<Capability>().unwrap().to_string(), text);
    }
    for text in ["", "fs", ":x", "fs:", "*:x", "a b:c", "fs:a,b", "fs:a b", "f*:x"] {
        assert!(text.parse::<Capability>().is_err(), "{text}");
    }
    assert_eq!(Capabilities::new(Vec::new()), Err(CapabilityError::Empty));
    assert!(Capabilities::new(vec!["a:b".parse().unwrap(); 65]).is_err());
}

/// A small world, so that capabilities often meet.
fn any_capability() -> impl Strategy<Value = String> {
    prop_oneof![
        1 => Just("*:*".to_owned()),
        3 => "[a-c]:\\*",
        6 => "[a-c]:[x-z]",
    ]
}

fn any_hop() -> impl Strategy<Value = (Vec<String>, u32, i64)> {
    (prop::collection::vec(any_capability(), 1..4), 0u32..9, -5i64..200)
}

/// What the chain check promises, said in another way: over every tool of the small world.
fn narrows(hops: &[(Vec<String>, u32, i64)]) -> bool {
    let tools = |caps: &[String]| {
        let mut all = std::collections::BTreeSet::new();
        // `*` as a name stands for the tools and servers that nobody has thought of.
        for server in ["a", "b", "c", "*"] {
            for tool in ["x", "y", "z", "*"] {
                let hit = |cap: &String| {
                    let (s, t) = cap.split_once(':').unwrap();
                    (s == "*" || s == server) && (t == "*" || t == tool)
                };
                if caps.iter().any(hit) {
                    all.insert((server, tool));
                }
            }
        }
        all
    };
    hops.iter().enumerate().all(|(n, (caps, depth, ttl))| {
        let deep = u32::try_from(n).unwrap() + 2 <= *depth && *ttl > 0;
        let within = n == 0 || {
            let (above, above_depth, above_ttl) = &hops[n - 1];
            tools(caps).is_subset(&tools(above)) && depth <= above_depth && ttl <= above_ttl
        };
        deep && within
    })
}

fn signed(hops: &[(Vec<String>, u32, i64)]) -> Vec<String> {
    let keys: Vec<AgentKey> = (0..=hops.len()).map(|_| key()).collect();
    let mut chain: Vec<String> = Vec::new();
    for (n, (cap, max_depth, ttl)) in hops.iter().enumerate() {
        let claims = Claims {
            iss: keys[n].public().did(),
            sub: keys[n + 1].public().did(),
            aud: AUD.into(),
            exp: NOW + ttl,
            jti: format!("{n:032x}"),
            parent_hash: chain.last().map(|parent| super::jws::hash(parent)),
            cap: caps(&cap.join(",")),
            max_depth: *max_depth,
        };
        chain.push(claims.sign(&keys[n]).unwrap());
    }
    chain
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_chain_is_taken_exactly_where_every_hop_narrows(hops in prop::collection::vec(any_hop(), 1..5)) {
        let taken = check(&signed(&hops), AUD, NOW).is_ok();
        prop_assert_eq!(taken, narrows(&hops), "{:?}", hops);
    }

    #[test]
    fn any_honest_narrowing_is_taken(
        caps in prop::collection::vec(any_capability(), 1..6),
        depth in 1usize..6,
        keep in prop::collection::vec(1usize..6, 6),
    ) {
        let mut hops = Vec::new();
        for hop in 0..depth {
            let count = keep[..=hop].iter().min().copied().unwrap_or(1).min(caps.len());
            hops.push((caps[..count].to_vec(), 8, 100 - i64::try_from(hop).unwrap()));
        }
        prop_assert!(check(&signed(&hops), AUD, NOW).is_ok(), "{:?}", hops);
    }

    #[test]
    fn a_chain_with_one_byte_changed_is_refused(
        hops in 1usize..4, which in any::<prop::sample::Index>(), byte in any::<prop::sample::Index>(), new in any::<u8>(),
    ) {
        let hops: Vec<_> = (0..hops).map(|_| (vec!["*:*".to_owned()], 8, 100)).collect();
        let mut chain = signed(&hops);
        let at = which.index(chain.len());
        let mut text = chain[at].clone().into_bytes();
        let place = byte.index(text.len());
        prop_assume!(text[place] != new && new.is_ascii());
        text[place] = new;
        chain[at] = String::from_utf8(text).unwrap();
        prop_assert!(check(&chain, AUD, NOW).is_err());
    }

    #[test]
    fn any_text_is_a_hop_or_an_error(text in "[ -~]{0,200}", lines in ".{0,400}") {
        let _ = parse(&text);
        let _ = check(&[text], AUD, NOW);
        let _ = check(&read_lines(&lines), AUD, NOW);
    }
}
