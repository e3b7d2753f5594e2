//! A reader of BTF, as far as offsets of fields and values of enums go.
//!
//! The input is the running kernel's own, but a container may show another file in its place:
//! every index is checked, and a table that does not add up is an error.
//! Format: <https://docs.kernel.org/bpf/btf.html>

use std::collections::HashSet;

const INT: u32 = 1;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
const FUNC: u32 = 12;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const DECL_TAG: u32 = 17;
const TYPE_TAG: u32 = 18;
const ENUM64: u32 = 19;

/// Anonymous members nest at most this deep.
const DEPTH: usize = 8;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BtfError {
    #[error("the type information is cut off at byte {0}")]
    Short(usize),
    #[error("this is not little-endian BTF version 1")]
    Magic,
    #[error("type {0} has the unknown kind {1}")]
    Kind(usize, u32),
}

pub(super) struct Btf {
    data: Vec<u8>,
    strings: usize,
    /// Where each type's record starts; type 0 is void.
    types: Vec<u32>,
}

struct Type {
    at: usize,
    name: u32,
    kind: u32,
    count: usize,
    bitfields: bool,
    target: u32,
}

impl Btf {
    pub(super) fn parse(data: Vec<u8>) -> Result<Self, BtfError> {
        if word(&data, 0)? & 0x00ff_ffff != 0x0001_eb9f {
            return Err(BtfError::Magic);
        }
        let header = word(&data, 4)? as usize;
        let start = header.saturating_add(word(&data, 8)? as usize);
        let end = start.saturating_add(word(&data, 12)? as usize);
        let strings = header.saturating_add(word(&data, 16)? as usize);
        let mut btf = Self { data, strings, types: vec![0] };
        let mut at = start;
        while at < end {
            let found = btf.read(at)?;
            let length = 12
                + match found.kind {
                    INT | VAR | DECL_TAG => 4,
                    ARRAY => 12,
                    STRUCT | UNION | DATASEC | ENUM64 => 12 * found.count,
                    ENUM | FUNC_PROTO => 8 * found.count,
                    2 | 7..=12 | 16 | TYPE_TAG => 0,
                    other => return Err(BtfError::Kind(btf.types.len(), other)),
                };
            btf.types.push(at as u32);
            at += length;
        }
        Ok(btf)
    }

    fn read(&self, at: usize) -> Result<Type, BtfError> {
        let info = word(&self.data, at + 4)?;
        Ok(Type {
            at,
            name: word(&self.data, at)?,
            kind: info >> 24 & 0x1f,
            count: (info & 0xffff) as usize,
            bitfields: info >> 31 != 0,
            target: word(&self.data, at + 8)?,
        })
    }

    fn all(&self) -> impl Iterator<Item = Type> + '_ {
        self.types.iter().skip(1).filter_map(|at| self.read(*at as usize).ok())
    }

    fn name(&self, offset: u32) -> &[u8] {
        let from = self.strings.saturating_add(offset as usize).min(self.data.len());
        self.data[from..].split(|byte| *byte == 0).next().unwrap_or_default()
    }

    /// The structs of each name that is wanted; a kernel may have several of one name.
    pub(super) fn structs(&self, wanted: &HashSet<&str>) -> Vec<(String, u32)> {
        self.all()
            .filter(|t| t.kind == STRUCT)
            .filter_map(|t| {
                let name = std::str::from_utf8(self.name(t.name)).ok()?;
                wanted.contains(name).then(|| (name.to_owned(), t.at as u32))
            })
            .collect()
    }

    /// Offset in bytes of `member` in the struct whose record starts at `at`; anonymous structs and
    /// unions in it are looked through.
    pub(super) fn member(&self, at: u32, member: &str) -> Option<u32> {
        self.member_below(at as usize, member.as_bytes(), DEPTH)
    }

    fn member_below(&self, at: usize, member: &[u8], depth: usize) -> Option<u32> {
        let found = self.read(at).ok()?;
        for i in 0..found.count {
            let record = at + 12 + 12 * i;
            let name = word(&self.data, record).ok()?;
            let bits = word(&self.data, record + 8).ok()? & if found.bitfields { 0x00ff_ffff } else { u32::MAX };
            if name != 0 && self.name(name) == member {
                return Some(bits / 8);
            }
            if name == 0 && depth > 0 {
                let inner = self.resolve(word(&self.data, record + 4).ok()?)?;
                if let Some(offset) = self.member_below(inner, member, depth - 1) {
                    return Some(bits / 8 + offset);
                }
            }
        }
        None
    }

    /// The struct or union behind typedefs and qualifiers.
    fn resolve(&self, id: u32) -> Option<usize> {
        let mut id = id;
        for _ in 0..DEPTH {
            let at = *self.types.get(id as usize).filter(|at| **at != 0)? as usize;
            let found = self.read(at).ok()?;
            match found.kind {
                STRUCT | UNION => return Some(at),
                TYPEDEF | VOLATILE | CONST | RESTRICT | TYPE_TAG => id = found.target,
                _ => return None,
            }
        }
        None
    }

    pub(super) fn enum_value(&self, name: &str, variant: &str) -> Option<u32> {
        self.all().filter(|t| t.kind == ENUM && self.name(t.name) == name.as_bytes()).find_map(|t| {
            (0..t.count).find_map(|i| {
                let record = t.at + 12 + 8 * i;
                let found = self.name(word(&self.data, record).ok()?) == variant.as_bytes();
                found.then(|| word(&self.data, record + 4).ok()).flatten()
            })
        })
    }

    /// Which of the kernel functions exist and can be hooked.
    pub(super) fn functions<'a>(&self, wanted: &HashSet<&'a str>) -> HashSet<&'a str> {
        self.all()
            .filter(|t| t.kind == FUNC)
            .filter_map(|t| std::str::from_utf8(self.name(t.name)).ok().and_then(|name| wanted.get(name).copied()))
            .collect()
    }
}

fn word(data: &[u8], at: usize) -> Result<u32, BtfError> {
    data.get(at..)
        .and_then(|rest| rest.first_chunk::<4>())
        .map(|bytes| u32::from_le_bytes(*bytes))
        .ok_or(BtfError::Short(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// struct outer { int a; struct { int b; int c; }; } and enum kind { FIRST = 0, SECOND = 7 }.
    fn sample() -> Vec<u8> {
        let strings = b"\0int\0outer\0a\0b\0c\0kind\0FIRST\0SECOND\0call\0";
        let name = |wanted: &str| strings.windows(wanted.len()).position(|w| w == wanted.as_bytes()).unwrap() as u32;
        let mut types: Vec<u32> = vec![name("int"), INT << 24, 4, 32];
        types.extend([0, STRUCT << 24 | 2, 8, name("\0b") + 1, 1, 0, name("\0c") + 1, 1, 32]);
        types.extend([name("outer"), STRUCT << 24 | 2, 12, name("\0a") + 1, 1, 0, 0, 2, 32]);
        types.extend([name("kind"), ENUM << 24 | 2, 4, name("FIRST"), 0, name("SECOND"), 7]);
        types.extend([name("call"), FUNC << 24, 0]);
        let length = types.len() as u32 * 4;
        let mut bytes: Vec<u8> = [0x0001_eb9f, 24, 0, length, length, strings.len() as u32]
            .iter()
            .chain(&types)
            .flat_map(|word: &u32| word.to_le_bytes())
            .collect();
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn members_of_anonymous_structs_have_offsets() {
        let btf = Btf::parse(sample()).unwrap();
        let structs = btf.structs(&HashSet::from(["outer"]));
        assert_eq!(structs.len(), 1);
        assert_eq!(btf.member(structs[0].1, "a"), Some(0));
        assert_eq!(btf.member(structs[0].1, "c"), Some(8));
        assert_eq!(btf.member(structs[0].1, "d"), None);
        assert_eq!(btf.enum_value("kind", "SECOND"), Some(7));
        assert_eq!(btf.functions(&HashSet::from(["call", "other"])), HashSet::from(["call"]));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_types_or_an_error(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
            let _ = Btf::parse(bytes);
        }

        #[test]
        fn damaged_types_are_never_fatal(at in 24usize..180, byte in proptest::num::u8::ANY) {
            let mut bytes = sample();
            if let Some(slot) = bytes.get_mut(at) {
                *slot = byte;
            }
            if let Ok(btf) = Btf::parse(bytes) {
                for (_, at) in btf.structs(&HashSet::from(["outer"])) {
                    let _ = btf.member(at, "c");
                }
                let _ = btf.enum_value("kind", "SECOND");
            }
        }
    }
}
