//! AMP addresses: `name@scope.provider` (agentmessaging.org, spec 02).
//!
//! Invariant: an [`Address`] is in its one canonical form (lower case ASCII), so that equal
//! addresses are equal strings, and it is safe as a file name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

const MAX_LABEL: usize = 63;
const MAX_ADDRESS: usize = 254;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error(
        "cannot read the agent address {0:?}: there is no `@`; write name@tenant.provider, such as claude@acme.lazaret.local"
    )]
    NoAt(String),
    #[error("cannot read an agent address of {0} characters: at most 254 are allowed")]
    TooLong(usize),
    #[error("cannot read the agent address {address:?}: the name {name:?} must be 1 to 63 of a-z, 0-9, `-` and `_`")]
    Name { address: String, name: String },
    #[error(
        "cannot read the agent address {address:?}: the part {label:?} after the `@` must be 1 to 63 of a-z, 0-9 and `-`"
    )]
    Label { address: String, label: String },
    #[error(
        "cannot read the agent address {0:?}: the provider after the `@` needs at least two labels, such as lazaret.local"
    )]
    ShortProvider(String),
    #[error(
        "the agent address {address} is not of the provider {provider}; write name@tenant.{provider}, or set [identity] provider"
    )]
    OtherProvider { address: String, provider: String },
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    text: String,
    at: usize,
}

impl Address {
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What stands before the `@`.
    pub fn name(&self) -> &str {
        &self.text[..self.at]
    }

    /// Scope and provider together: where one ends and the other begins is not in the address.
    pub fn domain(&self) -> &str {
        &self.text[self.at + 1..]
    }

    /// The scope under a configured provider: `None` where the address names the provider alone.
    pub fn scope(&self, provider: &str) -> Result<Option<&str>, AddressError> {
        let provider = provider.to_ascii_lowercase();
        let other = || AddressError::OtherProvider { address: self.text.clone(), provider: provider.clone() };
        match self.domain().strip_suffix(provider.as_str()) {
            Some("") => Ok(None),
            Some(scope) => scope.strip_suffix('.').filter(|scope| !scope.is_empty()).map(Some).ok_or_else(other),
            None => Err(other()),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    /// Takes any case, as the specification has it, and keeps the lower one.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_ADDRESS {
            return Err(AddressError::TooLong(text.chars().count()));
        }
        let text = text.to_ascii_lowercase();
        let Some((name, domain)) = text.split_once('@') else {
            return Err(AddressError::NoAt(text));
        };
        if !is_label(name, true) {
            return Err(AddressError::Name { address: text.clone(), name: name.into() });
        }
        if let Some(label) = domain.split('.').find(|label| !is_label(label, false)) {
            return Err(AddressError::Label { address: text.clone(), label: label.into() });
        }
        if !domain.contains('.') {
            return Err(AddressError::ShortProvider(text));
        }
        let at = name.len();
        Ok(Self { text, at })
    }
}

fn is_label(label: &str, underscore: bool) -> bool {
    let allowed = |c: u8| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-') || (underscore && c == b'_');
    (1..=MAX_LABEL).contains(&label.len()) && label.bytes().all(allowed)
}

impl TryFrom<String> for Address {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.text
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({})", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn the_specification_s_examples_are_addresses() {
        for text in [
            "devops-bot@acme.crabmail.ai",
            "backend-architect@agents-web.github.23blocks.crabmail.ai",
            "reviewer@team.agents.bigcorp.io",
            "a_b@x.y",
        ] {
            assert_eq!(address(text).to_string(), text);
        }
    }

    #[test]
    fn scope_is_what_stands_before_a_configured_provider() {
        assert_eq!(address("claude@acme.lazaret.local").scope("lazaret.local"), Ok(Some("acme")));
        assert_eq!(address("claude@web.acme.lazaret.local").scope("Lazaret.local"), Ok(Some("web.acme")));
        assert_eq!(address("claude@lazaret.local").scope("lazaret.local"), Ok(None));
        assert!(address("claude@evillazaret.local").scope("lazaret.local").is_err());
        assert!(address("claude@acme.other.local").scope("lazaret.local").is_err());
    }

    #[test]
    fn malformed_addresses_are_refused_with_the_part_that_is_wrong() {
        let long_label = "a".repeat(64);
        for text in [
            "",
            "claude",
            "@x.y",
            "a@",
            "a@x",
            "a@x.",
            "a@.y",
            "a@x..y",
            "a b@x.y",
            "a@x_1.y",
            "a@b@x.y",
            "../a@x.y",
            "a@x.y/..",
            "\u{212a}elvin@x.y",
            "a@x.y\n",
            &format!("{long_label}@x.y"),
            &format!("a@{long_label}.y"),
        ] {
            assert!(text.parse::<Address>().is_err(), "{text:?}");
        }
        let long = format!("a@{}", vec!["a".repeat(60); 5].join("."));
        assert_eq!(long.parse::<Address>(), Err(AddressError::TooLong(long.len())));
    }

    #[test]
    fn case_makes_no_second_agent() {
        assert_eq!(address("Claude@ACME.Lazaret.local"), address("claude@acme.lazaret.local"));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(name in "[a-z0-9_-]{1,63}", labels in prop::collection::vec("[a-z0-9-]{1,30}", 2..5)) {
            let text = format!("{name}@{}", labels.join("."));
            let address: Address = text.parse().unwrap();
            prop_assert_eq!(address.to_string(), text.clone());
            prop_assert_eq!(address.name(), name);
            let json = serde_json::to_string(&address).unwrap();
            prop_assert_eq!(serde_json::from_str::<Address>(&json).unwrap(), address);
        }

        #[test]
        fn any_text_is_a_canonical_address_or_an_error(text in "\\PC{0,80}|[a-zA-Z0-9@._-]{0,300}") {
            if let Ok(address) = text.parse::<Address>() {
                prop_assert!(address.as_str().len() <= 254);
                prop_assert_eq!(address.as_str(), text.to_ascii_lowercase());
                prop_assert_eq!(format!("{}@{}", address.name(), address.domain()), address.as_str());
                prop_assert!(!address.as_str().contains('/') && !address.as_str().contains(".."));
            }
        }
    }
}
