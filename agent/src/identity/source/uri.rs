//! PKCS#11 URIs (RFC 7512), as far as they name one key of one token.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Which key: token by label or serial number, key by label or id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenUri {
    text: String,
    pub token: Option<String>,
    pub serial: Option<String>,
    pub object: Option<String>,
    pub id: Option<Vec<u8>>,
    pub module: PathBuf,
    pub pin_source: Option<PathBuf>,
}

impl FromStr for TokenUri {
    /// The cause alone.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rest = text.strip_prefix("pkcs11:").ok_or("it does not begin with pkcs11:")?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (mut token, mut serial, mut object, mut id) = (None, None, None, None);
        let (mut module, mut pin_source) = (None, None);
        for attribute in path.split(';').filter(|part| !part.is_empty()) {
            let (name, value) = pair(attribute)?;
            match name {
                "token" => once(&mut token, name, utf8(name, value)?)?,
                "serial" => once(&mut serial, name, utf8(name, value)?)?,
                "object" => once(&mut object, name, utf8(name, value)?)?,
                "id" => once(&mut id, name, value)?,
                "type" if value == b"private" => {}
                _ => return Err(format!("the attribute {name:?} is not understood")),
            }
        }
        for attribute in query.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = pair(attribute)?;
            match name {
                "module-path" => once(&mut module, name, PathBuf::from(utf8(name, value)?))?,
                "pin-source" => {
                    let value = utf8(name, value)?;
                    once(&mut pin_source, name, PathBuf::from(value.strip_prefix("file:").unwrap_or(&value)))?;
                }
                "pin-value" => {
                    return Err(
                        "a PIN in the URI would be seen by everybody; use pin-source=FILE or LAZARET_PKCS11_PIN".into(),
                    );
                }
                _ => return Err(format!("the attribute {name:?} is not understood")),
            }
        }
        if token.is_none() && serial.is_none() {
            return Err("it names no token: add token=LABEL".into());
        }
        if object.is_none() && id.is_none() {
            return Err("it names no key: add object=LABEL or id=%01".into());
        }
        let module = module.ok_or("it names no library: add ?module-path=/PATH/LIB.so")?;
        if !module.is_absolute() || pin_source.as_ref().is_some_and(|path| !path.is_absolute()) {
            return Err("module-path and pin-source must be absolute paths".into());
        }
        Ok(Self { text: text.into(), token, serial, object, id, module, pin_source })
    }
}

impl fmt::Display for TokenUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn once<T>(slot: &mut Option<T>, name: &str, value: T) -> Result<(), String> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(format!("the attribute {name} is given twice")),
    }
}

fn pair(attribute: &str) -> Result<(&str, Vec<u8>), String> {
    let (name, value) = attribute.split_once('=').ok_or_else(|| format!("{attribute:?} has no value"))?;
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first != b'%' {
            bytes.push(*first);
            rest = tail;
            continue;
        }
        let mut byte = [0u8];
        let digits = tail.get(..2).filter(|digits| hex::decode_to_slice(digits, &mut byte).is_ok());
        digits.ok_or_else(|| format!("the value of {name} has a % without two hex digits"))?;
        bytes.push(byte[0]);
        rest = &tail[2..];
    }
    match bytes.is_empty() {
        true => Err(format!("the value of {name} is empty")),
        false => Ok((name, bytes)),
    }
}

fn utf8(name: &str, bytes: Vec<u8>) -> Result<String, String> {
    String::from_utf8(bytes).map_err(|_| format!("the value of {name} is no text"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_uri_names_token_key_library_and_where_the_pin_is() {
        let uri: TokenUri =
            "pkcs11:token=My%20Token;object=agent;id=%01%ff;type=private?module-path=/usr/lib/x.so&pin-source=file:/run/pin"
                .parse()
                .unwrap();
        assert_eq!((uri.token.as_deref(), uri.object.as_deref()), (Some("My Token"), Some("agent")));
        assert_eq!((uri.id, uri.module), (Some(vec![1, 255]), PathBuf::from("/usr/lib/x.so")));
        assert_eq!(uri.pin_source, Some(PathBuf::from("/run/pin")));
    }

    #[test]
    fn what_is_missing_or_dangerous_is_said() {
        for (text, reason) in [
            ("pkcs11:object=o?module-path=/l", "names no token"),
            ("pkcs11:token=t?module-path=/l", "names no key"),
            ("pkcs11:token=t;object=o", "names no library"),
            ("pkcs11:token=t;object=o?module-path=l.so", "absolute"),
            ("pkcs11:token=t;object=o?module-path=/l&pin-value=1234", "seen by everybody"),
            ("pkcs11:token=t;token=u;object=o?module-path=/l", "twice"),
            ("pkcs11:token=%4;object=o?module-path=/l", "two hex digits"),
            ("pkcs11:token=;object=o?module-path=/l", "empty"),
            ("pkcs11:token=t;colour=o?module-path=/l", "not understood"),
        ] {
            let error = text.parse::<TokenUri>().unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_uri_or_an_error(text in "pkcs11:[a-z=;%?&/0-9.-]{0,60}") {
            if let Ok(uri) = text.parse::<TokenUri>() {
                prop_assert_eq!(uri.to_string(), text);
            }
        }
    }
}
