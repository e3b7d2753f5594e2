//! What of a command line is measured.
//!
//! The program's own name is not (the executable is measured), nor what a client's profile calls volatile; what is
//! left goes into one digest, so that no word of it, which may be a secret, is kept. Where it cannot be told whether a
//! word is a flag's value, it counts as one: a measurement may drift too easily, never too late.

use sha2::{Digest as _, Sha256};

use super::profile::ArgvRules;

/// The digest over the words that are left.
pub fn digest(argv: &[Vec<u8>], rules: &ArgvRules) -> String {
    let mut hash = Sha256::new();
    hash.update(b"lazaret-argv-v1\n");
    for word in kept(argv, rules) {
        hash.update((word.len() as u64).to_le_bytes());
        hash.update(word);
    }
    format!("sha256:{}", hex::encode(hash.finalize()))
}

/// Whose a word without a dash is.
#[derive(Clone, Copy, PartialEq)]
enum Owner {
    /// No flag's: a subcommand, a prompt, a path.
    Nobody,
    Kept,
    Volatile,
}

fn kept<'a>(argv: &'a [Vec<u8>], rules: &ArgvRules) -> Vec<&'a [u8]> {
    let mut owner = Owner::Nobody;
    let mut kept = Vec::new();
    let mut words = argv.iter().skip(1).map(Vec::as_slice);
    while let Some(word) = words.next() {
        if word == b"--" {
            if rules.words {
                kept.push(word);
                kept.extend(words.by_ref());
            }
            break;
        }
        let (name, inline) = match word.iter().position(|byte| *byte == b'=') {
            Some(at) if word.starts_with(b"-") => (&word[..at], true),
            _ => (word, false),
        };
        let is = |names: &[String]| names.iter().any(|known| known.as_bytes() == name);
        if is(&rules.volatile) {
            owner = if inline { Owner::Nobody } else { Owner::Volatile };
        } else if word.len() > 1 && word.starts_with(b"-") {
            kept.push(word);
            owner = if inline || is(&rules.switches) { Owner::Nobody } else { Owner::Kept };
        } else if owner == Owner::Kept || (owner == Owner::Nobody && rules.words) {
            kept.push(word);
        }
    }
    kept
}

/// `/proc/PID/cmdline` in words. A program that writes its title there leaves one word and blanks.
pub fn words(cmdline: &[u8]) -> Vec<Vec<u8>> {
    let end = cmdline.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
    cmdline[..end].split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::super::profile;
    use super::*;
    use proptest::prelude::*;

    fn claude(line: &str) -> String {
        let argv: Vec<Vec<u8>> = line.split(' ').map(|word| word.as_bytes().to_vec()).collect();
        digest(&argv, &profile::known("/x/claude", None).unwrap().argv)
    }

    #[test]
    fn sessions_prompts_and_the_program_s_name_make_no_difference() {
        let plain = claude("claude --model opus");
        for same in [
            "/usr/bin/claude --model opus",
            "claude do-this --model opus",
            "claude --resume 4c7e --model opus",
            "claude --session-id=4c7e --model opus",
            "claude -c --model opus",
        ] {
            assert_eq!(claude(same), plain, "{same}");
        }
        assert_eq!(claude("claude -p one --model opus"), claude("claude -p two --model opus"));
        assert_eq!(claude("claude mcp list"), claude("claude"));
    }

    #[test]
    fn flags_and_their_values_make_a_difference() {
        let plain = claude("claude --model opus");
        for other in [
            "claude",
            "claude --model haiku",
            "claude --model opus --dangerously-skip-permissions",
            "claude --model opus --mcp-config evil.json",
            "claude --resume 4c7e --model opus --settings x",
            "claude --model=opus",
        ] {
            assert_ne!(claude(other), plain, "{other}");
        }
        let tools = "claude --allowedTools Bash";
        assert_ne!(claude(tools), claude("claude --allowedTools Bash Edit"));
    }

    #[test]
    fn an_unknown_program_is_measured_word_by_word() {
        let digest = |line: &str| {
            let argv: Vec<Vec<u8>> = line.split(' ').map(|word| word.as_bytes().to_vec()).collect();
            digest(&argv, &profile::of_others().argv)
        };
        assert_eq!(digest("a x y"), digest("b x y"));
        assert_ne!(digest("a x y"), digest("a xy"));
        assert_ne!(digest("a x y"), digest("a y x"));
        assert_ne!(digest("a -- x"), digest("a x"));
    }

    #[test]
    fn a_title_that_was_written_over_the_words_is_one_word() {
        assert_eq!(words(b"claude\0\0\0\0"), [b"claude".to_vec()]);
        assert_eq!(words(b"a\0\0b\0"), [b"a".to_vec(), b"".to_vec(), b"b".to_vec()]);
        assert_eq!(words(b""), [b"".to_vec()]);
    }

    proptest! {
        #[test]
        fn any_command_line_has_a_digest(cmdline in prop::collection::vec(any::<u8>(), 0..200)) {
            let argv = words(&cmdline);
            for rules in [&profile::known("/x/claude", None).unwrap().argv, &profile::of_others().argv] {
                prop_assert_eq!(digest(&argv, rules), digest(&argv, rules));
            }
        }
    }
}
