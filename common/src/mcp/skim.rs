//! What a parser may go over at once: strings that nothing is compared with, other text, and what stands between strings.
//!
//! Invariant: it ends where [`Parser::take`] ends that takes the same bytes one by one.

use super::{
    COLON, INSIDE, LINE, LITERAL, LONGEST, NAME, NAME_OR_END, NEXT, Parser, STRING, TYPED, VALUE, VALUE_OR_END,
};

impl Parser {
    /// In a string that nothing is compared with, or in other text: nothing counts up to the next quote, backslash
    /// or line's end ([`crate::sift::ends_run`]).
    #[inline(always)]
    pub fn is_idle(&self) -> bool {
        self.mode == LINE || self.mode == STRING && self.says_nothing()
    }

    /// No string here is compared with anything.
    #[inline(always)]
    fn is_aside(&self) -> bool {
        self.depth > self.base + self.in_params as u32 + self.in_meta as u32
    }

    #[inline(always)]
    pub(super) fn says_nothing(&self) -> bool {
        self.length > LONGEST || self.is_aside()
    }

    /// Takes the quote behind an idle run. `false`: there is more to it, [`Self::take`] must have it.
    #[inline(always)]
    pub fn leaves(&mut self) -> bool {
        if self.mode != STRING || self.found() {
            return false;
        }
        self.mode = INSIDE;
        if self.naming != 0 {
            self.expects = COLON;
            self.member = self.hash;
        } else {
            self.expects = NEXT;
        }
        true
    }

    /// Takes the quote that starts a string which nothing is compared with. `false`: as above.
    #[inline(always)]
    pub fn enters(&mut self) -> bool {
        let naming = self.expects == NAME || self.expects == NAME_OR_END;
        let value = self.expects == VALUE || self.expects == VALUE_OR_END;
        if self.mode != INSIDE || !self.is_aside() || !(naming || value) {
            return false;
        }
        self.begin_string(naming);
        true
    }

    /// Where [`Skim`] starts; `None` where every byte must be taken by itself.
    #[inline(always)]
    pub fn skims(&self) -> Option<Skim> {
        if self.mode != INSIDE || self.depth >= TYPED {
            return None;
        }
        let object = (self.objects >> (self.depth & 63) & 1) as u8;
        Some(Skim { row: self.expects | object << 3, seen: 0 })
    }

    /// Goes on where `skim` ended.
    #[inline(always)]
    pub fn skimmed(&mut self, skim: Skim) {
        self.expects = skim.row & 7;
        if skim.seen & COMMA != 0 {
            self.member = 0;
        }
    }
}

/// What stands between strings and brackets, by table: white space, colons, commas and literals that are where they
/// may be. It ends before whatever else there is.
#[derive(Clone, Copy)]
pub struct Skim {
    /// What may come next, and whether the container is an object; what the bits above say does not matter.
    row: u8,
    seen: u8,
}

/// Bit of [`NEXTS`]: a comma was taken. The other high bit says that the byte must be taken by itself.
const COMMA: u8 = 0x40;
const STOPS: u8 = 0x80;

impl Skim {
    /// `false`: the byte is not taken.
    #[inline(always)]
    pub fn take(&mut self, byte: u8) -> bool {
        // The mask comes last and cannot be left out, as the row's high bits are not known: kernels up to 6.9 see no
        // bound behind an `or`.
        let next = NEXTS[((self.row as usize) << 3 | CLASSES[byte as usize] as usize) & 127];
        if next & STOPS != 0 {
            return false;
        }
        self.seen |= next;
        self.row = next;
        true
    }
}

/// 0: stops; then white space, a colon, a comma, a literal's.
static CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = match byte as u8 {
            b' ' | b'\t' | b'\r' => 1,
            b':' => 2,
            b',' => 3,
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'+' | b'-' | b'.' => 4,
            _ => 0,
        };
        byte += 1;
    }
    classes
};

/// By row and class. Must agree with [`Parser::inside`].
static NEXTS: [u8; 128] = {
    let mut nexts = [STOPS; 128];
    let mut row = 0;
    while row < 16 {
        let (expects, object) = (row as u8 & 7, row as u8 & 8);
        let ended = expects == NEXT || expects == LITERAL;
        nexts[row << 3 | 1] = object | if expects == LITERAL { NEXT } else { expects };
        if expects == COLON {
            nexts[row << 3 | 2] = object | VALUE;
        }
        if ended {
            nexts[row << 3 | 3] = object | COMMA | if object != 0 { NAME } else { VALUE };
        }
        if expects == VALUE || expects == VALUE_OR_END || expects == LITERAL {
            nexts[row << 3 | 4] = object | LITERAL;
        }
        row += 1;
    }
    nexts
};
