//! What a 401 says of how to log in: `WWW-Authenticate` (RFC 9110, section 11.6.1). A fuzz target.

/// The parameters of a `Bearer` challenge that matter here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Challenge {
    pub resource_metadata: Option<String>,
    pub scope: Option<String>,
    pub error: Option<String>,
}

impl Challenge {
    /// The first `Bearer` challenge among these header values. Text that cannot be read is skipped.
    pub fn bearer<'a>(values: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        values.into_iter().find_map(of_value)
    }
}

fn of_value(text: &str) -> Option<Challenge> {
    let mut found: Option<Challenge> = None;
    for item in items(text) {
        match item {
            Item::Scheme(_) if found.is_some() => break,
            Item::Scheme(name) if name.eq_ignore_ascii_case("bearer") => found = Some(Challenge::default()),
            Item::Scheme(_) => {}
            Item::Param(name, value) => {
                let Some(challenge) = &mut found else { continue };
                let place = match name.to_ascii_lowercase().as_str() {
                    "resource_metadata" => &mut challenge.resource_metadata,
                    "scope" => &mut challenge.scope,
                    "error" => &mut challenge.error,
                    _ => continue,
                };
                // The first one counts, as everywhere.
                place.get_or_insert(value);
            }
        }
    }
    found
}

enum Item<'a> {
    Scheme(&'a str),
    Param(&'a str, String),
}

fn items(mut text: &str) -> Vec<Item<'_>> {
    let mut items = Vec::new();
    loop {
        text = text.trim_start_matches([' ', '\t', ',']);
        let name = &text[..text.find(|c| !is_token(c)).unwrap_or(text.len())];
        if name.is_empty() {
            // No token where one must be: what comes behind cannot be told apart.
            return items;
        }
        text = &text[name.len()..];
        let behind = text.trim_start_matches([' ', '\t']);
        // `a68=` of a scheme without parameters is one too, and is of no scheme that matters.
        let Some(value) = behind.strip_prefix('=') else {
            items.push(Item::Scheme(name));
            continue;
        };
        let value = value.trim_start_matches([' ', '\t']);
        let Some((value, rest)) = value_of(value) else { return items };
        items.push(Item::Param(name, value));
        text = rest;
    }
}

/// A token or a quoted string, and what stands behind it.
fn value_of(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(|c: char| c.is_whitespace() || c == ',').unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bearer(text: &str) -> Option<Challenge> {
        Challenge::bearer([text])
    }

    #[test]
    fn parameters_are_of_the_bearer_challenge_wherever_it_stands() {
        let text = r#"Basic realm="a, Bearer scope=x", bearer error="invalid_token", resource_metadata="https://a.example/m", scope="a b", Digest scope=no"#;
        assert_eq!(
            bearer(text),
            Some(Challenge {
                resource_metadata: Some("https://a.example/m".into()),
                scope: Some("a b".into()),
                error: Some("invalid_token".into()),
            })
        );
        assert_eq!(bearer("Bearer"), Some(Challenge::default()));
        assert_eq!(bearer(r#"Bearer scope=a, scope=b"#).unwrap().scope.as_deref(), Some("a"));
        assert_eq!(bearer(r#"Bearer scope="a\"b""#).unwrap().scope.as_deref(), Some("a\"b"));
        assert_eq!(bearer("Basic realm=x"), None);
        assert_eq!(bearer(""), None);
        assert_eq!(Challenge::bearer(["Basic a=b", "Bearer scope=c"]).unwrap().scope.as_deref(), Some("c"));
        assert_eq!(bearer(r#"Bearer scope="open"#), Some(Challenge::default()));
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic_and_what_is_quoted_comes_back(text in ".{0,80}", scope in "[a-z \"\\\\,=é]{0,20}") {
            let _ = bearer(&text);
            let quoted = scope.replace('\\', "\\\\").replace('"', "\\\"");
            let found = bearer(&format!("Basic realm=\"x\", Bearer scope=\"{quoted}\", error=no"));
            prop_assert_eq!(found.unwrap(), Challenge { scope: Some(scope), error: Some("no".into()), resource_metadata: None });
        }
    }
}
