//! What is read of a journal is a beginning of it, byte for byte, in order and without a gap.

use lazaret::store::frames;

// The first eight bytes are the journal's id.
fuzz_target!(|input: &[u8]| {
    let Some((id, bytes)) = input.split_first_chunk() else { return };
    let id = u64::from_le_bytes(*id);
    let read = frames::read(id, bytes);
    assert!(read.windows(2).all(|pair| pair[0].0.checked_add(1) == Some(pair[1].0)));
    let again: Vec<u8> =
        read.iter().flat_map(|(position, written)| written.frame(id, *position).unwrap_or_default()).collect();
    assert_eq!(again, bytes[..again.len()]);
    // A whole frame in the right place goes on where they end.
    if let Some((last, written)) = read.last()
        && let Some(next) = last.checked_add(1)
        && let Some(frame) = written.frame(id, next)
    {
        let longer = [&again[..], &frame, bytes].concat();
        assert!(frames::read(id, &longer).len() > read.len());
    }
});
