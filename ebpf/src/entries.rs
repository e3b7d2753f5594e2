//! Config evidence: the argv is an entry of a client config.

use lazaret_common::event::HAS_ENTRY;
use lazaret_common::hash;
use lazaret_common::settings::{ANYBODY, EntryKey};

use crate::argv::{self, WORDS};
use crate::kernel::{Loop, repeat};
use crate::maps::{ENTRIES, ENTRY_LENGTHS};
use crate::names;
use crate::scratch::Scratch;

/// The argv from the basename of its command on is an entry. A script's command is the script, or an
/// interpreter of it, and none of the words behind: `which NAME` starts no NAME.
#[inline(always)]
pub unsafe fn matches(scratch: *mut Scratch) -> bool {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        (*scratch).words.matched = 0;
        repeat(((*scratch).words.script & WORDS) + 1, from_word, scratch);
        (*scratch).words.matched != 0
    }
}

unsafe extern "C" fn from_word(i: u64, context: *mut Loop) -> i64 {
    // SAFETY: the context is `repeat`'s; the index is masked.
    unsafe {
        let scratch = (*context).scratch;
        let words = &mut (*scratch).words;
        if i >= words.count as u64 {
            return 1;
        }
        let base = words.base[(i & 7) as usize];
        let length = words.total.wrapping_sub(base);
        if ENTRY_LENGTHS.get_ptr(&length).is_none() {
            return 0;
        }
        words.hash = hash::START;
        found(scratch, base, length) as i64
    }
}

/// As [`matches`], with the name in [`names`] instead of the first word.
#[inline(always)]
pub unsafe fn matches_alias(scratch: *mut Scratch) -> bool {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let from = (*scratch).words.end[0];
        let length = (*scratch).words.total.wrapping_sub(from).wrapping_add((*scratch).names.length);
        if from == 0 || ENTRY_LENGTHS.get_ptr(&length).is_none() {
            return false;
        }
        (*scratch).words.hash = hash::START;
        names::hash(scratch);
        found(scratch, from, length)
    }
}

/// Hashes on over the argv from `from`, and looks it up.
#[inline(always)]
unsafe fn found(scratch: *mut Scratch, from: u32, length: u32) -> bool {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        if !argv::hash_from(scratch, from) {
            return false;
        }
        let words = &(*scratch).words;
        let mut key = EntryKey { hash: words.hash, length, uid: words.uid };
        let mut id = ENTRIES.get_ptr(&key);
        if id.is_none() {
            key.uid = ANYBODY;
            id = ENTRIES.get_ptr(&key);
        }
        let Some(id) = id else { return false };
        (*scratch).event.head.config_entry = *id;
        (*scratch).event.head.flags |= HAS_ENTRY;
        (*scratch).words.matched = 1;
        true
    }
}
