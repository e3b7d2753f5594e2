//! Measures what the kernel programs cost in a guest: `kernel-cost 6.1|6.12 STORM [--json]`; see `cargo xtask bench`.

use std::process::ExitCode;

use lazaret_tests::bed_cost::Costs;
use lazaret_tests::qemu::{self, BedError, Machine, Outcome};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (kernel, storm, json) = match words.as_slice() {
        ["6.1", storm, rest @ ..] => ("6.1", storm.parse(), rest == ["--json"]),
        ["6.12", storm, rest @ ..] => ("6.12", storm.parse(), rest == ["--json"]),
        _ => {
            eprintln!("usage: kernel-cost 6.1|6.12 STORM [--json]");
            return ExitCode::from(2);
        }
    };
    let machine = Machine { kernel, bpf_listed: true, docker: false };
    let measured = storm.map_err(|e| format!("the size of a storm is a number: {e}")).and_then(|storm| {
        let boot = qemu::initramfs(false)
            .and_then(|initramfs| qemu::measure(machine, &initramfs, storm, |line| eprintln!("{line}")))
            .map_err(|(BedError::Missing(why) | BedError::Broken(why))| why)?;
        let failed = boot.results.iter().find(|(_, outcome)| matches!(outcome, Outcome::Failed(_)));
        match failed {
            Some((name, outcome)) => Err(format!("{name}: {outcome:?}; log: {}", boot.log.display())),
            None => Costs::of(&boot),
        }
    });
    match measured {
        Ok(costs) => {
            if json {
                println!("{:#}", costs.json());
            } else {
                print!("{}", costs.text());
            }
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("cannot measure: {why}");
            ExitCode::FAILURE
        }
    }
}
