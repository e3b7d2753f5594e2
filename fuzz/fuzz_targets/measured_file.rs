//! Files of state and command lines that a measurement reads have a digest, whatever is in them.

use lazaret::identity::measure::{digest_command_line, digest_members};

fuzz_target!(|bytes: &[u8]| {
    for digest in [digest_members(bytes, false), digest_members(bytes, true), digest_command_line(bytes)] {
        assert!(digest.contains("sha256:"));
    }
});
