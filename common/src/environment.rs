//! Environment variables that make the dynamic loader or the C library put other code into a program
//! (ld.so(8), gconv in iconv(3)): an image that starts with one of them is not the program that its
//! file says.

use crate::hash;

/// Every variable whose name starts so.
pub const PREFIX: &[u8] = b"LD_";
pub const NAMES: [&[u8]; 3] = [b"GCONV_PATH", b"GLIBC_TUNABLES", b"LOCPATH"];
/// Hashes of [`NAMES`].
pub const HASHES: [u64; NAMES.len()] = [hash::of(NAMES[0]), hash::of(NAMES[1]), hash::of(NAMES[2])];
/// No name that counts is longer.
pub const LONGEST_NAME: u32 = 16;
/// Bytes of an environment that are looked at; a longer one counts as if it had such a variable.
pub const LONGEST: u64 = 256 << 10;

/// Whether a variable of this name puts code into programs.
pub fn loads_code(name: &[u8]) -> bool {
    name.starts_with(PREFIX) || NAMES.contains(&name)
}
