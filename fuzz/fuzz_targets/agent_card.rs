//! Any text is a card that was checked, or an error; what is signed verifies, and changed in any byte it does not, or
//! says the same.

use jiff::{SignedDuration, Timestamp};
use lazaret::identity::{AgentKey, Card, CardFields};

/// One that stays the same keeps a finding repeatable.
fn key() -> AgentKey {
    AgentKey::of_seed([7; 32])
}

// Text: a card, or where and how to change one, the alias, the owner and the address of one that is made.
fuzz_target!(|text: &str| {
    let now = Timestamp::UNIX_EPOCH;
    if let Ok(card) = Card::verify(text, now) {
        assert!(card.expires_at > now);
        assert!(Card::verify(text, card.expires_at).is_err(), "a card has an end");
    }
    let mut words = text.splitn(5, '\n');
    let (Some(at), Some(with), Some(alias), Some(owner), Some(address)) =
        (words.next(), words.next(), words.next(), words.next(), words.next())
    else {
        return;
    };
    let (Ok(at), Ok(address)) = (at.parse::<usize>(), address.parse()) else { return };
    let fields = CardFields { alias: Some(alias.into()), owner: Some(owner.into()), capabilities: Vec::new() };
    let card = Card::sign(&address, &fields, &key(), now, SignedDuration::from_hours(1)).expect("a key signs");
    let Ok(read) = Card::verify(&card, now) else {
        assert!(card.len() > 64 << 10, "what is signed verifies");
        return;
    };
    assert_eq!((&read.address, read.key), (&address, key().public()));
    let mut changed = card.clone();
    let start = card.floor_char_boundary(at % card.len());
    changed.replace_range(start..card.ceil_char_boundary(start + 1), with);
    if let Ok(changed) = Card::verify(&changed, now) {
        assert_eq!(changed, read, "{at} {with:?}");
    }
});
