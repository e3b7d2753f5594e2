//! The command line as a whole: what it is made of, and what its help says.

use clap::{CommandFactory as _, Parser as _};

use super::args::Cli;

#[test]
fn the_definition_of_the_command_line_is_sound() {
    Cli::command().debug_assert();
}

fn help(line: &str) -> String {
    let words = std::iter::once("lazaret").chain(line.split_whitespace()).chain(["--help"]);
    // Otherwise the terminal that the tests run on would choose the width.
    Cli::command().term_width(100).try_get_matches_from(words).unwrap_err().to_string()
}

fn verbs(command: &clap::Command, path: &str, all: &mut Vec<(String, clap::Command)>) {
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        let path = format!("{path} {}", sub.get_name()).trim().to_owned();
        verbs(sub, &path, all);
        if !sub.has_subcommands() {
            all.push((path, sub.clone()));
        }
    }
}

#[test]
fn every_verb_says_what_it_does_and_shows_an_example() {
    let mut all = Vec::new();
    verbs(&Cli::command(), "", &mut all);
    assert!(all.len() >= 35, "{}", all.len());
    for (path, verb) in all.iter().filter(|(_, verb)| !verb.is_hide_set()) {
        let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
        assert!(!about.is_empty() && !about.ends_with('.'), "{path}: {about:?}");
        let examples = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(examples.starts_with("Example"), "{path} has no example");
        assert!(examples.contains("lazaret"), "{path}: {examples}");
    }
}

#[test]
fn every_example_is_a_command_line_that_parses() {
    let mut all = Vec::new();
    verbs(&Cli::command(), "", &mut all);
    for (path, verb) in all {
        let examples = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
        for line in examples.lines().filter(|line| line.starts_with("  ")) {
            let line = line.trim_start().trim_start_matches("sudo ");
            let Some(line) = line.strip_prefix("lazaret ") else { continue };
            let line = line.split("  ").next().unwrap_or_default();
            let line = line.split([';', '|', '>']).next().unwrap_or_default().split("&&").next().unwrap_or_default();
            let words: Vec<&str> = line.split_whitespace().map(|word| word.trim_matches('"')).collect();
            // A quoted text is one word to a shell; here its words only need to fit.
            let parsed = Cli::try_parse_from(std::iter::once("lazaret").chain(words.iter().copied()));
            assert!(parsed.is_ok() || line.contains('"'), "{path}: {line}: {}", parsed.unwrap_err());
        }
    }
}

#[test]
fn the_help_reads_like_this() {
    insta::assert_snapshot!("help", help(""));
    insta::assert_snapshot!("help_server_add", help("server add"));
    insta::assert_snapshot!("help_daemon", help("daemon"));
}

#[test]
fn globals_stand_before_or_after_the_verb() {
    for line in [["lazaret", "--run-dir", "/r", "status"], ["lazaret", "status", "--run-dir", "/r"]] {
        let cli = Cli::try_parse_from(line).unwrap();
        assert_eq!(cli.globals.run_dir.as_deref(), Some(std::path::Path::new("/r")));
    }
}

#[test]
fn what_is_not_understood_is_a_usage_error() {
    for line in [
        vec!["server", "add", "x", "--npm", "a", "--pypi", "b"],
        vec!["daemon", "--scope", "everything"],
        vec!["daemon", "--detach", "--mode", "enforce"],
        vec!["search"],
        vec!["search", "--corpus", "c", "--jsonl"],
        vec!["audit", "tail", "--follow", "--json"],
        vec!["agent", "revoke", "a", "--reason", "because"],
    ] {
        let error = Cli::try_parse_from(std::iter::once("lazaret").chain(line.iter().copied())).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line:?}");
    }
}

#[test]
fn every_shell_and_the_manual_are_made_from_the_same_definition() {
    for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "lazaret", &mut script);
        assert!(String::from_utf8(script).unwrap().contains("detach-on-exit"), "{shell}");
    }
    let dir = tempfile::tempdir().unwrap();
    clap_mangen::generate_to(Cli::command(), dir.path()).unwrap();
    assert!(std::fs::read_to_string(dir.path().join("lazaret-server-add.1")).unwrap().contains("pypi"));
}
