//! FNV-1a, 64 bit: small enough for a kernel program, and only ever compared together with a length.

pub const START: u64 = 0xcbf2_9ce4_8422_2325;

#[inline(always)]
pub const fn step(hash: u64, byte: u8) -> u64 {
    (hash ^ byte as u64).wrapping_mul(0x0000_0100_0000_01b3)
}

pub const fn of(bytes: &[u8]) -> u64 {
    let mut hash = START;
    let mut i = 0;
    while i < bytes.len() {
        hash = step(hash, bytes[i]);
        i += 1;
    }
    hash
}
