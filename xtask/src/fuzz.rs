//! `cargo xtask fuzz`: the targets of `fuzz/` under libFuzzer, built by the compiler that builds everything else.
//!
//! A target starts from its seeds (`fuzz/seeds/TARGET`, in the repository) and from what former runs found
//! (`fuzz/corpus/TARGET`, not in it). Invariant: a run that ended early without a finding is not called done.

mod report;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{needs, sh};
use report::{Outcome, Report};

pub const HELP: &str = "\
Usage: cargo xtask fuzz [TARGET...] [--seconds N] [--jobs N]
       cargo xtask fuzz TARGET --input FILE
       cargo xtask fuzz TARGET... --minimise

Builds the targets (all of them where none is named) with coverage and runs each for N seconds (60), so many at a
time (1), from fuzz/seeds/TARGET and fuzz/corpus/TARGET. Needs Debian's libFuzzer and no other toolchain. On stdout one line
per target: runs, runs per second, edges reached of those that there are, inputs kept, result. The exit code is 1 if any
input broke a target; its path and how to run it again are told then.

  cargo xtask fuzz                              each target for a minute
  cargo xtask fuzz envelope json --seconds 600  two of them for ten minutes each
  cargo xtask fuzz sql --input fuzz/artifacts/sql/crash-0123  one input again, with its backtrace
  cargo xtask fuzz sql --minimise               keep only inputs in fuzz/corpus that reach something new
";

/// Coverage as libFuzzer reads it, as far as a stable compiler knows it.
const FLAGS: [&str; 7] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cforce-frame-pointers=yes",
];
/// What gets the flags: our own code. So a run needs none of the dependencies built once more.
const WITH_COVERAGE: [&str; 3] = ["lazaret", "lazaret_common", "fuzz"];
/// Set for the compiler's calls: this program stands between cargo and the compiler then.
const WRAPS: &str = "LAZARET_XTASK_WRAPS_RUSTC";
/// One input may take as long; a parser that needs seconds for some kilobytes is a finding.
const TIMEOUT: u32 = 10;
const MEMORY_MIB: u32 = 2048;

/// What was asked for.
pub struct Plan<'a> {
    pub targets: &'a [String],
    pub seconds: u32,
    pub jobs: usize,
    pub input: Option<&'a Path>,
    pub minimise: bool,
    /// Installs what is missing without asking.
    pub yes: bool,
}

pub fn fuzz(root: &Path, plan: &Plan) -> Result<ExitCode> {
    let dir = root.join("fuzz");
    let all = targets(&dir)?;
    let unknown: Vec<&str> = plan.targets.iter().filter(|name| !all.contains(name)).map(String::as_str).collect();
    ensure!(unknown.is_empty(), "there is no fuzz target {}; there are: {}", unknown.join(", "), all.join(", "));
    let chosen = if plan.targets.is_empty() { all } else { plan.targets.to_vec() };
    needs::install(&needs::for_fuzzing(), plan.yes)?;
    if let Some(input) = plan.input {
        let [target] = chosen.as_slice() else { bail!("--input is for one target: name it before\n\n{HELP}") };
        ensure!(input.is_file(), "there is no input {}", input.display());
        let status = command(&build(root)?, target).arg(input).status().context("cannot run the target")?;
        return Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let program = build(root)?;
    if plan.minimise {
        chosen.iter().try_for_each(|target| minimise(&dir, &program, target))?;
        return Ok(ExitCode::SUCCESS);
    }
    let seconds = u64::from(plan.seconds) * chosen.len() as u64 / plan.jobs as u64;
    eprintln!("{} targets, {} s each: about {} min", chosen.len(), plan.seconds, seconds.div_ceil(60));
    println!("{}", Report::HEAD);
    let waiting = Mutex::new(chosen.into_iter().collect::<VecDeque<_>>());
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let work = || -> Result<Vec<Report>> {
        let mut done = Vec::new();
        while let Some(target) = next() {
            let report = run(&dir, &program, &target, plan.seconds)?;
            println!("{report}");
            done.push(report);
        }
        Ok(done)
    };
    let reports = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..plan.jobs).map(|_| scope.spawn(work)).collect();
        let results = workers.into_iter().map(|worker| worker.join().unwrap_or_else(|e| std::panic::resume_unwind(e)));
        results.collect::<Result<Vec<_>>>()
    })?;
    let broken: Vec<Report> = reports.into_iter().flatten().filter(|report| report.outcome != Outcome::Done).collect();
    for report in &broken {
        println!("\n{}", report.finding(root));
    }
    Ok(if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Every target, by name.
fn targets(dir: &Path) -> Result<Vec<String>> {
    let dir = dir.join("fuzz_targets");
    let files = std::fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let paths = files.map(|file| file.map(|file| file.path())).collect::<Result<Vec<_>, _>>()?;
    let sources = paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let stems = sources.filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned()));
    let mut names: Vec<String> = stems.filter(|name| name != "mod").collect();
    names.sort();
    Ok(names)
}

/// Builds the one program that holds all targets.
fn build(root: &Path) -> Result<PathBuf> {
    eprintln!("building with coverage (the first time takes minutes)");
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    // Dependencies keep their profile; ours are optimised here, and checked as in a debug build.
    sh::run(
        sh::cargo()
            .current_dir(root)
            .args(["build", "--package", "lazaret-fuzz", "--features", "libfuzzer"])
            .env("RUSTC_WORKSPACE_WRAPPER", own)
            .env(WRAPS, "1")
            .env("CARGO_INCREMENTAL", "0")
            .env("CARGO_PROFILE_DEV_OPT_LEVEL", "2"),
    )?;
    Ok(root.join("target/debug/fuzz"))
}

/// Where cargo called this program in place of the compiler: the compiler, with coverage for our own code.
pub fn wrapped() -> Option<ExitCode> {
    std::env::var_os(WRAPS)?;
    let mut words = std::env::args_os().skip(1);
    let mut compiler = Command::new(words.next()?);
    let words: Vec<OsString> = words.collect();
    let name = words.iter().position(|word| word == "--crate-name").and_then(|at| words.get(at + 1));
    let ours = name.is_some_and(|name| WITH_COVERAGE.iter().any(|own| name == own));
    compiler.args(&words).args(FLAGS.iter().filter(|_| ours));
    if name.is_some_and(|name| name == "fuzz") {
        compiler.arg(format!("-Clink-arg={}", needs::LIBFUZZER)).arg("-Clink-arg=-l:libstdc++.so.6");
    }
    let failed = std::os::unix::process::CommandExt::exec(&mut compiler);
    eprintln!("xtask: cannot run the compiler: {failed}");
    Some(ExitCode::FAILURE)
}

fn command(program: &Path, target: &str) -> Command {
    let mut command = Command::new(program);
    command.env("LAZARET_FUZZ_TARGET", target);
    command.arg(format!("-timeout={TIMEOUT}")).arg(format!("-rss_limit_mb={MEMORY_MIB}"));
    command.stdin(Stdio::null());
    command
}

/// The directories of a target's inputs: what is found goes into the first.
fn inputs(dir: &Path, target: &str) -> Result<Vec<PathBuf>> {
    let corpus = dir.join("corpus").join(target);
    std::fs::create_dir_all(&corpus).with_context(|| format!("cannot make {}", corpus.display()))?;
    let seeds = dir.join("seeds").join(target);
    Ok(std::iter::once(corpus).chain(seeds.is_dir().then_some(seeds)).collect())
}

fn run(dir: &Path, program: &Path, target: &str, seconds: u32) -> Result<Report> {
    let artifacts = dir.join("artifacts").join(target);
    std::fs::create_dir_all(&artifacts).with_context(|| format!("cannot make {}", artifacts.display()))?;
    let mut prefix = OsString::from("-artifact_prefix=");
    prefix.push(&artifacts);
    prefix.push("/");
    let mut child = command(program, target)
        .arg(format!("-max_total_time={seconds}"))
        .args(["-print_final_stats=1", "-max_len=16384"])
        .arg(prefix)
        .args(inputs(dir, target)?)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run the fuzz target {target}"))?;
    let mut report = Report::new(target);
    for line in BufReader::new(child.stderr.take().context("a target has no output")?).split(b'\n') {
        let line = line.with_context(|| format!("cannot read what {target} says"))?;
        report.add(&String::from_utf8_lossy(&line));
    }
    report.end(child.wait().with_context(|| format!("cannot wait for {target}"))?.success());
    Ok(report)
}

/// Keeps of the corpus what reaches something that nothing before it, seeds included, reaches.
fn minimise(dir: &Path, program: &Path, target: &str) -> Result<()> {
    let corpus = dir.join("corpus").join(target);
    let fresh = dir.join("corpus").join(format!("{target}.new"));
    let before = inputs(dir, target)?;
    std::fs::create_dir_all(&fresh).with_context(|| format!("cannot make {}", fresh.display()))?;
    sh::capture(command(program, target).arg("-merge=1").arg(&fresh).args(&before))?;
    let count = |dir: &Path| std::fs::read_dir(dir).map(Iterator::count).unwrap_or_default();
    println!("{target}: {} of {} inputs stay", count(&fresh), count(&corpus));
    std::fs::remove_dir_all(&corpus).with_context(|| format!("cannot remove {}", corpus.display()))?;
    std::fs::rename(&fresh, &corpus).with_context(|| format!("cannot put {} in its place", fresh.display()))
}
