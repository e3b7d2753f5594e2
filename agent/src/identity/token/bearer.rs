//! The text of a token: `lzt1_`, 16 hexadecimal digits of id, `_`, 64 of secret. One token has one spelling.

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

const PREFIX: &str = "lzt1_";
const ID: usize = 8;
const SECRET: usize = 32;

/// A token as somebody presents it. Its secret is never shown, not even to a debugger's formatter.
pub struct Bearer {
    id: [u8; ID],
    secret: [u8; SECRET],
}

impl std::fmt::Debug for Bearer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bearer").field("id", &self.id()).finish_non_exhaustive()
    }
}

impl Bearer {
    pub(super) fn generate() -> Result<Self, getrandom::Error> {
        let (mut id, mut secret) = ([0; ID], [0; SECRET]);
        getrandom::fill(&mut id)?;
        getrandom::fill(&mut secret)?;
        Ok(Self { id, secret })
    }

    /// Reads the value of an `Authorization` header. Never panics, whatever the bytes: this is the fuzz target.
    pub fn from_header(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?;
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| Self::parse(token.trim_matches(' '))).flatten()
    }

    pub fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        Some(Self { id: digits(id)?, secret: digits(secret)? })
    }

    pub fn id(&self) -> String {
        hex::encode(self.id)
    }

    /// The one spelling.
    pub fn text(&self) -> String {
        format!("{PREFIX}{}_{}", self.id(), hex::encode(self.secret))
    }

    /// What is kept of it.
    pub(super) fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.secret).into()
    }

    pub(super) fn matches(&self, digest: &[u8; 32]) -> bool {
        self.digest().ct_eq(digest).into()
    }
}

/// Exactly `N` bytes in lower case digits.
fn digits<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    (!text.bytes().any(|byte| byte.is_ascii_uppercase())).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn accepts(value: &str) -> bool {
        Bearer::from_header(value.as_bytes()).is_some()
    }

    #[test]
    fn a_token_reads_back_and_hides_its_secret() {
        let bearer = Bearer::generate().unwrap();
        let text = bearer.text();
        let again = Bearer::from_header(format!("bEARER {text}").as_bytes()).unwrap();
        assert!(again.matches(&bearer.digest()));
        assert_eq!(again.text(), text);
        assert!(!format!("{again:?}").contains(&text[22..]));
    }

    #[test]
    fn only_one_spelling_is_a_token() {
        let text = Bearer::generate().unwrap().text();
        for wrong in [
            text.clone(),
            format!("Basic {text}"),
            format!("Bearer {}", text.to_uppercase()),
            format!("Bearer {text}0"),
            format!("Bearer {}", &text[1..]),
            format!("Bearer {text}, Bearer {text}"),
            format!("Bearer {}", text.replacen('_', "__", 1)),
            "Bearer ".into(),
        ] {
            assert!(!accepts(&wrong), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_written(value in "([Bb]earer )?(lzt1_)?[0-9a-f_]{0,90}|.{0,100}") {
            if let Some(bearer) = Bearer::from_header(value.as_bytes()) {
                prop_assert!(value.ends_with(&bearer.text()) || value.trim_end().ends_with(&bearer.text()));
            }
        }

        #[test]
        fn any_bytes_are_a_token_or_none(value in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = Bearer::from_header(&value);
        }

        #[test]
        fn a_token_with_a_tampered_character_does_not_match(at in 0usize..86, with in any::<char>()) {
            let bearer = Bearer::generate().unwrap();
            let mut text: Vec<char> = bearer.text().chars().collect();
            prop_assume!(text[at] != with);
            text[at] = with;
            let tampered = Bearer::parse(&text.into_iter().collect::<String>());
            prop_assert!(tampered.is_none_or(|t| t.id() != bearer.id() || !t.matches(&bearer.digest())));
        }
    }
}
