//! Boots one kernel of the test matrix and shows what its scenarios report:
//! `qemu-bed 6.1|6.12 lsm|no-lsm [SESSION...] [PART OF A CHECK'S NAME...]`.
//! The session `docker` has a guest of its own.

use std::process::ExitCode;

use lazaret_tests::qemu::{self, BedError, Machine, Outcome};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let kernel = match arguments.first().map(String::as_str) {
        Some("6.1") => "6.1",
        Some("6.12") => "6.12",
        _ => {
            eprintln!("usage: qemu-bed 6.1|6.12 lsm|no-lsm [SESSION...] [PART OF A CHECK'S NAME...]");
            return ExitCode::from(2);
        }
    };
    let only = arguments.get(2..).unwrap_or_default();
    let bpf_listed = arguments.get(1).is_none_or(|lsm| lsm == "lsm");
    let machine = Machine { kernel, bpf_listed, docker: only.iter().any(|word| word == "docker") };
    match qemu::initramfs(machine.docker)
        .and_then(|initramfs| qemu::boot(machine, &initramfs, only, |line| println!("{line}")))
    {
        Ok(boot) => {
            let failed = boot.results.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Failed(_))).count();
            eprintln!(
                "{}: {} checks, {failed} failed; log: {}",
                machine.label(),
                boot.results.len(),
                boot.log.display()
            );
            if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(BedError::Missing(why) | BedError::Broken(why)) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}
