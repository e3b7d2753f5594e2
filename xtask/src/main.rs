//! `cargo xtask`: everything about this repository that is not `cargo build`.
//!
//! One file per step; a verb is a row of steps. Every step looks first at what is there, so that a second
//! run does nothing twice, and says on stderr what it is about to do.

mod bench;
mod docker;
mod ebpf;
mod fuzz;
mod guest_disk;
mod images;
mod needs;
mod qemu;
mod run;
mod sh;
mod test;
mod tools;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

const USAGE: &str = "\
Usage: cargo xtask VERB

  run [--yes] [-- DAEMON FLAGS]   install what is missing, build, and run the daemon in observe mode
  test [--yes] [--quick] [FILTER] every test there is, one final count; --quick leaves out clippy
  bench [--yes]                   what the door costs, in figures, from a release build
  bench kernel [6.1|6.12] [--storm N] [--json]
                                  what the kernel programs cost, in instructions, beside their budgets, and a storm
                                  of N execs (100000) in which no verdict may be wrong; takes half an hour
  fuzz [TARGET...] [--seconds N] [--jobs N]
                                  run the fuzz targets, each for N seconds (60); `fuzz --help` says more
  setup [--yes]                   only install and build what run and test need
  ebpf                            build the eBPF object
  images                          make the base image in Docker
  qemu-kernels                    fetch the kernels of the test matrix, and make the disk of the guest with systemd
  qemu VERSION [lsm|no-lsm] [SCENARIO...]
                                  boot one kernel of the matrix and run the guest's scenarios;
                                  `docker` boots the guest that has Docker
  qemu host [SCENARIO...]         the same scenarios on this machine's own kernel, in a cgroup of their own
  evasions                        write docs/EVASIONS.md, which kernel stops what, from the results that the
                                  kernel tests left when they last ran

--yes asks no questions; without a terminal none are asked either.
";

/// What was typed after `cargo xtask`.
struct Args {
    verb: String,
    yes: bool,
    quick: bool,
    json: bool,
    /// Execs in the storm of `bench kernel`.
    storm: u32,
    /// How long each fuzz target runs.
    seconds: u32,
    /// Fuzz targets at a time.
    jobs: usize,
    input: Option<PathBuf>,
    minimise: bool,
    help: bool,
    words: Vec<String>,
    /// What stands behind `--`.
    rest: Vec<String>,
}

impl Args {
    fn parse(mut typed: impl Iterator<Item = String>) -> Result<Self> {
        let verb = typed.next().unwrap_or_else(|| "help".into());
        let mut args = Args {
            verb,
            yes: false,
            quick: false,
            json: false,
            storm: 100_000,
            seconds: 60,
            jobs: 1,
            input: None,
            minimise: false,
            help: false,
            words: Vec::new(),
            rest: Vec::new(),
        };
        while let Some(word) = typed.next() {
            match word.as_str() {
                "--yes" | "-y" => args.yes = true,
                "--quick" => args.quick = true,
                "--json" => args.json = true,
                "--storm" => {
                    let count = typed.next().context("--storm needs a number of execs")?;
                    args.storm = count.parse().with_context(|| format!("{count:?} is no number of execs"))?;
                }
                "--seconds" | "--jobs" => {
                    let count = typed.next().with_context(|| format!("{word} needs a number"))?;
                    let number = count.parse::<u32>().ok().filter(|number| *number > 0);
                    let number = number.with_context(|| format!("{count:?} is no number for {word}"))?;
                    match word.as_str() {
                        "--seconds" => args.seconds = number,
                        _ => args.jobs = number as usize,
                    }
                }
                "--input" => args.input = Some(typed.next().context("--input needs a file")?.into()),
                "--minimise" => args.minimise = true,
                "--help" | "-h" => args.help = true,
                "--" => args.rest.extend(typed.by_ref()),
                flag if flag.starts_with('-') => bail!("`cargo xtask {}` knows no flag {flag}\n\n{USAGE}", args.verb),
                _ => args.words.push(word),
            }
        }
        Ok(args)
    }
}

fn main() -> ExitCode {
    if let Some(code) = fuzz::wrapped() {
        return code;
    }
    match Args::parse(std::env::args().skip(1)).and_then(|args| dispatch(&args)) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("xtask: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(args: &Args) -> Result<ExitCode> {
    if args.help {
        print!("{}", if args.verb == "fuzz" { fuzz::HELP } else { USAGE });
        return Ok(ExitCode::SUCCESS);
    }
    let root = root()?;
    match args.verb.as_str() {
        "fuzz" => {
            let input = args.input.as_deref();
            let Args { words: targets, seconds, jobs, minimise, yes, .. } = args;
            let (jobs, minimise, yes) = (*jobs, *minimise, *yes);
            let plan = fuzz::Plan { targets, seconds: *seconds, jobs, input, minimise, yes };
            return fuzz::fuzz(&root, &plan);
        }
        "run" => return run::run(&root, args.yes, &args.rest),
        "test" => return test::test(&root, args.yes, args.quick, args.words.first().map(String::as_str)),
        "bench" => match args.words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            [] => bench::bench(&root, args.yes)?,
            ["kernel"] => bench::kernel(&root, "6.12", args.storm, args.json)?,
            ["kernel", version] => bench::kernel(&root, version, args.storm, args.json)?,
            _ => bail!("`cargo xtask bench` knows `kernel` and a version, not {:?}\n\n{USAGE}", args.words),
        },
        "setup" => {
            let _docker = test::set_up(&root, args.yes)?;
        }
        "ebpf" => {
            needs::install(&needs::for_building(), args.yes)?;
            ebpf::build(&root)?;
        }
        "images" => {
            needs::install(&needs::for_running(), args.yes)?;
            let docker = docker::find_or_start(&root)?;
            images::base_image(&root, docker.socket())?;
        }
        "qemu-kernels" => {
            let kernels = qemu::kernels(&root)?;
            for kernel in &kernels {
                println!("{}\t{}", kernel.version, kernel.vmlinuz.display());
            }
            guest_disk::make(&root, &kernels)?;
        }
        "qemu" => {
            let (version, rest) = args.words.split_first().context("name a kernel: cargo xtask qemu 6.1|6.12")?;
            let (bpf_listed, scenarios) = match rest.first().map(String::as_str) {
                _ if version == "host" => (false, rest),
                Some("lsm") => (true, &rest[1..]),
                Some("no-lsm") => (false, &rest[1..]),
                _ => (true, rest),
            };
            qemu::boot(&root, version, bpf_listed, scenarios)?;
        }
        "evasions" => qemu::evasions(&root)?,
        "help" | "--help" | "-h" => print!("{USAGE}"),
        other => bail!("there is no verb {other}\n\n{USAGE}"),
    }
    Ok(ExitCode::SUCCESS)
}

/// The checkout: where this crate was built from.
fn root() -> Result<PathBuf> {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_dir.parent().map(Path::to_path_buf).context("xtask was built outside of a checkout")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Args> {
        Args::parse(words.iter().map(|word| (*word).to_owned()))
    }

    #[test]
    fn what_stands_behind_the_dashes_goes_to_the_daemon() {
        let args = parse(&["run", "--yes", "--", "--mode", "hold"]).expect("these are good flags");
        assert!(args.yes);
        assert_eq!(args.rest, ["--mode", "hold"]);
    }

    #[test]
    fn a_storm_has_a_size_that_can_be_chosen() {
        let args = parse(&["bench", "kernel", "6.1", "--storm", "500", "--json"]).expect("these are good flags");
        assert!(args.json && args.storm == 500 && args.words == ["kernel", "6.1"]);
        assert_eq!(parse(&["bench", "kernel"]).expect("it stands alone").storm, 100_000);
    }

    #[test]
    fn a_fuzz_run_has_a_length_and_a_width() {
        let args = parse(&["fuzz", "json", "sse", "--seconds", "5", "--jobs", "2"]).expect("these are good flags");
        assert_eq!((args.seconds, args.jobs, args.words.len()), (5, 2, 2));
        assert!(parse(&["fuzz", "--jobs", "0"]).is_err());
        assert!(parse(&["fuzz", "--help"]).expect("this is a good flag").help);
    }

    #[test]
    fn an_unknown_flag_is_refused() {
        assert!(parse(&["test", "--fast"]).is_err());
        assert!(parse(&["bench", "kernel", "--storm", "many"]).is_err());
    }
}
