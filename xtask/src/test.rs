//! `cargo xtask test`: every test of the repository and one count at the end.
//!
//! Invariant: nothing drops out of the count silently. A test that cannot run here says why in the file that
//! `LAZARET_SKIP_FILE` names, and is counted as skipped, not as passed.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{ExitCode, Stdio};

use anyhow::{Context as _, Result};

use crate::docker::Docker;
use crate::{docker, ebpf, images, needs, qemu, sh, tools};

/// Everything that `test` needs; a Docker that had to be started ends with the handle.
pub fn set_up(root: &Path, yes: bool) -> Result<Docker> {
    needs::install(&needs::for_testing(), yes)?;
    ebpf::build(root)?;
    tools::install(root)?;
    if let Err(e) = qemu::kernels(root) {
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
    let mut count = cargo_test(root, filter, &skip_file)?;
    let skipped =
        std::fs::read_to_string(&skip_file).with_context(|| format!("cannot read {}", skip_file.display()))?;
    count.move_skipped(&skipped);
    println!("\n{} passed, {} failed, {} skipped", count.passed, count.failed, count.skipped);
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

fn cargo_test(root: &Path, filter: Option<&str>, skip_file: &Path) -> Result<Count> {
    let mut child = sh::cargo()
        .current_dir(root)
        .args(["test", "--workspace", "--no-fail-fast"])
        .args(filter)
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
}

impl Count {
    /// Adds up libtest's `test result:` lines.
    fn add(&mut self, line: &str) {
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
        assert_eq!(count, Count { passed: 5, failed: 3, skipped: 3 });
    }
}
