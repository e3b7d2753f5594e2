//! Splits a shell's command text where it is one simple command, and refuses everything else:
//! what a shell would expand, redirect or chain cannot be read without running it.

/// The words of `text`, or why it is more than one simple command.
pub(super) fn simple_command(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.trim().chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('\'') => break,
                        Some(c) => word.push(c),
                        None => return Err("its quotes do not close".into()),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('"') => break,
                        Some('\\') => match chars.next() {
                            Some(c @ ('"' | '\\' | '$' | '`')) => word.push(c),
                            Some(c) => word.extend(['\\', c]),
                            None => return Err("its quotes do not close".into()),
                        },
                        Some('$' | '`') => {
                            return Err("it has variables or substitutions that only a shell can resolve".into());
                        }
                        Some(c) => word.push(c),
                        None => return Err("its quotes do not close".into()),
                    }
                }
            }
            '\\' => match chars.next() {
                Some('\n') => {}
                Some(c) => word.get_or_insert_default().push(c),
                None => return Err("it ends in a backslash".into()),
            },
            '$' | '`' => return Err("it has variables or substitutions that only a shell can resolve".into()),
            ';' | '&' | '|' | '<' | '>' | '(' | ')' | '\n' | '\r' => {
                return Err("it is more than one simple command".into());
            }
            '*' | '?' | '[' | '{' | '!' => return Err("it has patterns that only a shell can resolve".into()),
            '~' | '#' if word.is_none() => return Err("it has a ~ or # that only a shell can resolve".into()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

/// A name that a shell lets stand before `=`.
pub(super) fn is_name(text: &str) -> bool {
    text.bytes().next().is_some_and(|c| c.is_ascii_alphabetic() || c == b'_')
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_escapes_are_read_as_a_shell_reads_them() {
        assert_eq!(
            simple_command(r#" npx  -y 'a b' "c \"d\" \n" e\ f '' "#).unwrap(),
            ["npx", "-y", "a b", "c \"d\" \\n", "e f", ""]
        );
    }

    #[test]
    fn what_only_a_shell_can_resolve_is_refused() {
        for text in
            ["a; b", "a && b", "a | b", "a > b", "$A b", "\"$A\"", "`a`", "a *", "~/a", "a\nb", "'a", "a {b,c}", "(a)"]
        {
            assert!(simple_command(text).is_err(), "{text}");
        }
        assert!(simple_command("a 'x;y' \"p|q\" b~ c#d").is_ok());
    }

    proptest::proptest! {
        #[test]
        fn quoted_words_come_back(words in proptest::collection::vec("[^'\0]{0,8}", 0..5)) {
            let text = words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
            proptest::prop_assert_eq!(simple_command(&text).unwrap(), words);
        }
    }
}
