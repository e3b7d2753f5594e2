//! Feeds bytes to the MCP recogniser of `lazaret-common`.

use crate::iov::{BEFORE, CHUNK};
use crate::kernel::Loop;

/// The body of the innermost loop: one byte of the chunk.
pub unsafe extern "C" fn byte(i: u64, context: *mut Loop) -> i64 {
    // SAFETY: the context is `repeat`'s; the index is masked to the chunk.
    unsafe {
        let s = &mut *(*context).scratch;
        let byte = s.input.chunk[BEFORE + (i & (CHUNK as u64 - 1)) as usize];
        if s.parser.take(byte) {
            s.input.stop = 1;
            return 1;
        }
    }
    0
}
