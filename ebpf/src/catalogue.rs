//! Catalogue evidence: the argv walks a launcher's grammar to the name of an MCP server.
//!
//! The grammar is data (maps `STEPS`, `STATE_RULES`, `PACKAGES`); this file is only the walker.
//! The first positional that no step names decides: `npm install mcp-server-x` is not a launch.

use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use lazaret_common::catalogue::{
    BACKWARDS, ENTER, FLAG, IMAGE, NAME, NPM, PACKAGE, PROGRAM, PYPI, PackageKey, SKIP_VALUE, START, STATES, STOP,
    StepKey, TOKENS, TRY_VALUE, WORD,
};
use lazaret_common::event::ARGV;

use crate::kernel::{Loop, repeat};
use crate::maps::{PACKAGES, STATE_RULES, STEPS};
use crate::scratch::Scratch;

const TOKEN: usize = 256;

#[repr(C)]
pub struct Walk {
    /// Where the next token starts in the argv.
    position: u32,
    /// Bytes of the token without its NUL.
    length: u32,
    /// Behind the token's last slash.
    base: u32,
    /// Behind its last `/node_modules/`, 0 if there is none.
    module: u32,
    /// Where the last component started.
    component: u32,
    /// Where the name to match starts, and where the flag's value does.
    from: u32,
    /// Bytes of the name, and where its last component starts.
    named: u32,
    named_base: u32,
    state: u8,
    /// What the next token is: 0 a token, [`SKIP_VALUE`] or [`TRY_VALUE`].
    pending: u8,
    namespace: u8,
    /// The token goes on from the one before it, which was cut.
    continued: u8,
    pub verdict: u8,
    scoped: u8,
    step: StepKey,
    /// The name is a path's; a dot does not end it.
    path: u8,
    pad: [u8; 3],
    token: [u8; TOKEN],
    name: Key<PackageKey>,
    back: Key<PackageKey>,
}

/// Judges the argv in the event; the words must have been found. 0: nothing known.
#[inline(always)]
pub fn judge(scratch: *mut Scratch) -> u8 {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let s = &mut *scratch;
        s.walk.state = START;
        s.walk.pending = 0;
        s.walk.continued = 0;
        s.walk.path = 0;
        s.walk.verdict = 0;
        s.walk.position = s.words.end[0];
        word_key(s, s.words.base[0]);
        match STEPS.get_ptr(&s.walk.step) {
            Some(step) => {
                if (*step).action != ENTER {
                    return (*step).action;
                }
                s.walk.state = (*step).next;
            }
            None => {
                if s.words.says_mcp == 0 {
                    return 0;
                }
                return program(scratch);
            }
        }
        repeat(TOKENS, token, scratch);
        (*scratch).walk.verdict
    }
}

/// A program that no launcher is: by its own name.
#[inline(always)]
unsafe fn program(scratch: *mut Scratch) -> u8 {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let s = &mut *scratch;
        let base = s.words.base[0] & (ARGV as u32 - 1);
        copy_token(s, base);
        s.walk.base = 0;
        s.walk.module = 0;
        s.walk.namespace = PROGRAM;
        s.walk.from = 0;
        package(scratch);
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
        bpf_probe_read_kernel_str(
            s.walk.step.name.as_mut_ptr().cast(),
            NAME as u32,
            (&raw const s.event.argv).cast::<u8>().add(from).cast(),
        );
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
        if continued != 0 {
            return 0;
        }
        match s.walk.pending {
            SKIP_VALUE => {
                s.walk.pending = 0;
                return 0;
            }
            TRY_VALUE => {
                s.walk.pending = 0;
                s.walk.from = 0;
                components(scratch);
                package(scratch);
                return ((*scratch).walk.verdict != 0) as i64;
            }
            _ => {}
        }
        if s.walk.token[0] == b'-' && s.walk.length > 1 { flag(scratch) } else { positional(scratch, at) }
    }
}

#[inline(always)]
unsafe fn flag(scratch: *mut Scratch) -> i64 {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let s = &mut *scratch;
        s.walk.step.name = [0; NAME];
        s.walk.step.state = s.walk.state;
        s.walk.step.kind = FLAG;
        s.walk.from = 0;
        repeat(NAME as u32, flag_byte, scratch);
        let s = &mut *scratch;
        let Some(step) = STEPS.get_ptr(&s.walk.step) else { return 0 };
        let inline = s.walk.from != 0;
        match (*step).action {
            ENTER => s.walk.state = (*step).next,
            SKIP_VALUE if !inline => s.walk.pending = SKIP_VALUE,
            SKIP_VALUE => {}
            TRY_VALUE => {
                s.walk.namespace = (*step).next;
                if !inline {
                    s.walk.pending = TRY_VALUE;
                    return 0;
                }
                components(scratch);
                package(scratch);
                return ((*scratch).walk.verdict != 0) as i64;
            }
            STOP => return 1,
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

#[inline(always)]
unsafe fn positional(scratch: *mut Scratch, at: u32) -> i64 {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        components(scratch);
        let s = &mut *scratch;
        word_key(s, at + s.walk.base);
        if let Some(step) = STEPS.get_ptr(&s.walk.step) {
            match (*step).action {
                ENTER => {
                    s.walk.state = (*step).next;
                    return 0;
                }
                STOP => {}
                other => s.walk.verdict = other,
            }
            return 1;
        }
        let Some(rule) = STATE_RULES.get_ptr((s.walk.state as usize & (STATES - 1)) as u32) else { return 1 };
        if (*rule).namespace == 0 {
            return 1;
        }
        s.walk.namespace = (*rule).namespace;
        s.walk.path = (*rule).path;
        s.walk.from = 0;
        if (*rule).path != 0 {
            s.walk.from = if s.walk.module != 0 { s.walk.module } else { s.walk.base };
            // `node_modules/.bin/NAME` is the program NAME of some package.
            if s.walk.token[(s.walk.from & (TOKEN as u32 - 1)) as usize] == b'.' {
                s.walk.from = s.walk.base;
            }
        }
        package(scratch);
        1
    }
}

/// Finds the last component of the token, and the one behind its last `/node_modules/`.
#[inline(always)]
unsafe fn components(scratch: *mut Scratch) {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let walk = &mut (*scratch).walk;
        walk.base = 0;
        walk.module = 0;
        walk.component = 0;
        repeat(walk.length & (TOKEN as u32 - 1), path_byte, scratch);
    }
}

unsafe extern "C" fn path_byte(i: u64, context: *mut Loop) -> i64 {
    // SAFETY: the context is `repeat`'s; indices are masked.
    unsafe {
        let s = &mut *(*context).scratch;
        let byte = s.walk.token[(i & (TOKEN as u64 - 1)) as usize];
        if byte != b'/' {
            return 0;
        }
        let next = i as u32 + 1;
        let start = s.walk.component;
        if i as u32 == start.wrapping_add(12) && is_node_modules(s, start) {
            s.walk.module = next;
        }
        s.walk.component = next;
        s.walk.base = next;
        0
    }
}

#[inline(always)]
fn is_node_modules(s: &Scratch, start: u32) -> bool {
    const MASK: usize = TOKEN - 1;
    let at = |offset: usize| s.walk.token[(start as usize + offset) & MASK];
    at(0) == b'n'
        && at(1) == b'o'
        && at(2) == b'd'
        && at(3) == b'e'
        && at(4) == b'_'
        && at(5) == b'm'
        && at(6) == b'o'
        && at(7) == b'd'
        && at(8) == b'u'
        && at(9) == b'l'
        && at(10) == b'e'
        && at(11) == b's'
}

/// Matches the name at `walk.from` in the token, first whole, then its last component.
#[inline(always)]
unsafe fn package(scratch: *mut Scratch) {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let s = &mut *scratch;
        let from = (s.walk.from & (TOKEN as u32 - 1)) as usize;
        if s.walk.namespace == NPM && is_specifier(s, from) {
            s.walk.from += 4;
        }
        // `git+https://host/NAME.git`, `./dist/NAME-1.0.whl`.
        if s.walk.namespace == PYPI && s.walk.base > s.walk.from {
            s.walk.from = s.walk.base;
        }
        find(scratch);
        let s = &mut *scratch;
        if s.walk.verdict == 0 && s.walk.named_base != 0 {
            s.walk.from += s.walk.named_base;
            find(scratch);
        }
        let s = &mut *scratch;
        if s.walk.verdict == STOP {
            s.walk.verdict = 0;
        }
    }
}

/// `npm:NAME`, `jsr:NAME`.
#[inline(always)]
fn is_specifier(s: &Scratch, from: usize) -> bool {
    let at = |offset: usize| s.walk.token[(from + offset) & (TOKEN - 1)];
    at(3) == b':'
        && (at(0) == b'n' && at(1) == b'p' && at(2) == b'm' || at(0) == b'j' && at(1) == b's' && at(2) == b'r')
}

/// The longer of the two matches, from the front and from the back, decides.
#[inline(never)]
unsafe fn find(scratch: *mut Scratch) -> u32 {
    if scratch.is_null() {
        return 0;
    }
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let s = &mut *scratch;
        s.walk.name = EMPTY;
        s.walk.back = EMPTY;
        s.walk.named = 0;
        s.walk.named_base = 0;
        s.walk.scoped = 0;
        repeat(PACKAGE as u32, name_byte, scratch);
        repeat((*scratch).walk.named, back_byte, scratch);
        let s = &mut *scratch;
        s.walk.name.data.namespace = s.walk.namespace;
        s.walk.back.data.namespace = s.walk.namespace | BACKWARDS;
        let mut length = 0;
        if let Some(found) = PACKAGES.get(&s.walk.name) {
            length = found.length;
            s.walk.verdict = found.verdict;
        }
        if let Some(found) = PACKAGES.get(&s.walk.back) {
            if found.length > length {
                s.walk.verdict = found.verdict;
            }
        }
    }
    1
}

const EMPTY: Key<PackageKey> = Key::new(8 * (PACKAGE as u32 + 2), PackageKey { namespace: 0, name: [0; PACKAGE + 1] });

/// Copies one byte of the name, up to its version, in the namespace's one spelling.
unsafe extern "C" fn name_byte(i: u64, context: *mut Loop) -> i64 {
    // SAFETY: the context is `repeat`'s; indices are bounded or masked.
    unsafe {
        let s = &mut *(*context).scratch;
        let at = i as u32 + s.walk.from;
        if i >= PACKAGE as u64 || at >= TOKEN as u32 {
            return 1;
        }
        let mut byte = s.walk.token[(at & (TOKEN as u32 - 1)) as usize];
        if byte == 0 {
            return 1;
        }
        let namespace = s.walk.namespace;
        if byte == b'/' {
            // Behind `node_modules/` the package ends at the first slash, the second if it has a scope.
            if s.walk.module != 0 && s.walk.from == s.walk.module {
                if s.walk.scoped == 0 {
                    return 1;
                }
                s.walk.scoped = 0;
            }
            s.walk.named_base = i as u32 + 1;
        }
        if byte == b'@' {
            if i != 0 && s.walk.named_base != i as u32 {
                return 1;
            }
            s.walk.scoped = 1;
        }
        if namespace == PYPI {
            if byte == b'='
                || byte == b'<'
                || byte == b'>'
                || byte == b'~'
                || byte == b'['
                || byte == b'.' && s.walk.path == 0
            {
                return 1;
            }
            if byte == b'_' {
                byte = b'-';
            }
        }
        if namespace == PYPI || namespace == PROGRAM {
            if byte >= b'A' && byte <= b'Z' {
                byte |= 0x20;
            }
        }
        // A tag ends an image's name; a registry's port does not.
        if namespace == IMAGE && byte == b':' && at >= s.walk.base {
            return 1;
        }
        let n = s.walk.named;
        s.walk.name.data.name[(n as usize) & PACKAGE] = byte;
        s.walk.named = n + 1;
        0
    }
}

/// Writes the name backwards.
unsafe extern "C" fn back_byte(i: u64, context: *mut Loop) -> i64 {
    // SAFETY: the context is `repeat`'s; indices are masked.
    unsafe {
        let s = &mut *(*context).scratch;
        let from = (s.walk.named as u64).wrapping_sub(1).wrapping_sub(i) as usize & PACKAGE;
        s.walk.back.data.name[i as usize & PACKAGE] = s.walk.name.data.name[from];
    }
    0
}
