//! `cargo xtask test`: every test of the repository and one count at the end.
//!
//! Invariant: nothing drops out of the count silently. A test that cannot run here says why in the file that
//! `LAZARET_SKIP_FILE` names, and is counted as skipped, not as passed. A test that failed is run once more, for a
//! loaded machine is late where an idle one is not; what then passes is counted and named apart. A kernel that harmed
//! an innocent process is never asked again.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{ExitCode, Stdio};

use anyhow::{Context as _, Result};

use crate::docker::Docker;
use crate::{docker, ebpf, guest_disk, images, needs, qemu, sh, tools};

/// Everything that `test` needs; a Docker that had to be started ends with the handle.
pub fn set_up(root: &Path, yes: bool) -> Result<Docker> {
    needs::install(&needs::for_testing(), yes)?;
    ebpf::build(root)?;
    tools::install(root)?;
    if let Err(e) = qemu::kernels(root).and_then(|kernels| guest_disk::make(root, &kernels)) {
        eprintln!("warning: {e:#}");
    }
    let docker = docker::find_or_start(root)?;
    images::base_image(root, docker.socket())?;
    eprintln!("building everything once (the first time takes minutes)");
    sh::run(sh::cargo().current_dir(root).args(["build", "--workspace", "--all-targets"]))?;
    Ok(docker)
}

pub fn test(root: &Path, yes: bool, quick: bool, filter: Option<&str>) -> Result<ExitCode> {
    if !quick && filter.is_none() {
        lints(root)?;
    }
    let _docker = set_up(root, yes)?;
    if !quick && filter.is_none() {
        eprintln!("cargo clippy");
        let deny = ["--workspace", "--all-targets", "--", "--deny", "warnings"];
        sh::run(sh::cargo().current_dir(root).arg("clippy").args(deny))?;
    }
    let skip_file = root.join("target/skipped.tsv");
    std::fs::write(&skip_file, "").with_context(|| format!("cannot write {}", skip_file.display()))?;
    let mut count = cargo_test(root, &filter.into_iter().collect::<Vec<_>>(), &skip_file)?;
    let skipped =
        std::fs::read_to_string(&skip_file).with_context(|| format!("cannot read {}", skip_file.display()))?;
    count.move_skipped(&skipped);
    let late = second_try(root, &mut count)?;
    println!("\n{} passed, {} failed, {} skipped", count.passed, count.failed, count.skipped);
    if !late.is_empty() {
        println!("{} of them passed at the second try only: {}", late.len(), late.join(", "));
    }
    Ok(if count.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Formatting first: it takes a second, and the rest takes minutes.
fn lints(root: &Path) -> Result<()> {
    if sh::capture(sh::cargo().args(["fmt", "--version"])).is_err()
        || sh::capture(sh::cargo().args(["clippy", "--version"])).is_err()
    {
        eprintln!("rustup component add rustfmt clippy");
        sh::run(std::process::Command::new("rustup").args(["component", "add", "rustfmt", "clippy"]))?;
    }
    sh::run(sh::cargo().current_dir(root).args(["fmt", "--all", "--check"]))
}

/// More failures than this are no matter of a late machine.
const MOST_SECOND_TRIES: usize = 12;

/// Runs what failed once more; names what passed then.
fn second_try(root: &Path, count: &mut Count) -> Result<Vec<String>> {
    let harmed = harmed_innocents(&root.join("target/qemu/results"));
    let names: Vec<&str> = count.names.iter().map(String::as_str).collect();
    // A failure without a name is a program that died or a documentation test.
    let all_named = names.len() as u64 == count.failed;
    let innocent = |name: &&str| name.split("::").next().is_some_and(|property| harmed.contains(property));
    if names.is_empty() || !all_named || names.len() > MOST_SECOND_TRIES || names.iter().any(innocent) {
        return Ok(Vec::new());
    }
    println!("\nFAILED at the first try, once more: {}", names.join(", "));
    let arguments: Vec<&str> = ["--lib", "--bins", "--tests", "--", "--exact"].into_iter().chain(names).collect();
    let again = cargo_test(root, &arguments, &root.join("target/skipped-again.tsv"))?;
    let late = count.after_second_try(&again);
    Ok(late)
}

/// Properties of the kernel tests' last runs that say that something harmless is left alone, and did not hold.
fn harmed_innocents(results: &Path) -> BTreeSet<String> {
    let files = std::fs::read_dir(results).into_iter().flatten().flatten();
    let texts = files.filter_map(|file| std::fs::read_to_string(file.path()).ok());
    texts.flat_map(|text| harmed_in(&text)).collect()
}

fn harmed_in(results: &str) -> Vec<String> {
    let Ok(results) = serde_json::from_str::<serde_json::Value>(results) else { return Vec::new() };
    let rows = results["results"].as_array().cloned().unwrap_or_default();
    let harmed = rows.iter().filter(|row| row["twin"] == true && row["outcome"] == "FAILED");
    harmed.filter_map(|row| row["property"].as_str().map(str::to_owned)).collect()
}

fn cargo_test(root: &Path, arguments: &[&str], skip_file: &Path) -> Result<Count> {
    let mut child = sh::cargo()
        .current_dir(root)
        .args(["test", "--workspace", "--no-fail-fast"])
        .args(arguments)
        .env("LAZARET_SKIP_FILE", skip_file)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run cargo test")?;
    let mut count = Count::default();
    let lines = BufReader::new(child.stdout.take().context("cargo test has no output")?).split(b'\n');
    for line in lines {
        let line = String::from_utf8_lossy(&line.context("cannot read what cargo test prints")?).into_owned();
        println!("{line}");
        count.add(&line);
    }
    let status = child.wait().context("cannot wait for cargo test")?;
    // A test program that died without its last line has at least one failure that nobody counted.
    if !status.success() && count.failed == 0 {
        count.failed = 1;
    }
    Ok(count)
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
    skipped: u64,
    /// The tests that failed, by their full names.
    names: Vec<String>,
}

impl Count {
    /// Adds up libtest's `test result:` lines, and keeps who failed.
    fn add(&mut self, line: &str) {
        let failed = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED"));
        self.names.extend(failed.filter(|name| !name.contains(' ')).map(str::to_owned));
        let Some((_, counts)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")) else {
            return;
        };
        for part in counts.split(';') {
            let mut words = part.split_whitespace();
            let (Some(Ok(number)), Some(what)) = (words.next().map(str::parse::<u64>), words.next()) else { continue };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.skipped += number,
                _ => {}
            }
        }
    }

    /// Takes those that failed and passed `again` for passed; names them.
    fn after_second_try(&mut self, again: &Self) -> Vec<String> {
        // Each of them has to have been found: one that did not run has not passed.
        if again.passed + again.failed < self.failed {
            return Vec::new();
        }
        let (failed, passed) = std::mem::take(&mut self.names).into_iter().partition(|name| again.names.contains(name));
        let passed: Vec<String> = passed;
        self.names = failed;
        self.failed = self.failed.saturating_sub(passed.len() as u64);
        self.passed += passed.len() as u64;
        passed
    }

    /// A skipped test has returned early, so that libtest took it for passed. `skipped` has a line
    /// `name TAB reason` for each.
    fn move_skipped(&mut self, skipped: &str) {
        let lines: Vec<&str> = skipped.lines().filter(|line| !line.is_empty()).collect();
        if !lines.is_empty() {
            println!("\nskipped:");
        }
        for line in &lines {
            println!("  {}", line.replacen('\t', ": ", 1));
        }
        self.passed = self.passed.saturating_sub(lines.len() as u64);
        self.skipped += lines.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_all_targets_add_up_and_skips_are_not_passes() {
        let mut count = Count::default();
        count.add("test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 9 filtered out; finished in 0.10s");
        count.add("test tests::x ... ok");
        count.add("test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s");
        count.move_skipped("a\tno kernel\nb\tno docker: really\n");
        assert_eq!(count, Count { passed: 5, failed: 3, skipped: 3, names: Vec::new() });
    }

    #[test]
    fn what_passes_at_the_second_try_is_told_apart_and_what_fails_again_stays_failed() {
        let mut count = Count::default();
        count.add("test a::late ... FAILED");
        count.add("test b::broken ... FAILED");
        count.add("test result: FAILED. 2 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s");
        let mut again = Count::default();
        again.add("test b::broken ... FAILED");
        let ran_one = Count { failed: 1, ..Count::default() };
        assert_eq!(
            count.after_second_try(&ran_one),
            Vec::<String>::new(),
            "a test that did not run again has not passed"
        );
        again.add("test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 9 filtered out; finished in 0.10s");
        assert_eq!(count.after_second_try(&again), ["a::late"]);
        assert_eq!((count.passed, count.failed), (3, 1));
        assert_eq!(count.names, ["b::broken"]);
    }

    #[test]
    fn a_harmed_innocent_is_found_in_the_results() {
        let results = r#"{"results": [
            {"property": "left_alone", "twin": true, "outcome": "FAILED"},
            {"property": "left_alone_too", "twin": true, "outcome": "ok"},
            {"property": "stopped", "twin": false, "outcome": "FAILED"}]}"#;
        assert_eq!(harmed_in(results), ["left_alone"]);
        assert!(harmed_in("no JSON").is_empty());
    }
}
