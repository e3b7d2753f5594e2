//! What stands before a line on the socket is read without a panic, and one number is written in one way.

use lazaret::identity::signed;

fuzz_target!(|bytes: &[u8]| {
    if let Some((seq, sig, line)) = signed::parse(bytes) {
        let again = [format!("{seq} {sig} ").as_bytes(), line].concat();
        assert_eq!(again, bytes);
    }
});
