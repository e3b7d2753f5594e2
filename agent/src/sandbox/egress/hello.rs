//! The server name in a TLS ClientHello (RFC 8446, section 4.1.2; RFC 6066, section 3).
//!
//! It is read because many names share the addresses of a content network: without a look at it,
//! a grant of one would be a grant of all. What a server asks for inside of the encryption is not
//! seen here.

/// More than any client sends, post-quantum key shares included.
pub(super) const LONGEST: usize = 16 << 10;

#[derive(Debug, PartialEq, Eq)]
pub enum Hello {
    /// More bytes are needed.
    Part,
    NotTls,
    /// The name as it was sent; `None` where there is none.
    Name(Option<String>),
    /// It begins as TLS does and goes on otherwise.
    Broken,
}

/// What the first bytes of a connection are.
pub fn read(bytes: &[u8]) -> Hello {
    let mut handshake = Vec::new();
    let mut rest = bytes;
    loop {
        match rest {
            [0x16, 0x03, _, high, low, body @ ..] => {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                if length == 0 {
                    return Hello::Broken;
                }
                handshake.extend_from_slice(&body[..length.min(body.len())]);
                match whole(&handshake) {
                    Some(message) => return message.and_then(name).map_or(Hello::Broken, Hello::Name),
                    None if body.len() < length => return Hello::Part,
                    None => rest = &body[length..],
                }
            }
            [] | [0x16] | [0x16, 0x03, ..] => return Hello::Part,
            _ if handshake.is_empty() => return Hello::NotTls,
            _ => return Hello::Broken,
        }
    }
}

/// The ClientHello's body once it is there; `Some(None)` where it is another message.
fn whole(handshake: &[u8]) -> Option<Option<&[u8]>> {
    match handshake {
        [1, a, b, c, body @ ..] => body.get(..u32::from_be_bytes([0, *a, *b, *c]) as usize).map(Some),
        [] | [1, ..] => None,
        _ => Some(None),
    }
}

/// `None` where the message is not what it should be.
#[expect(clippy::option_option, reason = "a hello without a name is not a broken one")]
fn name(body: &[u8]) -> Option<Option<String>> {
    let mut body = Bytes(body);
    body.take(2 + 32)?;
    let session = body.take(1)?[0];
    body.take(session.into())?;
    body.list()?;
    let methods = body.take(1)?[0];
    body.take(methods.into())?;
    if body.0.is_empty() {
        return Some(None);
    }
    let mut extensions = Bytes(body.list()?);
    let mut found = None;
    while !extensions.0.is_empty() {
        let kind = extensions.number()?;
        let content = extensions.list()?;
        if kind != 0 {
            continue;
        }
        let mut names = Bytes(Bytes(content).list()?);
        while !names.0.is_empty() {
            let kind = names.take(1)?[0];
            let name = names.list()?;
            // A second one would leave open which of them is meant.
            if kind != 0 || found.is_some() || !name.is_ascii() {
                return None;
            }
            found = Some(String::from_utf8_lossy(name).into_owned());
        }
    }
    Some(found)
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// What stands behind its own length.
    fn list(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.take(length.into())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn with_length(content: &[u8]) -> Vec<u8> {
        [&(content.len() as u16).to_be_bytes()[..], content].concat()
    }

    /// A ClientHello for these names, in records of at most `record` bytes.
    pub fn hello(names: &[&str], record: usize) -> Vec<u8> {
        let listed: Vec<u8> =
            names.iter().flat_map(|name| [&[0][..], &with_length(name.as_bytes())].concat()).collect();
        let mut extensions = [&[0, 43][..], &with_length(&[2, 3, 4])].concat();
        if !names.is_empty() {
            extensions.extend([&[0, 0][..], &with_length(&with_length(&listed))].concat());
        }
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.push(0);
        body.extend(with_length(&[0x13, 1]));
        body.extend([1, 0]);
        body.extend(with_length(&extensions));
        let mut message = vec![1, 0];
        message.extend(with_length(&body));
        message.chunks(record).flat_map(|part| [&[0x16, 3, 1][..], &with_length(part)].concat()).collect()
    }

    #[test]
    fn the_name_is_found_in_one_record_or_in_many_and_never_in_a_part() {
        for record in [1, 7, 50, 16_384] {
            let bytes = hello(&["api.example"], record);
            for end in 0..bytes.len() {
                assert_eq!(read(&bytes[..end]), Hello::Part, "{end} of {record}");
            }
            assert_eq!(read(&bytes), Hello::Name(Some("api.example".into())));
        }
        assert_eq!(read(&hello(&[], 16_384)), Hello::Name(None));
        assert_eq!(read(&hello(&["a.example", "b.example"], 16_384)), Hello::Broken);
        assert_eq!(read(b"GET / HTTP/1.1\r\n"), Hello::NotTls);
        assert_eq!(read(b"\x16\x03\x01\x00\x01\x02"), Hello::Broken);
    }

    proptest! {
        /// Whatever is cut, changed or put in between, a name that is read stands in the bytes as it was read.
        #[test]
        fn no_name_is_read_that_was_not_sent(
            names in proptest::collection::vec("[a-z]{1,8}(\\.[a-z]{1,8}){0,2}", 0..3),
            record in 1usize..600,
            changes in proptest::collection::vec((0usize..300, any::<u8>()), 0..4),
        ) {
            let listed: Vec<&str> = names.iter().map(String::as_str).collect();
            let mut bytes = hello(&listed, record);
            let whole = read(&bytes);
            match listed.as_slice() {
                [] => prop_assert_eq!(whole, Hello::Name(None)),
                [one] => prop_assert_eq!(whole, Hello::Name(Some((*one).to_owned()))),
                _ => prop_assert_eq!(whole, Hello::Broken),
            }
            for (at, byte) in changes {
                let at = at % bytes.len();
                bytes[at] = byte;
            }
            if let Hello::Name(Some(name)) = read(&bytes) {
                // Records cut it: without their headers it is in one piece.
                let mut rest = &bytes[..];
                let mut joined = Vec::new();
                while let [_, _, _, high, low, body @ ..] = rest {
                    let length = usize::from(u16::from_be_bytes([*high, *low])).min(body.len());
                    joined.extend_from_slice(&body[..length]);
                    rest = &body[length..];
                }
                prop_assert!(name.is_empty() || joined.windows(name.len()).any(|part| part == name.as_bytes()));
            }
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(mut bytes: Vec<u8>, tls: bool) {
            if tls {
                bytes.splice(..0, [0x16, 3, 1, 2, 0, 1, 0]);
            }
            read(&bytes);
        }
    }
}
