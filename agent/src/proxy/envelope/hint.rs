//! The id of a message that is no good otherwise: cut off, nested too deep, with doubled members.

use super::RequestId;
use crate::proxy::json::Json;

/// The one `id` member at the top of what may be the beginning of an object. `None` where there is
/// none or more than one, so that no other call is ever answered.
pub(super) fn id(text: &[u8]) -> Option<RequestId> {
    let (mut at, mut depth, mut found) = (0, 0_usize, None);
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => {
                let Some(end) = string_end(text, at) else { break };
                if depth == 1
                    && text[at..end] == *b"\"id\""
                    && let Some(value) = value_after(text, end)
                    && found.replace(value).is_some()
                {
                    return None;
                }
                at = end;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    found.flatten()
}

/// Behind the closing quote of the string that opens at `at`.
fn string_end(text: &[u8], at: usize) -> Option<usize> {
    let mut escaped = false;
    let inside = text.get(at + 1..)?;
    let length = inside.iter().position(|byte| {
        let ends = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        ends
    })?;
    Some(at + length + 2)
}

/// `: ID` and what ends it. The outer `None` means that no value follows, the inner that it is no id.
fn value_after(text: &[u8], at: usize) -> Option<Option<RequestId>> {
    let skip = |at: usize| Some(at + text.get(at..)?.iter().position(|byte| !byte.is_ascii_whitespace())?);
    let colon = skip(at)?;
    if text[colon] != b':' {
        return None;
    }
    let start = skip(colon + 1)?;
    let end = match text[start] {
        b'"' => string_end(text, start)?,
        _ => start + text[start..].iter().position(|byte| matches!(byte, b',' | b'}') || byte.is_ascii_whitespace())?,
    };
    let value = std::str::from_utf8(&text[start..end]).ok().and_then(|text| Json::parse(text, 1).ok());
    Some(value.and_then(|json| RequestId::read(&json)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(text: &str) -> Option<u64> {
        id(text.as_bytes()).and_then(|id| id.as_u64())
    }

    #[test]
    fn the_id_of_a_broken_message_is_found_where_there_is_one() {
        assert_eq!(hint(r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"a":"xxxx"#), Some(7));
        assert_eq!(hint(r#"{"params":{"id":1,"id":2},"id" : 3 }"#), Some(3));
        assert_eq!(hint(r#"{"method":"\"id\":9","id":4,"x":"\ud800"}"#), Some(4));
        assert!(id(br#"{"id":"a\"b","x":1}"#).is_some());
    }

    #[test]
    fn an_id_in_doubt_is_none() {
        for text in
            [r#"{"id":1,"id":2}"#, r#"{"id":12"#, r#"{"params":{"id":1}}"#, r#"{"id":null}"#, r#"[{"id":1}]"#, ""]
        {
            assert_eq!(id(text.as_bytes()), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_looked_through(text in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = id(&text);
        }
    }
}
