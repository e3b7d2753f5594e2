//! Recognises MCP by content, one byte at a time, whatever the framing and the order of members.
//!
//! MCP is: `initialize` whose `params.protocolVersion` is a date in a string; `server/discover`;
//! or any message whose `params._meta` has a dated `io.modelcontextprotocol/protocolVersion`.
//! ACP's version is a number, LSP and DAP have none. The state goes on over writes, so that a
//! message that comes in pieces is seen as well. `\u` escapes count as what they stand for.
//!
//! It runs in the kernel: no allocation, no loop, and no state outside of [`Parser`].

use crate::hash;

const BETWEEN: u8 = 0;
const INSIDE: u8 = 1;
const STRING: u8 = 2;
const ESCAPE: u8 = 3;
const UNICODE: u8 = 4;
const HEADER: u8 = 5;

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

/// Longest run of `Content-Length` headers.
const LONGEST_HEADER: u32 = 512;
/// White space that may stand before a message.
const LONGEST_BLANK: u32 = 4096;
/// Objects are told from arrays down to this depth; nothing that counts lies deeper.
const TYPED: u32 = 8;

#[derive(Clone, Copy)]
#[repr(C)]
pub struct Parser {
    /// Of the string that is read.
    hash: u64,
    /// Of the member whose value is read.
    member: u64,
    depth: u32,
    /// Depth of the message's own object: 2 in a batch.
    base: u32,
    found: u32,
    /// Bytes of the string, of the header, or of blank before a message.
    length: u32,
    /// Bit n: the container at depth n is an object.
    objects: u32,
    unicode: u32,
    mode: u8,
    digits: u8,
    /// The next string is a member's name.
    naming: u8,
    /// The string has had the shape dddd-dd-dd so far.
    dated: u8,
    in_params: u8,
    in_meta: u8,
    previous: u8,
    reserved: u8,
}

impl Parser {
    /// All zero: between messages.
    pub const NEW: Self = Self {
        hash: 0,
        member: 0,
        depth: 0,
        base: 0,
        found: 0,
        length: 0,
        objects: 0,
        unicode: 0,
        mode: BETWEEN,
        digits: 0,
        naming: 0,
        dated: 0,
        in_params: 0,
        in_meta: 0,
        previous: 0,
        reserved: 0,
    };

    /// An MCP message was seen.
    #[inline(always)]
    pub fn found(&self) -> bool {
        self.found & CONVICTS != 0
    }

    /// In the middle of something that may become one.
    #[inline(always)]
    pub fn is_open(&self) -> bool {
        self.mode != BETWEEN || self.length != 0
    }

    /// `true`: nothing more to look for.
    #[inline(always)]
    pub fn take(&mut self, byte: u8) -> bool {
        match self.mode {
            STRING => self.in_string(byte),
            INSIDE => self.inside(byte),
            BETWEEN => self.between(byte),
            ESCAPE => self.escape(byte),
            UNICODE => self.unicode(byte),
            _ => self.header(byte),
        }
    }

    #[inline(always)]
    fn between(&mut self, byte: u8) -> bool {
        match byte {
            b'{' | b'[' => {
                self.found = 0;
                self.depth = 0;
                self.objects = 0;
                self.in_params = 0;
                self.in_meta = 0;
                self.member = 0;
                self.base = if byte == b'{' { 1 } else { 2 };
                self.open(byte);
                self.mode = INSIDE;
                false
            }
            // White space, a byte order mark, a record separator.
            b' ' | b'\t' | b'\r' | b'\n' | 0xef | 0xbb | 0xbf | 0x1e => {
                self.length += 1;
                self.length > LONGEST_BLANK
            }
            b'C' | b'c' => {
                self.mode = HEADER;
                self.length = 0;
                false
            }
            _ => {
                self.length = 0;
                true
            }
        }
    }

    /// `Content-Length: N`, perhaps `Content-Type`, an empty line.
    #[inline(always)]
    fn header(&mut self, byte: u8) -> bool {
        let line = self.previous == b'\n';
        self.previous = byte;
        if byte == b'{' && line {
            self.mode = BETWEEN;
            return self.between(byte);
        }
        self.length += 1;
        if self.length > LONGEST_HEADER {
            self.mode = BETWEEN;
            self.length = 0;
            return true;
        }
        false
    }

    #[inline(always)]
    fn inside(&mut self, byte: u8) -> bool {
        match byte {
            b'"' => {
                self.mode = STRING;
                self.hash = hash::START;
                self.length = 0;
                self.dated = 1;
            }
            b'{' | b'[' => self.open(byte),
            b'}' | b']' => return self.close(),
            b':' => self.naming = 0,
            b',' => {
                self.naming = (self.depth < TYPED && self.objects >> (self.depth & 31) & 1 != 0) as u8;
                self.member = 0;
            }
            _ => {}
        }
        false
    }

    #[inline(always)]
    fn open(&mut self, byte: u8) {
        let object = byte == b'{';
        if object && self.depth == self.base && self.member == PARAMS {
            self.in_params = 1;
        }
        if object && self.in_params != 0 && self.depth == self.base + 1 && self.member == META {
            self.in_meta = 1;
        }
        self.depth += 1;
        if self.depth < TYPED {
            let bit = 1 << (self.depth & 31);
            self.objects = if object { self.objects | bit } else { self.objects & !bit };
        }
        self.naming = object as u8;
        self.member = 0;
    }

    #[inline(always)]
    fn close(&mut self) -> bool {
        self.depth = self.depth.saturating_sub(1);
        self.naming = 0;
        self.member = 0;
        if self.depth <= self.base + 1 {
            self.in_meta = 0;
        }
        if self.depth <= self.base {
            self.in_params = 0;
        }
        if self.depth < self.base {
            // The next message of a batch starts clean.
            self.found = 0;
        }
        if self.depth == 0 {
            self.mode = BETWEEN;
            self.length = 0;
        }
        false
    }

    #[inline(always)]
    fn in_string(&mut self, byte: u8) -> bool {
        match byte {
            b'"' => {
                self.mode = INSIDE;
                return self.string();
            }
            b'\\' => self.mode = ESCAPE,
            _ => self.character(byte),
        }
        false
    }

    #[inline(always)]
    fn character(&mut self, byte: u8) {
        // Nothing deeper than `_meta` counts.
        if self.depth > self.base + 2 {
            return;
        }
        self.hash = hash::step(self.hash, byte);
        let at = self.length;
        self.length = at + 1;
        let fits = if at == 4 || at == 7 { byte == b'-' } else { byte.wrapping_sub(b'0') < 10 };
        if !fits {
            self.dated = 0;
        }
    }

    #[inline(always)]
    fn escape(&mut self, byte: u8) -> bool {
        self.mode = STRING;
        match byte {
            b'u' => {
                self.mode = UNICODE;
                self.unicode = 0;
                self.digits = 0;
            }
            _ => self.character(byte),
        }
        false
    }

    #[inline(always)]
    fn unicode(&mut self, byte: u8) -> bool {
        let low = byte | 0x20;
        let digit = if byte.wrapping_sub(b'0') < 10 { byte - b'0' } else { low.wrapping_sub(b'a').wrapping_add(10) };
        self.unicode = self.unicode << 4 | (digit & 15) as u32;
        self.digits += 1;
        if self.digits >= 4 {
            self.mode = STRING;
            self.character(if self.unicode < 0x80 { self.unicode as u8 } else { 0xff });
        }
        false
    }

    /// A string has ended.
    #[inline(always)]
    fn string(&mut self) -> bool {
        if self.naming != 0 {
            self.member = self.hash;
            return false;
        }
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
        self.found & CONVICTS != 0
    }
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// The first look at a message: 0 if these eight bytes (in memory order, little-endian) say nothing
/// that only a handshake says.
///
/// A handshake has `protocolVersion` or `server/discover` in it, or hides them behind `\u` or `\/`. So
/// it has `lV`, `r/d`, `\u` or `\/` in some eight bytes, if words overlap by two.
#[inline(always)]
pub fn says(word: u64) -> u64 {
    let capital = is(word, b'V') & is(word, b'l') << 8;
    let slash = is(word, b'/');
    let path = slash & is(word, b'r') << 8 & is(word, b'd') >> 8;
    let escape = (is(word, b'u') | slash) & is(word, b'\\') << 8;
    capital | path | escape
}

/// The high bit of each byte that equals `byte`; now and then of the one above it too.
#[inline(always)]
const fn is(word: u64, byte: u8) -> u64 {
    let zero = word ^ (ONES * byte as u64);
    zero.wrapping_sub(ONES) & !zero & HIGH
}
