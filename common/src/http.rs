//! Recognises MCP over plain HTTP in what one side of a connection sends, one byte at a time.
//!
//! It is MCP by a header that nothing else has (`Mcp-Session-Id`, `MCP-Protocol-Version`), or by a
//! body (or bare JSON) that [`crate::mcp`] recognises. The state goes on over writes: headers and
//! body may come apart, or byte by byte.
//!
//! It runs in the kernel: no allocation, no loop, and no state outside of [`Http`].

use crate::hash;
use crate::mcp::Parser;

/// Nothing has been sent yet, or what was sent is complete.
const START: u8 = 0;
const METHOD: u8 = 1;
const TARGET: u8 = 2;
const NAME: u8 = 3;
const VALUE: u8 = 4;
/// The body begins: JSON, or the size of a chunk.
const BODY: u8 = 5;
const CHUNK: u8 = 6;
const JSON: u8 = 7;
/// Neither HTTP nor JSON.
const OTHER: u8 = 8;

const SESSION: u64 = hash::of(b"mcp-session-id");
const VERSION: u64 = hash::of(b"mcp-protocol-version");
const LONGEST_METHOD: u32 = 8;
/// Longest request line, and longest run of headers.
const LONGEST: u32 = 32 << 10;

#[derive(Clone, Copy)]
#[repr(C)]
pub struct Http {
    json: Parser,
    /// Of the header's name.
    hash: u64,
    /// Bytes of the name, of the method, or of the request line.
    length: u32,
    /// Bytes of the headers.
    headers: u32,
    /// The last bytes of the request line.
    tail: u64,
    found: u32,
    mode: u8,
    reserved: [u8; 3],
}

impl Http {
    /// All zero: nothing has been sent.
    pub const NEW: Self =
        Self { json: Parser::NEW, hash: 0, length: 0, headers: 0, tail: 0, found: 0, mode: START, reserved: [0; 3] };

    /// It is MCP.
    #[inline(always)]
    pub fn found(&self) -> bool {
        self.found != 0
    }

    /// In the middle of something that may become MCP.
    #[inline(always)]
    pub fn is_open(&self) -> bool {
        match self.mode {
            START | OTHER => false,
            JSON => self.json.is_open(),
            _ => true,
        }
    }

    /// `true`: nothing more to look for in what is sent now.
    #[inline(always)]
    pub fn take(&mut self, byte: u8) -> bool {
        match self.mode {
            JSON => self.json(byte),
            VALUE => self.value(byte),
            NAME => self.name(byte),
            TARGET => self.target(byte),
            METHOD => self.method(byte),
            BODY => self.body(byte),
            CHUNK => self.chunk(byte),
            START => self.start(byte),
            _ => true,
        }
    }

    #[inline(always)]
    fn other(&mut self) -> bool {
        self.mode = OTHER;
        true
    }

    #[inline(always)]
    fn start(&mut self, byte: u8) -> bool {
        if byte.wrapping_sub(b'A') < 26 {
            self.mode = METHOD;
            self.length = 1;
            self.headers = 0;
            return false;
        }
        match byte {
            // White space, a byte order mark, a record separator.
            b' ' | b'\t' | b'\r' | b'\n' | 0xef | 0xbb | 0xbf | 0x1e => false,
            b'{' | b'[' => {
                self.json = Parser::NEW;
                self.json(byte)
            }
            _ => self.other(),
        }
    }

    #[inline(always)]
    fn method(&mut self, byte: u8) -> bool {
        self.length += 1;
        if byte == b' ' {
            self.mode = TARGET;
            self.tail = 0;
            return false;
        }
        if byte.wrapping_sub(b'A') >= 26 || self.length > LONGEST_METHOD {
            return self.other();
        }
        false
    }

    /// `/mcp HTTP/1.1`, up to the end of the line.
    #[inline(always)]
    fn target(&mut self, byte: u8) -> bool {
        self.length += 1;
        if byte == b'\r' {
            return false;
        }
        if byte != b'\n' {
            self.tail = self.tail << 8 | byte as u64;
            return self.length > LONGEST && self.other();
        }
        // The minor version does not matter.
        if self.tail >> 8 != u64::from_be_bytes(*b"\0HTTP/1.") {
            return self.other();
        }
        self.begin_name();
        false
    }

    #[inline(always)]
    fn begin_name(&mut self) {
        self.mode = NAME;
        self.hash = hash::START;
        self.length = 0;
    }

    #[inline(always)]
    fn name(&mut self, byte: u8) -> bool {
        match byte {
            b'\r' => {}
            b'\n' if self.length == 0 => self.mode = BODY,
            b'\n' => self.begin_name(),
            b':' => {
                self.mode = VALUE;
                if self.hash == SESSION || self.hash == VERSION {
                    self.found = 1;
                    return true;
                }
            }
            _ => {
                self.length += 1;
                // Letters in lower case; what else is changed by that is in no name.
                self.hash = hash::step(self.hash, if byte.wrapping_sub(b'A') < 26 { byte | 0x20 } else { byte });
            }
        }
        self.too_long()
    }

    #[inline(always)]
    fn value(&mut self, byte: u8) -> bool {
        if byte == b'\n' {
            self.begin_name();
        }
        self.too_long()
    }

    #[inline(always)]
    fn too_long(&mut self) -> bool {
        self.headers += 1;
        self.headers > LONGEST && self.other()
    }

    #[inline(always)]
    fn body(&mut self, byte: u8) -> bool {
        // Chunks begin with their size. JSON begins with no digit that matters here.
        if (byte | 0x20).wrapping_sub(b'a') < 6 || byte.wrapping_sub(b'0') < 10 {
            self.mode = CHUNK;
            return false;
        }
        self.mode = START;
        self.start(byte)
    }

    #[inline(always)]
    fn chunk(&mut self, byte: u8) -> bool {
        if byte == b'\n' {
            self.mode = START;
        }
        self.too_long()
    }

    #[inline(always)]
    fn json(&mut self, byte: u8) -> bool {
        self.mode = JSON;
        if self.json.take(byte) {
            if self.json.found() {
                self.found = 1;
                return true;
            }
            return self.other();
        }
        if !self.json.is_open() {
            // A message has ended; a request or a message may follow.
            self.mode = START;
        }
        false
    }
}
