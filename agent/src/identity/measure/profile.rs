//! Clients that are known by name, and what each of them is measured by: `profiles.toml`.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::Deserialize;

use crate::identity::PartKind;

const FILE: &str = include_str!("profiles.toml");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Profiles {
    client: Vec<Profile>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    pub name: String,
    exe: Vec<String>,
    script: Vec<String>,
    #[serde(default)]
    pub moved: BTreeMap<String, String>,
    #[serde(default)]
    pub variables: Vec<String>,
    pub argv: ArgvRules,
    pub file: Vec<FileRule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArgvRules {
    pub words: bool,
    pub switches: Vec<String>,
    pub volatile: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRule {
    pub kind: PartKind,
    pub paths: Vec<String>,
    #[serde(default)]
    pub members: Vec<Vec<String>>,
    #[serde(default)]
    pub except: Vec<Vec<String>>,
}

fn profiles() -> &'static [Profile] {
    static PROFILES: OnceLock<Vec<Profile>> = OnceLock::new();
    #[expect(clippy::expect_used, reason = "the file is part of the program, and a test reads it")]
    PROFILES.get_or_init(|| toml::from_str::<Profiles>(FILE).expect("profiles.toml is valid").client)
}

/// The client that runs from `exe`, or from `script` where that is an interpreter; `None` for any other program.
pub fn known(exe: &str, script: Option<&str>) -> Option<&'static Profile> {
    let fits =
        |patterns: &[String], path: &str| patterns.iter().any(|pattern| like(pattern.as_bytes(), path.as_bytes()));
    profiles()
        .iter()
        .find(|profile| fits(&profile.exe, exe) || script.is_some_and(|script| fits(&profile.script, script)))
}

/// Everybody else's.
pub fn of_others() -> &'static Profile {
    #[expect(clippy::expect_used, reason = "the file is part of the program, and a test reads it")]
    profiles().last().expect("profiles.toml has a last client")
}

/// Whether `*` of the pattern can stand for what makes it the text.
pub(super) fn like(pattern: &[u8], text: &[u8]) -> bool {
    // Where the last `*` stood, and how much it has swallowed.
    let (mut at, mut from, mut star) = (0, 0, None);
    while from < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, from));
                at += 1;
            }
            Some(byte) if *byte == text[from] => {
                at += 1;
                from += 1;
            }
            _ => match star {
                Some((pattern_at, text_at)) => {
                    star = Some((pattern_at, text_at + 1));
                    at = pattern_at + 1;
                    from = text_at + 1;
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_shipped_file_knows_the_clients_and_ends_with_everybody_else() {
        let names: Vec<&str> = profiles().iter().map(|profile| profile.name.as_str()).collect();
        assert_eq!(names, ["claude-code", "gemini-cli", "codex", "cursor", "windsurf", "vscode", "unknown"]);
        for path in profiles().iter().flat_map(|profile| &profile.file).flat_map(|file| &file.paths) {
            assert!(["~/", "./", "^/", "/etc/"].iter().any(|start| path.starts_with(start)), "{path}");
        }
    }

    #[test]
    fn clients_are_known_by_executable_or_script() {
        let name = |exe: &str, script: Option<&str>| known(exe, script).map(|profile| profile.name.as_str());
        assert_eq!(name("/home/a/.local/share/claude/versions/2.1.0", None), Some("claude-code"));
        assert_eq!(name("/x/node_modules/@anthropic-ai/claude-code-linux-x64/claude", None), Some("claude-code"));
        let gemini = "/usr/lib/node_modules/@google/gemini-cli/bundle/gemini.js";
        assert_eq!(name("/usr/bin/node", Some(gemini)), Some("gemini-cli"));
        assert_eq!(name("/usr/share/code/code", None), Some("vscode"));
        assert_eq!(name("/usr/bin/node", Some("/srv/claude.js")), None);
        assert_eq!(name("/usr/bin/node", None), None);
        assert_eq!(name("/bin/bash", Some("/home/a/x.sh")), None);
    }

    fn naive(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => (0..=text.len()).any(|at| naive(rest, &text[at..])),
            Some((byte, rest)) => text.first() == Some(byte) && naive(rest, &text[1..]),
        }
    }

    proptest! {
        #[test]
        fn a_star_stands_for_anything(pattern in "[ab*]{0,8}", text in "[ab]{0,10}") {
            prop_assert_eq!(like(pattern.as_bytes(), text.as_bytes()), naive(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
