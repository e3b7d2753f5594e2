//! Variables in command lines that clients fill in: `${HOME}`, `${env:HOME}`, `${workspaceFolder}`, …
//!
//! Only what is certain is filled in. An entry that keeps a variable is marked, because what its
//! client starts cannot be told from the file.

use std::path::Path;

use super::ClientServer;

pub(super) fn server(server: &mut ClientServer, home: Option<&Path>) {
    let project = server.project.clone();
    for word in server.command.iter_mut().chain(&mut server.args) {
        if word.contains('$') {
            *word = expand(word, home, project.as_deref());
        }
        server.dynamic |= ["${", "{env:", "{file:"].iter().any(|mark| word.contains(mark));
    }
}

fn expand(word: &str, home: Option<&Path>, project: Option<&Path>) -> String {
    let mut out = String::with_capacity(word.len());
    let mut rest = word;
    while let Some(start) = rest.find("${") {
        let Some(end) = rest[start..].find('}').map(|end| start + end) else { break };
        out.push_str(&rest[..start]);
        let text = match &rest[start + 2..end] {
            "HOME" | "env:HOME" | "userHome" => home.and_then(Path::to_str),
            "workspaceFolder" | "workspaceRoot" => project.and_then(Path::to_str),
            "workspaceFolderBasename" => project.and_then(Path::file_name).and_then(|name| name.to_str()),
            "pathSeparator" | "/" => Some("/"),
            _ => None,
        };
        match text {
            Some(path) => out.push_str(path),
            None => out.push_str(&rest[start..=end]),
        }
        rest = &rest[end + 1..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_certain_is_filled_in() {
        let (home, project) = (Some(Path::new("/home/ann")), Some(Path::new("/w")));
        assert_eq!(expand("${HOME}/x:${userHome}", home, project), "/home/ann/x:/home/ann");
        assert_eq!(expand("${workspaceFolder}/run", home, project), "/w/run");
        assert_eq!(expand("${workspaceFolder}", home, None), "${workspaceFolder}");
        assert_eq!(expand("a${KEY:-x}b${", home, project), "a${KEY:-x}b${");
        assert_eq!(expand("$HOME", home, project), "$HOME");
        assert_eq!(expand("${workspaceFolderBasename}${/}x", home, project), "w/x");
    }

    proptest::proptest! {
        #[test]
        fn words_without_known_variables_stay(word in "[${}:a-cé]{0,12}") {
            proptest::prop_assert_eq!(expand(&word, None, None), word);
        }
    }
}
