//! The name that a launcher is given, in its registry's one spelling, against the patterns of `PACKAGES`.
//!
//! An exact name wins; then whatever is known to be no server; then a pattern.

use aya_ebpf::btf_maps::lpm_trie::Key;
use lazaret_common::catalogue::{
    BACKWARDS, BUILD_DIRS, DIRECTORY, ENTRY_FILES, GO, IMAGE, JAR, JBANG, MODULE, NO_ENTRY, NPM, NUGET, PACKAGE, PATH,
    PROGRAM, PYPI, PackageKey, STOP,
};

use crate::catalogue::{TOKEN, is_word};
use crate::kernel::{Loop, repeat};
use crate::maps::PACKAGES;
use crate::scratch::{self, Scratch};

const MASK: u32 = TOKEN as u32 - 1;

/// A program that no launcher is: by its own name, which is in the token.
#[inline(always)]
pub unsafe fn program(scratch: *mut Scratch) {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let s = &mut *scratch;
        s.walk.namespace = PROGRAM;
        s.walk.flags = 0;
        s.walk.from = 0;
        begin(scratch);
        find((*scratch).slot as u32);
        decide(scratch);
    }
}

/// The value of a flag, at `walk.from` in the token. Returns 1 if it decides.
#[inline(never)]
pub unsafe fn value(scratch: *mut Scratch) -> i64 {
    if scratch.is_null() {
        return 1;
    }
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        components((*scratch).slot as u32);
        (*scratch).walk.flags = 0;
        named((*scratch).slot as u32);
        ((*scratch).walk.verdict != 0) as i64
    }
}

/// Judges the name at `walk.from` in the token, whose components are known.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn named(slot: u32) -> u32 {
    let Some(scratch) = scratch::slot(slot) else { return 0 };
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        begin(scratch);
        let s = &mut *scratch;
        let (from, base) = (s.walk.from, s.walk.base);
        if s.walk.specifier != 0 && (s.walk.namespace == NPM || s.walk.flags & PATH != 0) {
            s.walk.namespace = NPM;
            s.walk.one = 1;
            s.walk.from = s.walk.specifier;
        } else if s.walk.flags & PATH != 0 {
            if !path(scratch) {
                return 0;
            }
        } else if s.walk.namespace == GO {
            // A directory of one's own is no module.
            let byte = s.walk.token[(from & MASK) as usize];
            if s.walk.first == 0 || byte == b'.' || byte == b'/' {
                return 0;
            }
            s.walk.from = if is_major(s, base) { s.walk.parent } else { base };
            s.walk.one = 1;
        } else if s.walk.namespace == IMAGE && s.walk.scheme != 0 {
            s.walk.from = s.walk.scheme;
        } else if s.walk.namespace == JAR || s.walk.namespace == JBANG || s.walk.namespace == NUGET {
            if base > from {
                s.walk.from = base;
            }
        }
        find((*scratch).slot as u32);
        let s = &mut *scratch;
        if s.walk.one == 0 || s.walk.namespace == NPM {
            // `git+https://host/NAME.git`, `./dist/NAME-1.0.whl`, `host/org/NAME`: the last component.
            let last = if s.walk.one != 0 {
                if s.walk.named_base == 0 { 0 } else { s.walk.from + s.walk.named_base }
            } else if base > from {
                base
            } else {
                0
            };
            if last != 0 {
                s.walk.from = last;
                find((*scratch).slot as u32);
            }
        }
        let s = &mut *scratch;
        if s.walk.namespace == IMAGE && s.walk.registry != 0 && s.walk.first != 0 && s.walk.first < base {
            s.walk.from = s.walk.first;
            find((*scratch).slot as u32);
        }
        decide(scratch);
    }
    1
}

#[inline(always)]
unsafe fn begin(scratch: *mut Scratch) {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let walk = &mut (*scratch).walk;
        walk.exact = 0;
        walk.stopped = 0;
        walk.likely = 0;
        walk.one = 0;
    }
}

#[inline(always)]
unsafe fn decide(scratch: *mut Scratch) {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let walk = &mut (*scratch).walk;
        let verdict = if walk.exact != 0 {
            walk.exact
        } else if walk.stopped != 0 {
            STOP
        } else {
            walk.likely
        };
        walk.verdict = if verdict == STOP { 0 } else { verdict };
    }
}

/// What in a path is the name: of a package, a script or a project. `false`: nothing.
#[inline(always)]
unsafe fn path(scratch: *mut Scratch) -> bool {
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let s = &mut *scratch;
        let base = s.walk.base;
        if s.walk.module != 0 && s.walk.token[(s.walk.module & MASK) as usize] != b'.' {
            if is_word(scratch, NO_ENTRY, base) {
                return false;
            }
            let s = &mut *scratch;
            s.walk.namespace = NPM;
            s.walk.from = s.walk.module;
            s.walk.one = 1;
            return true;
        }
        if s.walk.dotted == 0 {
            s.walk.from = base;
            // `node_modules/.bin/NAME` or a script: a program, whose basename is all of it.
            s.walk.one = 1;
            return true;
        }
        let (parent, above) = (s.walk.parent, s.walk.above);
        if parent == base || !is_word(scratch, ENTRY_FILES, base) {
            return false;
        }
        let directory = if above != parent && is_word(scratch, BUILD_DIRS, parent) { above } else { parent };
        let s = &mut *scratch;
        s.walk.namespace = DIRECTORY;
        s.walk.from = directory;
        s.walk.one = 1;
        true
    }
}

/// `v2` as a component.
#[inline(always)]
fn is_major(s: &Scratch, from: u32) -> bool {
    let digit = s.walk.token[((from + 1) & MASK) as usize];
    s.walk.token[(from & MASK) as usize] == b'v' && digit >= b'0' && digit <= b'9'
}

/// Finds the components of the token.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn components(slot: u32) -> u32 {
    let Some(scratch) = scratch::slot(slot) else { return 0 };
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let walk = &mut (*scratch).walk;
        let from = walk.from;
        walk.base = from;
        walk.parent = from;
        walk.above = from;
        walk.first = 0;
        walk.module = 0;
        walk.specifier = 0;
        walk.scheme = 0;
        walk.recent = 0;
        walk.dotted = 0;
        walk.registry = 0;
        repeat(walk.length & MASK, path_byte, scratch);
    }
    1
}

unsafe extern "C" fn path_byte(i: u64, context: *mut Loop) -> i64 {
    const NPM_COLON: u32 = u32::from_be_bytes(*b"npm:");
    const JSR_COLON: u32 = u32::from_be_bytes(*b"jsr:");
    // SAFETY: the context is `repeat`'s; indices are masked.
    unsafe {
        let s = &mut *(*context).scratch;
        let at = i as u32;
        if at < s.walk.from {
            return 0;
        }
        let byte = s.walk.token[(at & MASK) as usize];
        let recent = s.walk.recent << 8 | (byte | 0x20) as u32;
        s.walk.recent = recent;
        let next = at + 1;
        // A colon has the bit that makes letters small already.
        if recent == NPM_COLON || recent == JSR_COLON {
            s.walk.specifier = next;
        }
        if byte == b'.' {
            s.walk.dotted = 1;
        }
        if (byte == b'.' || byte == b':') && s.walk.first == 0 {
            s.walk.registry = 1;
        }
        if byte != b'/' {
            return 0;
        }
        let start = s.walk.base;
        if recent & 0x00ff_ffff == u32::from_be_bytes(*b"\0://") {
            s.walk.scheme = next;
            s.walk.first = 0;
            s.walk.registry = 0;
        } else if s.walk.first == 0 {
            s.walk.first = next;
            // `localhost/mcp/time`, which podman builds are named.
            if at == s.walk.from + 9 && recent == u32::from_be_bytes(*b"ost/") {
                s.walk.registry = 1;
            }
        }
        if at == start.wrapping_add(12) && is_node_modules(s, start) {
            s.walk.module = next;
        }
        // Two slashes in a row are one.
        if at != start {
            s.walk.above = s.walk.parent;
            s.walk.parent = start;
        }
        s.walk.base = next;
        s.walk.dotted = 0;
        0
    }
}

#[inline(always)]
fn is_node_modules(s: &Scratch, start: u32) -> bool {
    let at = |offset: u32| s.walk.token[((start + offset) & MASK) as usize];
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

/// Looks the name at `walk.from` up, from the front and from the back.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find(slot: u32) -> u32 {
    let Some(scratch) = scratch::slot(slot) else { return 0 };
    // SAFETY: scratch is this CPU's slot.
    unsafe {
        let s = &mut *scratch;
        s.walk.name = EMPTY;
        s.walk.back = EMPTY;
        s.walk.named = 0;
        s.walk.named_base = 0;
        s.walk.scoped = 0;
        s.walk.before = 0;
        repeat(PACKAGE as u32, name_byte, scratch);
        let s = &mut *scratch;
        without_git(s);
        let named = s.walk.named;
        if named == 0 {
            return 0;
        }
        repeat(named, back_byte, scratch);
        let s = &mut *scratch;
        s.walk.name.data.namespace = s.walk.namespace;
        s.walk.back.data.namespace = s.walk.namespace | BACKWARDS;
        if let Some(found) = PACKAGES.get(&s.walk.name) {
            if found.length as u32 == named + 1 {
                if s.walk.exact == 0 {
                    s.walk.exact = found.verdict;
                }
                return 1;
            }
            note(s, found.verdict);
        }
        if let Some(found) = PACKAGES.get(&s.walk.back) {
            note(s, found.verdict);
        }
    }
    1
}

#[inline(always)]
fn note(s: &mut Scratch, verdict: u8) {
    if verdict == STOP {
        s.walk.stopped = 1;
    } else {
        s.walk.likely = verdict;
    }
}

/// A repository's name ends before `.git`.
#[inline(always)]
fn without_git(s: &mut Scratch) {
    let named = s.walk.named;
    if named < 5 || named > PACKAGE as u32 {
        return;
    }
    let at = |back: u32| ((named - back) as usize) & PACKAGE;
    let name = &mut s.walk.name.data.name;
    if name[at(4)] == b'.' && name[at(3)] == b'g' && name[at(2)] == b'i' && name[at(1)] == b't' {
        name[at(4)] = 0;
        name[at(3)] = 0;
        name[at(2)] = 0;
        name[at(1)] = 0;
        s.walk.named = named - 4;
    }
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
        let mut byte = s.walk.token[(at & MASK) as usize];
        let namespace = s.walk.namespace;
        if byte == 0 || byte == b'#' || byte == b'?' || byte == b' ' {
            return 1;
        }
        if byte == b'/' {
            if s.walk.one != 0 {
                if s.walk.scoped == 0 {
                    return 1;
                }
                s.walk.scoped = 0;
            }
            s.walk.named_base = s.walk.named + 1;
        }
        if byte == b'@' {
            if i != 0 && s.walk.named_base != i as u32 {
                return 1;
            }
            s.walk.scoped = 1;
        }
        if byte >= b'A' && byte <= b'Z' {
            byte |= 0x20;
        }
        if namespace == PYPI || namespace == PROGRAM && s.walk.flags & MODULE != 0 {
            if is_requirement(byte) {
                return 1;
            }
            if byte == b'.' {
                // A URL's or a file's dot, or a submodule's; in a package's name it is a hyphen.
                if s.walk.flags & MODULE != 0 || s.walk.first != 0 {
                    return 1;
                }
                byte = b'-';
            }
            if byte == b'_' {
                byte = b'-';
            }
            if byte == b'-' && s.walk.before == b'-' {
                return 0;
            }
        } else if namespace == PROGRAM && byte == b'.' {
            // `mcp-server-x.test`, `mcp-server-x.sh`: no installed program bears such a name.
            s.walk.named = 0;
            return 1;
        } else if namespace == DIRECTORY && byte == b'_' {
            byte = b'-';
        } else if namespace == JAR {
            if byte == b'.' {
                return 1;
            }
            let next = s.walk.token[((at + 1) & MASK) as usize];
            if byte == b'-' && next >= b'0' && next <= b'9' {
                return 1;
            }
        }
        // A tag ends an image's name; a registry's port does not.
        if namespace == IMAGE && byte == b':' && at >= s.walk.base {
            return 1;
        }
        s.walk.before = byte;
        let n = s.walk.named;
        s.walk.name.data.name[(n as usize) & PACKAGE] = byte;
        s.walk.named = n + 1;
        0
    }
}

/// What ends a package's name in a Python requirement.
#[inline(always)]
fn is_requirement(byte: u8) -> bool {
    byte == b'='
        || byte == b'<'
        || byte == b'>'
        || byte == b'~'
        || byte == b'!'
        || byte == b'['
        || byte == b';'
        || byte == b','
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
