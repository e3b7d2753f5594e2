//! Credentials that stand where everybody reads them: in texts, in arguments.

/// How well-known credentials begin, and how many characters of their alphabet follow at least.
const SHAPES: [(&str, usize); 20] = [
    ("sk-ant-", 20),
    ("sk-proj-", 20),
    ("sk_live_", 16),
    ("rk_live_", 16),
    ("ghp_", 30),
    ("gho_", 30),
    ("ghu_", 30),
    ("ghs_", 30),
    ("github_pat_", 30),
    ("glpat-", 18),
    ("npm_", 36),
    ("pypi-AgE", 30),
    ("hf_", 30),
    ("xoxb-", 20),
    ("xoxp-", 20),
    ("xapp-", 20),
    ("AKIA", 16),
    ("ASIA", 16),
    ("AIza", 35),
    ("ya29.", 20),
];
const KEY_BLOCK: &str = "-----BEGIN ";
/// Options and members whose value is one, whatever it looks like.
const NAMED: [&str; 9] =
    ["password", "passwd", "token", "secret", "apikey", "accesskey", "privatekey", "credential", "authorization"];
/// Shorter values are placeholders.
const MIN_VALUE: usize = 12;

/// What the text holds, never the credential itself.
pub(super) fn in_text(text: &str) -> Option<String> {
    if let Some(at) = text.find(KEY_BLOCK)
        && text[at..].lines().next().is_some_and(|line| line.contains("PRIVATE KEY"))
    {
        return Some("a private key".into());
    }
    SHAPES.iter().find_map(|(start, least)| {
        text.match_indices(start).find_map(|(at, _)| {
            let inside = text[..at].ends_with(|c: char| c.is_ascii_alphanumeric());
            let body = &text[at + start.len()..];
            let length = body.bytes().take_while(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-')).count();
            (!inside && length >= *least && varied(&body[..length]))
                .then(|| format!("{start}… ({length} more characters)"))
        })
    })
}

/// The same for a command line: the value of an option that is named like a credential, too.
pub(super) fn in_arguments(arguments: &[String]) -> Option<String> {
    let named = |name: &str| {
        let plain: String = name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
        NAMED.iter().any(|word| plain.ends_with(word))
    };
    let value = |text: &str| text.len() >= MIN_VALUE && varied(text) && !text.starts_with(['$', '<', '{', '/', '-']);
    arguments.iter().enumerate().find_map(|(n, argument)| {
        if let Some(found) = in_text(argument) {
            return Some(found);
        }
        let (name, given) = match argument.split_once('=') {
            Some((name, given)) => (name, Some(given)),
            None => (argument.as_str(), arguments.get(n + 1).map(String::as_str)),
        };
        let option = name.starts_with('-') || argument.contains('=');
        (option && named(name) && given.is_some_and(value)).then(|| format!("the value of {name}"))
    })
}

/// A placeholder such as `xxxxxxxx` is none.
fn varied(text: &str) -> bool {
    text.bytes().collect::<std::collections::BTreeSet<_>>().len() >= 6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_found_and_never_repeated() {
        let body = "aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bC1dF3gH5";
        for start in ["ghp_", "sk-ant-", "xoxb-", "AKIA", "hf_"] {
            let found = in_text(&format!("use {start}{body} for it")).unwrap_or_else(|| panic!("{start}"));
            assert!(found.starts_with(start) && !found.contains(&body[..8]), "{found}");
        }
        assert_eq!(in_text("-----BEGIN OPENSSH PRIVATE KEY-----\nabc").unwrap(), "a private key");
    }

    #[test]
    fn talk_of_credentials_is_none() {
        for text in [
            "Set GITHUB_TOKEN to a token that starts with ghp_",
            "sk-ant-xxxxxxxxxxxxxxxxxxxxxxxx",
            "-----BEGIN CERTIFICATE-----",
            "task-proj-abcdefghijklmnopqrstuvwxyz",
            "AKIAIOSF",
        ] {
            assert_eq!(in_text(text), None, "{text}");
        }
    }

    #[test]
    fn the_value_of_an_option_named_like_one_is_one() {
        let found = |line: &str| in_arguments(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        for line in [
            "--api-key=4f8a1c9d2e7b",
            "--token 4f8a1c9d2e7b",
            "DB_PASSWORD=hunter2-hunter2",
            "-e X_SECRET=4f8a1c9d2e7b",
        ] {
            let said = found(line).unwrap_or_else(|| panic!("{line}"));
            assert!(!said.contains("4f8a") && !said.contains("hunter2"), "{said}");
        }
        for line in [
            "--token-file /etc/token",
            "--api-key $KEY_OF_MINE",
            "--verbose --token",
            "/data --max-tokens=1000000000000",
            "token abcdefghijkl",
        ] {
            assert_eq!(found(line), None, "{line}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_looked_at_without_a_panic(text in "\\PC{0,40}", line in proptest::collection::vec("\\PC{0,20}", 0..4)) {
            let _ = (in_text(&text), in_text(&format!("ghp_{text}é")), in_arguments(&line));
        }
    }
}
