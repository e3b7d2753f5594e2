//! However a stream of events is cut, its events are the same, and none is longer than the limit.

use lazaret::remote::sse::Parser;

// The first byte says how long the pieces are.
fuzz_target!(|input: &[u8]| {
    let Some((cut, bytes)) = input.split_first() else { return };
    let whole = Parser::new(256).feed(bytes);
    let mut parser = Parser::new(256);
    let mut parts = Ok(Vec::new());
    for part in bytes.chunks(usize::from(*cut).max(1)) {
        match (parser.feed(part), &mut parts) {
            (Ok(events), Ok(all)) => all.extend(events),
            (Err(e), _) => {
                parts = Err(e);
                break;
            }
            (Ok(_), Err(_)) => break,
        }
    }
    if let Ok(events) = &parts {
        assert!(events.iter().all(|event| event.data.len() <= 257));
    }
    assert_eq!(whole, parts);
});
