//! The bytes of the journal: one frame behind the other.
//!
//! A frame is the length of its body and a CRC-32 (little-endian `u32` each), its position (`u64`) and the body. The checksum
//! covers the journal's id, the position and the body, and positions rise by one. So what was torn, doubled, moved or left
//! by an earlier journal ends the reading right before it, and what was read is a beginning of what was written.

/// The longest body. What is larger was never written.
const LONGEST: usize = 256 << 20;
const HEAD: usize = 16;

const LOG: u8 = 1;
const ROW: u8 = 2;

/// What one frame says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// An entry of the audit log.
    Log { seq: u64, bytes: Vec<u8> },
    /// A record under its key.
    Row { table: String, key: String, bytes: Vec<u8> },
}

impl Written {
    fn body(&self) -> Vec<u8> {
        match self {
            Self::Log { seq, bytes } => [&[LOG][..], &seq.to_le_bytes(), bytes].concat(),
            Self::Row { table, key, bytes } => {
                let (table_len, key_len) = (table.len() as u32, key.len() as u32);
                let lengths = [table_len.to_le_bytes(), key_len.to_le_bytes()].concat();
                [&[ROW][..], &lengths, table.as_bytes(), key.as_bytes(), bytes].concat()
            }
        }
    }

    fn read(body: &[u8]) -> Option<Self> {
        let (kind, rest) = body.split_first()?;
        match *kind {
            LOG => {
                let (seq, bytes) = rest.split_first_chunk()?;
                Some(Self::Log { seq: u64::from_le_bytes(*seq), bytes: bytes.to_vec() })
            }
            ROW => {
                let (table_len, rest) = rest.split_first_chunk()?;
                let (key_len, rest) = rest.split_first_chunk()?;
                let (table, rest) = rest.split_at_checked(u32::from_le_bytes(*table_len) as usize)?;
                let (key, bytes) = rest.split_at_checked(u32::from_le_bytes(*key_len) as usize)?;
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
                Some(Self::Row { table: text(table)?, key: text(key)?, bytes: bytes.to_vec() })
            }
            _ => None,
        }
    }

    /// Its frame, at `position` of the journal `id`. `None` where it is too long for one.
    pub fn frame(&self, id: u64, position: u64) -> Option<Vec<u8>> {
        let body = self.body();
        let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= LONGEST)?;
        let checksum = checksum(id, position, &body);
        Some([&length.to_le_bytes()[..], &checksum.to_le_bytes(), &position.to_le_bytes(), &body].concat())
    }
}

fn checksum(id: u64, position: u64, body: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&id.to_le_bytes());
    sum.update(&position.to_le_bytes());
    sum.update(body);
    sum.finalize()
}

/// The frames at the beginning of `bytes` that are whole, of the journal `id`, and follow each other; with their positions.
pub fn read(id: u64, mut bytes: &[u8]) -> Vec<(u64, Written)> {
    let mut frames: Vec<(u64, Written)> = Vec::new();
    while let Some((position, written, rest)) = next(id, bytes) {
        if frames.last().is_some_and(|(last, _)| last.checked_add(1) != Some(position)) {
            break;
        }
        frames.push((position, written));
        bytes = rest;
    }
    frames
}

fn next(id: u64, bytes: &[u8]) -> Option<(u64, Written, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<HEAD>()?;
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let position = u64::from(word(8)) | u64::from(word(12)) << 32;
    let length = word(0) as usize;
    if length > LONGEST {
        return None;
    }
    let (body, rest) = rest.split_at_checked(length)?;
    if checksum(id, position, body) != word(4) {
        return None;
    }
    Some((position, Written::read(body)?, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: u64 = 0x1234_5678_9abc_def0;

    fn any_written() -> impl Strategy<Value = Written> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..80);
        prop_oneof![
            (any::<u64>(), bytes()).prop_map(|(seq, bytes)| Written::Log { seq, bytes }),
            (".{0,9}", ".{0,9}", bytes()).prop_map(|(table, key, bytes)| Written::Row { table, key, bytes }),
        ]
    }

    /// Frames at rising positions, and where each ends.
    fn journal(all: &[Written], first: u64) -> (Vec<u8>, Vec<usize>) {
        let mut bytes = Vec::new();
        let ends = all.iter().zip(first..).map(|(written, position)| {
            bytes.extend(written.frame(ID, position).unwrap());
            bytes.len()
        });
        let ends = ends.collect();
        (bytes, ends)
    }

    fn written(frames: Vec<(u64, Written)>) -> Vec<Written> {
        frames.into_iter().map(|(_, written)| written).collect()
    }

    proptest! {
        #[test]
        fn what_was_cut_off_anywhere_leaves_every_whole_frame_before_it(
            all in prop::collection::vec(any_written(), 0..8), cut in any::<prop::sample::Index>(), first in 0..u64::MAX / 2,
        ) {
            let (bytes, ends) = journal(&all, first);
            let cut = cut.index(bytes.len() + 1);
            let whole = ends.iter().filter(|end| **end <= cut).count();
            prop_assert_eq!(written(read(ID, &bytes[..cut])), &all[..whole]);
        }

        #[test]
        fn a_changed_byte_ends_the_reading_before_its_frame(
            all in prop::collection::vec(any_written(), 1..8), at in any::<prop::sample::Index>(), by in 1..=255u8,
        ) {
            let (mut bytes, ends) = journal(&all, 7);
            let at = at.index(bytes.len());
            bytes[at] ^= by;
            let whole = ends.iter().filter(|end| **end <= at).count();
            prop_assert_eq!(written(read(ID, &bytes)), &all[..whole]);
        }

        #[test]
        fn doubled_moved_and_foreign_frames_are_not_read(
            all in prop::collection::vec(any_written(), 2..8), from in any::<prop::sample::Index>(), to in any::<prop::sample::Index>(),
        ) {
            let frames: Vec<Vec<u8>> = all.iter().zip(3..).map(|(one, at)| one.frame(ID, at).unwrap()).collect();
            let (from, to) = (from.index(frames.len()), to.index(frames.len()));
            // One frame again, in the place of or behind another: only what stands in order is read.
            let mut doubled = frames.clone();
            doubled.insert(to + 1, frames[from].clone());
            let expected = if from == to + 1 { to + 2 } else { to + 1 };
            prop_assert_eq!(written(read(ID, &doubled.concat())), &all[..expected]);
            let mut moved = frames.clone();
            moved.swap(from, to);
            let (low, high) = (from.min(to), from.max(to));
            let read_moved = read(ID, &moved.concat());
            if low == high {
                prop_assert_eq!(written(read_moved), &all[..]);
            } else if low > 0 {
                prop_assert_eq!(written(read_moved), &all[..low]);
            } else {
                // The first may be any; whoever takes the frames over knows which position comes next.
                prop_assert_eq!(read_moved[0].0, 3 + high as u64);
            }
            prop_assert_eq!(read(ID + 1, &frames.concat()), []);
        }

        #[test]
        fn any_bytes_are_read_as_what_would_be_written(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let again: Vec<u8> = read(ID, &bytes).iter().flat_map(|(at, one)| one.frame(ID, *at).unwrap()).collect();
            prop_assert_eq!(&bytes[..again.len()], again);
        }
    }
}
