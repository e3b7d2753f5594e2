//! One line: `PRINCIPALS [OPTIONS] KEYTYPE KEY [COMMENT]`.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use ssh_key::PublicKey;

use crate::identity::vouch::certificate::listed;

#[derive(Debug)]
pub(super) struct Line {
    pub number: usize,
    pub principals: String,
    pub key: PublicKey,
    options: Options,
}

#[derive(Debug, Default)]
struct Options {
    authority: bool,
    namespaces: Option<String>,
    after: Option<Timestamp>,
    before: Option<Timestamp>,
}

impl Line {
    /// Errors are the cause alone.
    pub fn parse(text: &str, number: usize) -> Result<Self, String> {
        let (principals, rest) = word(text)?;
        if principals.is_empty() {
            return Err("the principals are empty".into());
        }
        if rest.is_empty() {
            return Err("there is no key: a line is PRINCIPALS [OPTIONS] KEYTYPE KEY".into());
        }
        let mut options = Options::default();
        // What is no key type is options, as ssh-keygen has it.
        let key = match rest.split([' ', '\t']).next().is_some_and(is_key_type) {
            true => rest,
            false => options.read(rest)?,
        };
        let mut parts = key.split([' ', '\t']).filter(|part| !part.is_empty());
        let (Some(kind), Some(encoded)) = (parts.next(), parts.next()) else {
            return Err("there is no key: a line is PRINCIPALS [OPTIONS] KEYTYPE KEY".into());
        };
        let key = PublicKey::from_openssh(&format!("{kind} {encoded}"))
            .map_err(|e| format!("the key cannot be read ({e})"))?;
        if let (Some(after), Some(before)) = (options.after, options.before)
            && after >= before
        {
            return Err("valid-before is not after valid-after".into());
        }
        Ok(Self { number, principals, key, options })
    }

    /// The key signs certificates, not documents.
    pub fn is_authority(&self) -> bool {
        self.options.authority
    }

    /// Whether a signature by this line counts; the error completes "line N of allowed_signers ...".
    pub fn allows(&self, namespace: &str, at: Timestamp) -> Result<(), String> {
        let Options { authority: _, namespaces, after, before } = &self.options;
        if namespaces.as_ref().is_some_and(|list| !listed(list, namespace)) {
            return Err(format!("lets it sign for other namespaces only; add {namespace} to its namespaces"));
        }
        if after.is_some_and(|after| at < after) {
            return Err("says that it is not valid yet (valid-after)".into());
        }
        if before.is_some_and(|before| at >= before) {
            return Err("says that it is not valid any more (valid-before)".into());
        }
        Ok(())
    }
}

impl Options {
    /// Reads the options at the head of `text` and returns what follows them.
    fn read<'a>(&mut self, mut text: &'a str) -> Result<&'a str, String> {
        loop {
            let end = text.find(['=', ',', ' ', '\t']).unwrap_or(text.len());
            let (name, rest) = text.split_at(end);
            let (value, rest) = match rest.strip_prefix('=') {
                Some(rest) => {
                    let rest =
                        rest.strip_prefix('"').ok_or_else(|| format!("the value of {name} must stand in quotes"))?;
                    let (value, rest) =
                        rest.split_once('"').ok_or_else(|| format!("the value of {name} has no closing quote"))?;
                    (Some(value), rest)
                }
                None => (None, rest),
            };
            self.option(name, value)?;
            match rest.strip_prefix(',') {
                Some(more) => text = more,
                None if rest.is_empty() || rest.starts_with([' ', '\t']) => return Ok(rest.trim_start()),
                None => return Err(format!("what follows the option {name} is not understood")),
            }
        }
    }

    fn option(&mut self, name: &str, value: Option<&str>) -> Result<(), String> {
        let once = |set: bool| if set { Err(format!("the option {name} is given twice")) } else { Ok(()) };
        match (name.to_ascii_lowercase().as_str(), value) {
            ("cert-authority", None) => self.authority = true,
            ("namespaces", Some(value)) if !value.is_empty() => {
                once(self.namespaces.is_some())?;
                self.namespaces = Some(value.into());
            }
            ("valid-after", Some(value)) => {
                once(self.after.is_some())?;
                self.after = Some(time(value)?);
            }
            ("valid-before", Some(value)) => {
                once(self.before.is_some())?;
                self.before = Some(time(value)?);
            }
            _ => return Err(format!("the option {:?} is not understood", name.chars().take(40).collect::<String>())),
        }
        Ok(())
    }
}

fn is_key_type(word: &str) -> bool {
    word.starts_with("ssh-") || word.starts_with("ecdsa-") || word.starts_with("sk-")
}

/// The first word, quoted or not, and what follows.
fn word(text: &str) -> Result<(String, &str), String> {
    let (word, rest) = match text.strip_prefix('"') {
        Some(rest) => rest.split_once('"').ok_or("the principals have no closing quote")?,
        None => text.split_at(text.find([' ', '\t']).unwrap_or(text.len())),
    };
    if !rest.is_empty() && !rest.starts_with([' ', '\t']) {
        return Err("what follows the principals is not understood".into());
    }
    Ok((word.into(), rest.trim_start()))
}

/// `YYYYMMDD[HHMM[SS]]`, in this host's time zone or with a `Z` in UTC.
fn time(text: &str) -> Result<Timestamp, String> {
    let bad = || format!("{:?} is no time; write YYYYMMDD[HHMM[SS]][Z]", text.chars().take(40).collect::<String>());
    let (digits, zone) = match text.strip_suffix(['Z', 'z']) {
        Some(digits) => (digits, TimeZone::UTC),
        None => (text, TimeZone::system()),
    };
    if !matches!(digits.len(), 8 | 12 | 14) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad());
    }
    let number = |from: usize, to: usize| digits.get(from..to).map_or(Ok(0), str::parse::<i16>).map_err(|_| bad());
    let small = |from, to| number(from, to).map(|n| n as i8);
    let civil =
        DateTime::new(number(0, 4)?, small(4, 6)?, small(6, 8)?, small(8, 10)?, small(10, 12)?, small(12, 14)?, 0)
            .map_err(|_| bad())?;
    Ok(civil.to_zoned(zone).map_err(|_| bad())?.timestamp())
}
