//! Members of a JSON or TOML file, where the rest of it changes by itself.

use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::files::unmeasured;
use super::profile::FileRule;
use crate::proxy::json::Json;

/// Nesting that no config needs.
const MAX_DEPTH: usize = 64;

pub(super) struct Selection<'a> {
    members: Vec<Vec<String>>,
    except: &'a [Vec<String>],
    toml: bool,
}

impl<'a> Selection<'a> {
    /// `None` where all bytes of the file count.
    pub(super) fn of(rule: &'a FileRule, path: &Path, cwd: &str) -> Option<Self> {
        if rule.members.is_empty() && rule.except.is_empty() {
            return None;
        }
        let fill = |member: &Vec<String>| member.iter().map(|name| name.replace("{cwd}", cwd)).collect();
        Some(Self {
            members: rule.members.iter().map(fill).collect(),
            except: &rule.except,
            toml: path.extension().is_some_and(|extension| extension == "toml"),
        })
    }

    /// Tells it from other selections of the same file.
    pub(super) fn key(&self) -> String {
        format!("{:?} {:?} {}", self.members, self.except, self.toml)
    }

    /// Over the members' names and canonical values; over all bytes where they cannot be told apart.
    pub(super) fn digest(&self, bytes: &[u8]) -> String {
        let Some(file) = self.parse(bytes) else {
            return format!("{} {}", unmeasured("not a file that can be read; its bytes are"), sha256(bytes));
        };
        sha256(format!("lazaret-members-v1\n{}", self.select(file).canonical()).as_bytes())
    }

    fn parse(&self, bytes: &[u8]) -> Option<Json> {
        let text = std::str::from_utf8(bytes).ok()?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        if self.toml {
            return Some(Json::from_value(&serde_json::to_value(toml::from_str::<toml::Table>(text).ok()?).ok()?));
        }
        Json::parse(text, MAX_DEPTH).ok()
    }

    fn select(&self, mut file: Json) -> Json {
        for member in self.except {
            if let Some((last, above)) = member.split_last() {
                let parent = above.iter().try_fold(&mut file, |json, name| json.get_mut(name));
                parent.and_then(|parent| parent.remove(last));
            }
        }
        if self.members.is_empty() {
            return file;
        }
        let there = self.members.iter().filter_map(|member| {
            let value = member.iter().try_fold(&file, |json, name| json.get(name))?;
            Some((serde_json::to_string(member).unwrap_or_default(), value.clone()))
        });
        Json::object(there)
    }
}

/// Digests some members of a file, whatever its bytes: this is a fuzz target.
#[doc(hidden)]
pub fn digest_members(bytes: &[u8], toml: bool) -> String {
    let except = [vec!["projects".to_owned()], vec!["a".to_owned(), "b".to_owned()]];
    let members = if toml { Vec::new() } else { vec![vec!["mcpServers".to_owned()]] };
    Selection { members, except: &except, toml }.digest(bytes)
}

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

#[cfg(test)]
mod tests {
    use super::super::profile;
    use super::*;
    use proptest::prelude::*;

    fn claude(text: &str) -> String {
        let profile = profile::known("/x/claude", None).unwrap();
        let rule = profile.file.iter().find(|rule| !rule.members.is_empty()).unwrap();
        Selection::of(rule, Path::new("/h/.claude.json"), "/p").unwrap().digest(text.as_bytes())
    }

    #[test]
    fn only_what_names_servers_counts_in_a_file_of_state() {
        let one = claude(r#"{"numStartups":1,"mcpServers":{"a":{"command":"x"}},"projects":{"/p":{"n":1}}}"#);
        assert_eq!(one, claude(r#"{"mcpServers":{"a":{"command":"x"}},"numStartups":2}"#));
        assert_ne!(one, claude(r#"{"mcpServers":{"a":{"command":"y"}},"numStartups":2}"#));
        let project = r#"{"mcpServers":{"a":{"command":"x"}},"projects":{"/p":{"mcpServers":{"b":1}}}}"#;
        assert_ne!(one, claude(project));
        assert_eq!(one, claude(&project.replace("/p", "/q")), "another project's servers");
        assert!(one.starts_with("sha256:"));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_measured_by_its_bytes() {
        assert!(claude("{").starts_with("unmeasured: "));
        assert_ne!(claude("{"), claude("{ "));
        assert!(claude(&"[".repeat(100_000)).starts_with("unmeasured: "));
        assert!(claude(r#"{"mcpServers":{},"mcpServers":{"evil":1}}"#).starts_with("unmeasured: "), "said twice");
    }

    #[test]
    fn what_codex_notes_by_itself_does_not_count() {
        let profile = profile::known("/x/codex", None).unwrap();
        let rule = profile.file.iter().find(|rule| !rule.except.is_empty()).unwrap();
        let digest =
            |text: &str| Selection::of(rule, Path::new("/h/config.toml"), "/p").unwrap().digest(text.as_bytes());
        let one = digest("model = \"x\"\n[mcp_servers.a]\ncommand = \"y\"\n");
        assert_eq!(one, digest("model=\"x\"\n[mcp_servers.a]\ncommand=\"y\"\n[projects.\"/p\"]\ntrust_level=\"t\"\n"));
        assert_ne!(one, digest("model = \"x\"\n[mcp_servers.a]\ncommand = \"z\"\n"));
        assert_ne!(one, digest("model = \"z\"\n[mcp_servers.a]\ncommand = \"y\"\n"));
    }

    proptest! {
        #[test]
        fn any_bytes_have_a_digest(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[\\[\\]{}\":,a-c0-9= \\n.]{0,80}") {
            for bytes in [bytes.as_slice(), text.as_bytes()] {
                for toml in [false, true] {
                    prop_assert_eq!(digest_members(bytes, toml), digest_members(bytes, toml));
                }
            }
        }
    }
}
