//! Catalogue evidence: the argv walks a launcher's grammar to the name of an MCP server.
//!
//! The grammar is data (maps `STEPS`, `STATE_RULES`); this file is only the walker, `package.rs` matches
//! the name. The first positional that no step names decides: `npm install mcp-server-x` is not a launch.

use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use lazaret_common::catalogue::{
    CLUSTER, ENTER, FLAG, NAME, NEEDS_NOTE, NOTE, PackageKey, SERVER, SKIP_VALUE, START, STATES, STOP, StepKey, TOKENS,
    TOLD, TRY_VALUE, WORD,
};
use lazaret_common::event::ARGV;

use crate::kernel::{Loop, repeat};
use crate::maps::{STATE_RULES, STEPS};
use crate::scratch::{self, Scratch};
use crate::{names, package};

pub const TOKEN: usize = 256;
/// Most short flags in one word.
const FLAGS: u32 = 16;

/// [`Walk::pending`]: the token behind the package.
const LAST: u8 = 0xff;

#[repr(C)]
pub struct Walk {
    /// Where the next token starts in the argv, and where this one does.
    position: u32,
    at: u32,
    /// Bytes of the token without its NUL.
    pub length: u32,
    /// Where its last component starts, the one before, and the one before that.
    pub base: u32,
    pub parent: u32,
    pub above: u32,
    /// Behind the token's first slash, 0 if there is none.
    pub first: u32,
    /// Behind its last `/node_modules/`, 0 if there is none.
    pub module: u32,
    /// Behind its last `npm:` or `jsr:`, 0 if there is none.
    pub specifier: u32,
    /// Behind its `://`, 0 if there is none.
    pub scheme: u32,
    /// The last four bytes that were seen.
    pub recent: u32,
    /// Where the name to match starts, and where the flag's value does.
    pub from: u32,
    /// Bytes of the name, and where its last component starts.
    pub named: u32,
    pub named_base: u32,
    pub state: u8,
    /// What the next token is: 0 a token, [`SKIP_VALUE`], [`TRY_VALUE`] or [`LAST`].
    pending: u8,
    pub namespace: u8,
    /// The token goes on from the one before it, which was cut.
    continued: u8,
    pub verdict: u8,
    pub scoped: u8,
    step: StepKey,
    /// Flags of the state.
    pub flags: u8,
    /// What a step says.
    action: u8,
    next: u8,
    /// A flag with [`NOTE`] was there.
    noted: u8,
    /// An exact name, an `other` and a server's or client's pattern matched.
    pub exact: u8,
    pub stopped: u8,
    pub likely: u8,
    /// The token has a dot behind its last slash, and one or a colon before its first.
    pub dotted: u8,
    pub registry: u8,
    /// The name ends at its first slash (behind its scope).
    pub one: u8,
    /// The byte before.
    pub before: u8,
    pad: [u8; 5],
    /// Bytes of the word in the step key that may be its version's, and whether some were.
    word: u32,
    versioned: u32,
    pub token: [u8; TOKEN],
    pub name: Key<PackageKey>,
    pub back: Key<PackageKey>,
}

/// Judges the argv in the event; the words must have been found. 0: nothing known.
#[inline(always)]
pub fn judge(scratch: *mut Scratch) -> u8 {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let s = &mut *scratch;
        begin(s);
        word_key(s, s.words.base[0]);
        look_up((*scratch).slot as u32);
        let s = &mut *scratch;
        if s.walk.action == 0 {
            if s.words.says_mcp == 0 {
                return 0;
            }
            copy_token(s, s.words.base[0]);
        }
        launch(scratch)
    }
}

/// As [`judge`], with the name in `names` instead of the first word.
#[inline(always)]
pub fn judge_alias(scratch: *mut Scratch) -> u8 {
    // SAFETY: scratch is this CPU's slot; the name ends with a NUL.
    unsafe {
        let s = &mut *scratch;
        begin(s);
        s.walk.step.name = [0; NAME];
        s.walk.step.state = START;
        s.walk.step.kind = WORD;
        let name = names::bytes(s).cast();
        s.walk.word = bpf_probe_read_kernel_str(s.walk.step.name.as_mut_ptr().cast(), NAME as u32, name) as u32;
        look_up((*scratch).slot as u32);
        if (*scratch).walk.action == 0 {
            if !names::says_mcp(scratch) {
                return 0;
            }
            let s = &mut *scratch;
            let name = names::bytes(s).cast();
            bpf_probe_read_kernel_str(s.walk.token.as_mut_ptr().cast(), names::NAME as u32, name);
        }
        launch(scratch)
    }
}

#[inline(always)]
fn begin(s: &mut Scratch) {
    s.walk.state = START;
    s.walk.pending = 0;
    s.walk.continued = 0;
    s.walk.noted = 0;
    s.walk.verdict = 0;
    s.walk.position = s.words.end[0];
}

/// Walks on from what was found in the first state; where that is nothing, the token is the program's name.
#[inline(always)]
unsafe fn launch(scratch: *mut Scratch) -> u8 {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let s = &mut *scratch;
        match s.walk.action {
            0 => {
                package::program(scratch);
                if (*scratch).walk.verdict != SERVER {
                    return (*scratch).walk.verdict;
                }
                (*scratch).walk.pending = LAST;
            }
            ENTER => s.walk.state = s.walk.next,
            action => return action,
        }
        repeat(TOKENS, token, scratch);
        (*scratch).walk.verdict
    }
}

/// Copies the NUL-terminated bytes at `from` in the argv into the token; returns the bytes copied.
#[inline(always)]
unsafe fn copy_token(s: &mut Scratch, from: u32) -> i64 {
    let from = (from & (ARGV as u32 - 1)) as usize;
    // SAFETY: both lie in this CPU's slot. The argv is followed by more of the slot, so that the
    // last token may be read past the argv; the walk ends there.
    unsafe {
        bpf_probe_read_kernel_str(
            s.walk.token.as_mut_ptr().cast(),
            TOKEN as u32,
            (&raw const s.event.argv).cast::<u8>().add(from).cast(),
        )
    }
}

/// Puts the word at `from` in the argv into the step key.
#[inline(always)]
unsafe fn word_key(s: &mut Scratch, from: u32) {
    s.walk.step.name = [0; NAME];
    s.walk.step.state = s.walk.state;
    s.walk.step.kind = WORD;
    let from = (from & (ARGV as u32 - 1)) as usize;
    // SAFETY: as in `copy_token`.
    unsafe {
        let copied = bpf_probe_read_kernel_str(
            s.walk.step.name.as_mut_ptr().cast(),
            NAME as u32,
            (&raw const s.event.argv).cast::<u8>().add(from).cast(),
        );
        s.walk.word = copied as u32;
    }
}

/// What the step key says, into `action` (0: nothing) and `next`. A word is also looked up without
/// its version: `python3.12`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn look_up(slot: u32) -> u32 {
    let Some(scratch) = scratch::slot(slot) else { return 0 };
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let s = &mut *scratch;
        s.walk.action = 0;
        if let Some(step) = STEPS.get_ptr(&s.walk.step) {
            s.walk.action = (*step).action;
            s.walk.next = (*step).next;
            return 1;
        }
        if s.walk.step.kind == WORD {
            s.walk.versioned = 0;
            repeat(NAME as u32, version_byte, scratch);
            let s = &mut *scratch;
            if s.walk.versioned == 0 {
                return 1;
            }
            if let Some(step) = STEPS.get_ptr(&s.walk.step) {
                s.walk.action = (*step).action;
                s.walk.next = (*step).next;
            }
        }
    }
    1
}

/// Takes digits and dots off the end: `word` counts the bytes before and the NUL.
unsafe extern "C" fn version_byte(_: u64, context: *mut Loop) -> i64 {
    // SAFETY: the context is `repeat`'s; the index is bounded.
    unsafe {
        let s = &mut *(*context).scratch;
        // Opaque, or the compiler subtracts from the pointer, whose bound the verifier then loses.
        let at = core::hint::black_box((s.walk.word as u64).wrapping_sub(2));
        if at >= NAME as u64 {
            return 1;
        }
        let byte = &mut s.walk.step.name[at as usize];
        if *byte != b'.' && (*byte < b'0' || *byte > b'9') {
            return 1;
        }
        *byte = 0;
        s.walk.word -= 1;
        s.walk.versioned = 1;
        0
    }
}

unsafe extern "C" fn token(i: u64, context: *mut Loop) -> i64 {
    // SAFETY: the context is `repeat`'s.
    unsafe {
        let scratch = (*context).scratch;
        let s = &mut *scratch;
        let at = s.walk.position;
        if at >= s.words.length || i >= TOKENS as u64 {
            return 1;
        }
        let copied = copy_token(s, at);
        if copied <= 0 {
            return 1;
        }
        let continued = s.walk.continued;
        let cut = copied == TOKEN as i64;
        s.walk.continued = cut as u8;
        s.walk.length = (copied - 1) as u32;
        s.walk.position = at + copied as u32 - cut as u32;
        s.walk.at = at;
        s.walk.from = 0;
        if continued != 0 {
            return 0;
        }
        match s.walk.pending {
            LAST => return last(scratch),
            SKIP_VALUE => {
                s.walk.pending = 0;
                return 0;
            }
            TRY_VALUE => {
                s.walk.pending = 0;
                return package::value(scratch);
            }
            _ => {}
        }
        if s.walk.token[0] == b'-' && s.walk.length > 1 { flag(scratch) } else { positional(scratch) }
    }
}

/// A server that is only asked for its help or version serves nothing.
#[inline(always)]
unsafe fn last(scratch: *mut Scratch) -> i64 {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let s = &mut *scratch;
        if s.walk.position >= s.words.length && s.words.total <= s.words.length {
            s.walk.state = TOLD;
            word_key(s, s.walk.at);
            s.walk.step.kind = FLAG;
            look_up((*scratch).slot as u32);
            if (*scratch).walk.action == STOP {
                (*scratch).walk.verdict = 0;
            }
        }
    }
    1
}

#[inline(always)]
unsafe fn flag(scratch: *mut Scratch) -> i64 {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let s = &mut *scratch;
        s.walk.step.name = [0; NAME];
        s.walk.step.state = s.walk.state;
        s.walk.step.kind = FLAG;
        repeat(NAME as u32, flag_byte, scratch);
        look_up((*scratch).slot as u32);
        let s = &mut *scratch;
        if s.walk.action == 0 && s.walk.token[1] != b'-' {
            let Some(rule) = STATE_RULES.get_ptr((s.walk.state as usize & (STATES - 1)) as u32) else { return 1 };
            if (*rule).flags & CLUSTER != 0 {
                s.walk.from = 0;
                repeat(FLAGS, short_flag, scratch);
            }
        }
        let s = &mut *scratch;
        let inline = s.walk.from != 0;
        let taken_back = inline && s.walk.token[s.walk.from as usize & (TOKEN - 1)] == b'f';
        match s.walk.action {
            0 => {}
            NOTE => s.walk.noted |= !taken_back as u8,
            ENTER => {
                s.walk.state = s.walk.next;
                if inline {
                    return positional(scratch);
                }
            }
            SKIP_VALUE if !inline => s.walk.pending = SKIP_VALUE,
            SKIP_VALUE => {}
            TRY_VALUE => {
                s.walk.namespace = s.walk.next;
                if inline {
                    return package::value(scratch);
                }
                s.walk.pending = TRY_VALUE;
            }
            STOP => return !taken_back as i64,
            other => {
                s.walk.verdict = other;
                return 1;
            }
        }
        0
    }
}

/// Copies a flag up to its `=`, behind which its value starts.
unsafe extern "C" fn flag_byte(i: u64, context: *mut Loop) -> i64 {
    // SAFETY: the context is `repeat`'s; the index is bounded.
    unsafe {
        let s = &mut *(*context).scratch;
        if i >= NAME as u64 {
            return 1;
        }
        let byte = s.walk.token[i as usize];
        if byte == b'=' {
            s.walk.from = i as u32 + 1;
            return 1;
        }
        if byte == 0 {
            return 1;
        }
        s.walk.step.name[i as usize] = byte;
        0
    }
}

/// One letter of `-abc`. The first with a meaning beyond itself takes what follows as its value.
unsafe extern "C" fn short_flag(i: u64, context: *mut Loop) -> i64 {
    // SAFETY: the context is `repeat`'s; indices are bounded.
    unsafe {
        let scratch = (*context).scratch;
        let s = &mut *scratch;
        if i >= FLAGS as u64 {
            return 1;
        }
        let letter = s.walk.token[i as usize + 1];
        if letter == 0 || letter == b'=' {
            return 1;
        }
        s.walk.step.name = [0; NAME];
        s.walk.step.name[0] = b'-';
        s.walk.step.name[1] = letter;
        let Some(step) = STEPS.get_ptr(&s.walk.step) else { return 0 };
        if (*step).action == NOTE {
            s.walk.noted = 1;
            return 0;
        }
        s.walk.action = (*step).action;
        s.walk.next = (*step).next;
        let next = s.walk.token[i as usize + 2];
        if next != 0 && s.walk.action != STOP {
            s.walk.from = i as u32 + if next == b'=' { 3 } else { 2 };
        }
        1
    }
}

/// The word at `walk.from` in the token.
#[inline(never)]
unsafe fn positional(scratch: *mut Scratch) -> i64 {
    if scratch.is_null() {
        return 1;
    }
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        package::components((*scratch).slot as u32);
        let s = &mut *scratch;
        let from = if s.walk.base > s.walk.from { s.walk.base } else { s.walk.from };
        word_key(s, s.walk.at + from);
        look_up((*scratch).slot as u32);
        let s = &mut *scratch;
        match s.walk.action {
            0 => {}
            ENTER => {
                s.walk.state = s.walk.next;
                return 0;
            }
            STOP => return 1,
            other => {
                s.walk.verdict = other;
                return 1;
            }
        }
        let Some(rule) = STATE_RULES.get_ptr((s.walk.state as usize & (STATES - 1)) as u32) else { return 1 };
        if (*rule).namespace == 0 || (*rule).flags & NEEDS_NOTE != 0 && s.walk.noted == 0 {
            return 1;
        }
        s.walk.namespace = (*rule).namespace;
        s.walk.flags = (*rule).flags;
        package::named((*scratch).slot as u32);
        if (*scratch).walk.verdict != SERVER {
            return 1;
        }
        (*scratch).walk.pending = LAST;
        0
    }
}

/// Whether the name at `from` in the token is a word of `state`.
#[inline(always)]
pub unsafe fn is_word(scratch: *mut Scratch, state: u8, from: u32) -> bool {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let s = &mut *scratch;
        s.walk.step.name = [0; NAME];
        s.walk.step.state = state;
        s.walk.step.kind = WORD;
        s.walk.from = from;
        repeat(NAME as u32, component_byte, scratch);
        STEPS.get_ptr(&(*scratch).walk.step).is_some()
    }
}

/// Copies a component of the token, up to a slash.
unsafe extern "C" fn component_byte(i: u64, context: *mut Loop) -> i64 {
    // SAFETY: the context is `repeat`'s; indices are bounded or masked.
    unsafe {
        let s = &mut *(*context).scratch;
        if i >= NAME as u64 {
            return 1;
        }
        let byte = s.walk.token[(s.walk.from as u64 + i) as usize & (TOKEN - 1)];
        if byte == 0 || byte == b'/' {
            return 1;
        }
        s.walk.step.name[i as usize] = byte;
        0
    }
}
