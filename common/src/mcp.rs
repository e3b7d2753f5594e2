//! Recognises MCP by content, one byte at a time, whatever the framing and the order of members.
//!
//! MCP is: `initialize` whose `params.protocolVersion` is a date in a string; `server/discover`;
//! or any message whose `params._meta` has a dated `io.modelcontextprotocol/protocolVersion`.
//! ACP's version is a number, LSP and DAP have none. `\u` escapes count as what they stand for.
//!
//! Messages are strict JSON: what breaks its grammar is other text up to the end of the line, so that
//! source code, documentation and log lines are none. Behind other text a message is *late*: it must
//! stand on one line, and nothing but JSON may follow in what one call writes. A peer that splits its
//! input into lines would take it for a message there; documentation goes on with its own text.
//!
//! It runs in the kernel: no allocation, no loop, and no state outside of [`Parser`].

use crate::hash;

mod skim;

pub use skim::Skim;

/// At the start of a line, or behind a message.
const BETWEEN: u8 = 0;
const INSIDE: u8 = 1;
const STRING: u8 = 2;
const ESCAPE: u8 = 3;
const UNICODE: u8 = 4;
/// In a header of `Content-Length` framing.
const HEADER: u8 = 5;
/// In other text, up to the end of its line.
const LINE: u8 = 6;

/// What may come next inside of a message.
const VALUE: u8 = 0;
const NAME: u8 = 1;
const NAME_OR_END: u8 = 2;
const COLON: u8 = 3;
const VALUE_OR_END: u8 = 4;
const NEXT: u8 = 5;
/// A number, `true`, `false` or `null` is being read.
const LITERAL: u8 = 6;

/// Found in the message so far.
const INITIALIZE: u32 = 1;
const DATED: u32 = 1 << 1;
const CONVICTS: u32 = 1 << 2;

const METHOD: u64 = hash::of(b"method");
const PARAMS: u64 = hash::of(b"params");
const META: u64 = hash::of(b"_meta");
const VERSION: u64 = hash::of(b"protocolVersion");
const META_VERSION: u64 = hash::of(b"io.modelcontextprotocol/protocolVersion");
const IS_INITIALIZE: u64 = hash::of(b"initialize");
const IS_DISCOVER: u64 = hash::of(b"server/discover");

/// Bytes of the longest string that is compared with anything; of a longer one, no more than these are hashed.
const LONGEST: u32 = 40;

/// What the first header starts with, in whatever case.
const CONTENT: u64 = u64::from_le_bytes(*b"content-");
/// Lines of headers before a message.
const MOST_HEADERS: u8 = 16;
/// Objects are told from arrays down to this depth; below it only brackets and strings are followed.
const TYPED: u32 = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Parser {
    /// Of the string that is read.
    hash: u64,
    /// Of the member whose value is read.
    member: u64,
    /// Bit n: the container at depth n is an object.
    objects: u64,
    depth: u32,
    /// Depth of the message's own object: 2 in a batch.
    base: u32,
    found: u32,
    /// Bytes of the string, or of the header's name.
    length: u32,
    unicode: u32,
    mode: u8,
    digits: u8,
    expects: u8,
    /// The string is a member's name.
    naming: u8,
    /// The string has had the shape dddd-dd-dd so far.
    dated: u8,
    in_params: u8,
    in_meta: u8,
    /// Header lines since the last message.
    headers: u8,
    /// Other text stood before this.
    late: u8,
    /// A late message was seen, and no other text since.
    waits: u8,
    reserved: [u8; 2],
}

impl Parser {
    /// All zero: between messages.
    pub const NEW: Self = Self {
        hash: 0,
        member: 0,
        objects: 0,
        depth: 0,
        base: 0,
        found: 0,
        length: 0,
        unicode: 0,
        mode: BETWEEN,
        digits: 0,
        expects: VALUE,
        naming: 0,
        dated: 0,
        in_params: 0,
        in_meta: 0,
        headers: 0,
        late: 0,
        waits: 0,
        reserved: [0; 2],
    };

    /// An MCP message was seen, or as much of one as no other message has.
    #[inline(always)]
    pub fn found(&self) -> bool {
        self.found & CONVICTS != 0 && self.late == 0
    }

    /// The same at the end of what one call wrote.
    #[inline(always)]
    pub fn found_at_end(&self) -> bool {
        self.found() || (self.waits != 0 && self.mode == BETWEEN)
    }

    /// In the middle of something that may become one.
    #[inline(always)]
    pub fn is_open(&self) -> bool {
        (self.mode != BETWEEN && self.mode != LINE) || self.headers != 0
    }

    /// Other text has been read: what follows is not at the start of a line, or late.
    #[inline(always)]
    pub fn has_skipped(&self) -> bool {
        self.late != 0
    }

    /// `true`: nothing more to look for.
    #[inline(always)]
    pub fn take(&mut self, byte: u8) -> bool {
        match self.mode {
            STRING => return self.in_string(byte),
            INSIDE => self.inside(byte),
            LINE => {
                if byte == b'\n' {
                    self.mode = BETWEEN;
                }
            }
            BETWEEN => self.between(byte),
            ESCAPE => self.escape(byte),
            UNICODE => self.unicode(byte),
            _ => self.header(byte),
        }
        false
    }

    #[inline(always)]
    fn between(&mut self, byte: u8) {
        match byte {
            b'{' | b'[' => {
                self.found = 0;
                self.depth = 0;
                self.objects = 0;
                self.base = 0;
                self.in_params = 0;
                self.in_meta = 0;
                self.headers = 0;
                self.mode = INSIDE;
                self.open(byte);
            }
            // White space, a byte order mark, a record separator, a string's end.
            b' ' | b'\t' | b'\r' | b'\n' | 0xef | 0xbb | 0xbf | 0x1e | 0 => {}
            // Any header may stand behind the first one.
            _ if self.headers != 0 => {
                self.mode = HEADER;
                self.length = 8;
            }
            b'C' | b'c' => {
                self.mode = HEADER;
                self.length = 1;
            }
            _ => self.other_text(byte),
        }
    }

    /// What was read is no message, up to the end of the line.
    #[inline(always)]
    fn other_text(&mut self, byte: u8) {
        self.mode = if byte == b'\n' { BETWEEN } else { LINE };
        self.found = 0;
        self.headers = 0;
        self.late = 1;
        self.waits = 0;
    }

    /// `Content-Length: N`, and others behind it.
    #[inline(always)]
    fn header(&mut self, byte: u8) {
        if self.length < 8 {
            if byte | 0x20 != (CONTENT >> (8 * (self.length & 7))) as u8 {
                return self.other_text(byte);
            }
            self.length += 1;
        } else if byte == b'\n' {
            self.headers = self.headers.wrapping_add(1);
            self.mode = BETWEEN;
            if self.headers > MOST_HEADERS {
                self.other_text(byte);
            }
        }
    }

    /// Whether the container at `depth` is an object; `None` where that is not followed any more.
    #[inline(always)]
    fn in_object(&self) -> Option<bool> {
        if self.depth < TYPED { Some(self.objects >> (self.depth & 63) & 1 != 0) } else { None }
    }

    #[inline(always)]
    fn inside(&mut self, byte: u8) {
        let expects = self.expects;
        let deep = self.depth >= TYPED;
        let good = match byte {
            b' ' | b'\t' | b'\r' | b'\n' => {
                if expects == LITERAL {
                    self.expects = NEXT;
                }
                byte != b'\n' || self.late == 0
            }
            b'"' => {
                self.begin_string(expects == NAME || expects == NAME_OR_END);
                deep || self.naming != 0 || expects == VALUE || expects == VALUE_OR_END
            }
            b'{' | b'[' => {
                self.open(byte);
                deep || expects == VALUE || expects == VALUE_OR_END
            }
            b'}' | b']' => {
                let object = byte == b'}';
                let empty = if object { NAME_OR_END } else { VALUE_OR_END };
                let matches = deep
                    || (self.in_object() == Some(object)
                        && (expects == NEXT || expects == LITERAL || expects == empty));
                self.close();
                matches
            }
            b':' => {
                self.expects = VALUE;
                deep || expects == COLON
            }
            b',' => {
                self.expects = if self.in_object() == Some(true) { NAME } else { VALUE };
                self.member = 0;
                deep || expects == NEXT || expects == LITERAL
            }
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'+' | b'-' | b'.' => {
                self.expects = LITERAL;
                deep || expects == VALUE || expects == VALUE_OR_END || expects == LITERAL
            }
            _ => false,
        };
        if !good {
            self.other_text(byte);
        }
    }

    #[inline(always)]
    fn begin_string(&mut self, naming: bool) {
        self.mode = STRING;
        self.hash = hash::START;
        self.length = 0;
        self.dated = 1;
        self.naming = naming as u8;
    }

    #[inline(always)]
    fn open(&mut self, byte: u8) {
        let object = byte == b'{';
        if object && self.objects == 0 && self.depth < TYPED {
            // Nothing but arrays around it: a message, or one of a batch.
            self.base = self.depth + 1;
            self.found = 0;
        }
        if object && self.base != 0 && self.depth == self.base && self.member == PARAMS {
            self.in_params = 1;
        }
        if object && self.in_params != 0 && self.depth == self.base + 1 && self.member == META {
            self.in_meta = 1;
        }
        self.depth = self.depth.wrapping_add(1);
        if self.depth < TYPED && object {
            self.objects |= 1 << (self.depth & 63);
        }
        self.expects = if object { NAME_OR_END } else { VALUE_OR_END };
        self.member = 0;
    }

    #[inline(always)]
    fn close(&mut self) {
        if self.depth < TYPED {
            self.objects &= !(1 << (self.depth & 63));
        }
        self.depth = self.depth.saturating_sub(1);
        self.expects = NEXT;
        self.member = 0;
        if self.depth <= self.base + 1 {
            self.in_meta = 0;
        }
        if self.depth <= self.base {
            self.in_params = 0;
        }
        if self.depth < self.base {
            // The next message of a batch starts clean.
            if self.found & CONVICTS != 0 {
                self.waits = 1;
            }
            self.found = 0;
        }
        if self.depth == 0 {
            self.mode = BETWEEN;
        }
    }

    #[inline(always)]
    fn in_string(&mut self, byte: u8) -> bool {
        match byte {
            b'"' => {
                self.mode = INSIDE;
                return self.string();
            }
            b'\\' => self.mode = ESCAPE,
            // No string goes over a line's end: a message that was cut off ends there.
            b'\n' => self.other_text(byte),
            _ => self.character(byte),
        }
        false
    }

    #[inline(always)]
    fn character(&mut self, byte: u8) {
        if self.says_nothing() {
            return;
        }
        self.hash = hash::step(self.hash, byte);
        let at = self.length;
        self.length = at.wrapping_add(1);
        let fits = if at == 4 || at == 7 { byte == b'-' } else { byte.wrapping_sub(b'0') < 10 };
        if !fits {
            self.dated = 0;
        }
    }

    #[inline(always)]
    fn escape(&mut self, byte: u8) {
        self.mode = STRING;
        match byte {
            b'u' => {
                self.mode = UNICODE;
                self.unicode = 0;
                self.digits = 0;
            }
            b'"' | b'\\' | b'/' => self.character(byte),
            b'b' | b'f' | b'n' | b'r' | b't' => self.character(0xff),
            _ => self.other_text(byte),
        }
    }

    #[inline(always)]
    fn unicode(&mut self, byte: u8) {
        let low = byte | 0x20;
        let digit = if byte.wrapping_sub(b'0') < 10 { byte - b'0' } else { low.wrapping_sub(b'a').wrapping_add(10) };
        if digit > 15 {
            return self.other_text(byte);
        }
        self.unicode = self.unicode << 4 | (digit & 15) as u32;
        self.digits += 1;
        if self.digits >= 4 {
            self.mode = STRING;
            self.character(if self.unicode < 0x80 { self.unicode as u8 } else { 0xff });
        }
    }

    /// A string has ended.
    #[inline(always)]
    fn string(&mut self) -> bool {
        if self.naming != 0 {
            self.expects = COLON;
            self.member = self.hash;
            return false;
        }
        self.expects = NEXT;
        let member = self.member;
        let dated = self.dated != 0 && self.length == 10;
        if self.depth == self.base && member == METHOD {
            if self.hash == IS_INITIALIZE {
                self.found |= INITIALIZE;
            }
            if self.hash == IS_DISCOVER {
                self.found |= CONVICTS;
            }
        }
        if dated && self.in_params != 0 && self.depth == self.base + 1 && member == VERSION {
            self.found |= DATED;
        }
        if dated && self.in_meta != 0 && self.depth == self.base + 2 && member == META_VERSION {
            self.found |= CONVICTS;
        }
        if self.found & (INITIALIZE | DATED) == INITIALIZE | DATED {
            self.found |= CONVICTS;
        }
        self.found()
    }
}
