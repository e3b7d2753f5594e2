//! Any text is a hop, a chain, or an error; a chain that is made of any terms and taken grants no more than each of its
//! hops, lives no longer and goes no deeper.

use lazaret::identity::AgentKey;
use lazaret::identity::delegation::{Capabilities, Terms, check, extend, parse, read_lines};

const AUD: &str = "did:key:zDaemon";

fn key(n: u8) -> AgentKey {
    AgentKey::of_seed([n + 1; 32])
}

// Text: hops, or lines `FROM TO EXP DEPTH CAP,CAP`.
fuzz_target!(|text: &str| {
    for line in text.lines().take(8) {
        if let Ok(claims) = parse(line) {
            // What was not signed is no hop: another ending is another signature.
            let mut other = line.to_owned();
            let last = if other.pop() == Some('A') { 'B' } else { 'A' };
            other.push(last);
            assert!(parse(&other).is_err() || parse(&other) == Ok(claims));
        }
    }
    let _ = check(&read_lines(text), AUD, 0);

    let mut chain: Vec<String> = Vec::new();
    let mut terms = Vec::new();
    for line in text.lines().take(8) {
        let words: Vec<&str> = line.split(' ').collect();
        let [from, to, exp, depth, caps] = words.as_slice() else { continue };
        let (Ok(from), Ok(to), Ok(exp)) = (from.parse::<u8>(), to.parse::<u8>(), exp.parse::<i64>()) else { continue };
        let caps = caps.split(',').filter_map(|cap| cap.parse().ok()).collect();
        let Ok(capabilities) = Capabilities::new(caps) else { continue };
        let (from, to) = (key(from % 8), key(to % 8).public());
        let hop = Terms { to, audience: AUD.into(), exp, capabilities, max_depth: depth.parse().ok() };
        if let Ok((longer, _)) = extend(&chain, &from, hop.clone(), 0) {
            chain = longer;
            terms.push((from.public(), hop));
        }
    }
    if terms.is_empty() {
        return;
    }
    let checked = check(&chain, AUD, 0).expect("what was extended is taken");
    let last = checked.last();
    assert_eq!((checked.hops().len(), last.subject), (terms.len(), terms[terms.len() - 1].1.to));
    for (n, (from, hop)) in terms.iter().enumerate() {
        assert_eq!((checked.hops()[n].issuer, checked.hops()[n].subject), (*from, hop.to));
        assert!(n == 0 || *from == terms[n - 1].1.to, "each hop is granted by whom the one before is for");
        assert!(last.exp <= hop.exp && last.exp > 0 && hop.capabilities.beyond(&last.capabilities).is_none());
        assert!(last.max_depth <= checked.hops()[n].max_depth && terms.len() < checked.hops()[n].max_depth as usize);
    }
    assert!(check(&chain, "did:key:zOther", 0).is_err() && check(&chain, AUD, last.exp).is_err());
    let orphan: Vec<String> = chain[1..].to_vec();
    assert!(check(&orphan, AUD, 0).is_err(), "a chain without its first hop is none");
});
