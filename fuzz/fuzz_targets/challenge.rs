//! A message of the challenge reads back as it was written; none that was not signed for this very hello proves anything.

fuzz_target!(|line: &[u8]| lazaret::identity::challenge::fuzz(line));
