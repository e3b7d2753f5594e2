//! The first looks at what goes through a channel, eight bytes (in memory order, little-endian) at a time.
//!
//! Invariant: they miss no handshake. What they let through is parsed, so that they may take much for one.

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// 0 if no message starts in these eight bytes; `before` and `twice` are the eight bytes from one and from two before.
///
/// A message starts with a bracket at the start of a line, perhaps behind white space, a byte order mark or a
/// record separator.
#[inline(always)]
pub fn starts(word: u64, before: impl FnOnce() -> u64, twice: impl FnOnce() -> u64) -> u64 {
    // `[` is `{` without one bit.
    let bracket = is(word | (ONES * 0x20), b'{');
    if bracket == 0 {
        return 0;
    }
    let before = before();
    let control = below(before, 0x20) | is(before, 0xbf);
    let twice = twice();
    bracket & (control | (below(before, 0x21) & (below(twice, 0x21) | is(twice, 0xbf))))
}

/// 0 if these eight bytes have no byte of those that [`says`] looks for: `V`, `/` or a backslash.
///
/// Bytes that differ from one of them in a bit or two pass, which saves a comparison.
#[inline(always)]
pub fn may_say(word: u64) -> u64 {
    is(word | (ONES * 0x0a), 0x5e) | is(word, b'/')
}

/// 0 if these eight bytes say nothing that only a handshake says; `before` and `after` are the eight bytes from one
/// before and from one behind.
///
/// A handshake has `protocolVersion` or `server/discover` in it, or hides them behind `\u` or `\/`. [`confirms`]
/// looks closer.
#[inline(always)]
pub fn says(word: u64, before: u64, after: u64) -> u64 {
    let escaped = is(before, b'\\');
    let slash = is(word, b'/');
    let capital = is(word, b'V') & is(before, b'l');
    let path = slash & is(before, b'r') & is(after, b'd');
    capital | path | (slash | is(word, b'u')) & escaped
}

/// The high bit of each byte that ends a run of characters in a string: a quote, a backslash or a line's end. The
/// lowest one is right.
#[inline(always)]
pub fn ends_run(word: u64) -> u64 {
    is(word, b'"') | is(word, b'\\') | is(word, b'\n')
}

/// How many bytes lie below the lowest high bit that is set; `bits` is not 0.
#[inline(always)]
pub fn first(bits: u64) -> u64 {
    (((bits & bits.wrapping_neg()).wrapping_sub(1) & ONES).wrapping_mul(ONES) >> 56).wrapping_sub(1)
}

/// Whether the eight bytes start with `lVersion` or `/discove`, or with the escape of a letter of a handshake.
#[inline(always)]
pub fn confirms(word: u64) -> bool {
    const CAPITAL: u64 = u64::from_le_bytes(*b"lVersion");
    const PATH: u64 = u64::from_le_bytes(*b"/discove");
    const ESCAPED_PATH: u64 = u64::from_le_bytes(*b"\\/discov");
    const ESCAPE: u64 = u64::from_le_bytes(*b"\\u00\0\0\0\0");
    const FOUR: u64 = 0xffff_ffff;
    if word == CAPITAL || word == PATH || word == ESCAPED_PATH {
        return true;
    }
    if word & FOUR != ESCAPE {
        return false;
    }
    let high = (word >> 32) as u8;
    let low = (word >> 40) as u8;
    // The codes of `-./`, of digits and of letters.
    match high {
        b'2' => low | 0x20 >= b'd',
        b'3' => low <= b'9',
        b'4'..=b'7' => true,
        _ => false,
    }
}

/// The high bit of each byte that equals `byte`; now and then of the one above it too.
#[inline(always)]
const fn is(word: u64, byte: u8) -> u64 {
    let zero = word ^ (ONES * byte as u64);
    zero.wrapping_sub(ONES) & !zero & HIGH
}

/// The high bit of each byte below `limit` (at most 0x80); now and then of the one above it too.
#[inline(always)]
const fn below(word: u64, limit: u64) -> u64 {
    word.wrapping_sub(ONES * limit) & !word & HIGH
}

/// Two of these four words have a control character that no text has.
#[inline(always)]
pub fn is_binary(words: [u64; 4]) -> bool {
    let mut odd = 0;
    for word in words {
        let usual = is(word, b'\n') | is(word, b'\t') | is(word, b'\r') | is(word, 0x1b) | is(word, 0x1e);
        odd += (below(word, 0x20) & !usual != 0) as u32;
    }
    odd >= 2
}
