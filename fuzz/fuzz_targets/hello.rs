//! The first bytes of a caged server's connection: a name, a part of one, or none; never more than was sent.

use lazaret::sandbox::{Hello, read_hello};

fuzz_target!(|bytes: &[u8]| {
    if let Hello::Name(Some(name)) = read_hello(bytes) {
        assert!(name.len() <= bytes.len() && name.is_ascii());
    }
    // What is judged does not change by what comes behind it.
    if let found @ (Hello::Name(_) | Hello::NotTls | Hello::Broken) = read_hello(bytes) {
        assert_eq!(read_hello(&[bytes, &[0x16]].concat()), found);
    }
});
