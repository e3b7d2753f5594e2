//! Boots one kernel of the test matrix and shows what its scenarios report:
//! `qemu-bed 6.1|6.12 lsm|no-lsm [SESSION...] [PART OF A CHECK'S NAME...]`, or on this machine's own kernel:
//! `qemu-bed host [SESSION...] [PART OF A CHECK'S NAME...]`.
//! The sessions `docker` and `real` have guests of their own, and so have `service` and `rootless`, which boot systemd.

use std::process::ExitCode;

use lazaret_tests::installed::{self, Session};
use lazaret_tests::qemu::{self, BedError, Machine, Outcome};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let host = arguments.first().is_some_and(|first| first == "host");
    let kernel = match arguments.first().map(String::as_str) {
        Some("6.1") => "6.1",
        Some("6.12") => "6.12",
        Some("host") => "host",
        _ => {
            eprintln!("usage: qemu-bed host|6.1 lsm|6.1 no-lsm|6.12 lsm|6.12 no-lsm [SESSION...] [PART OF A NAME...]");
            return ExitCode::from(2);
        }
    };
    let only = arguments.get(if host { 1 } else { 2 }..).unwrap_or_default();
    let bpf_listed = arguments.get(1).is_none_or(|lsm| lsm == "lsm");
    let docker = only.iter().any(|word| word == "docker");
    let machine = if host { Machine::HOST } else { Machine { kernel, bpf_listed, docker } };
    let echo = |line: &str| println!("{line}");
    let installed = [("service", Session::Service), ("rootless", Session::Rootless)];
    let installed = installed.into_iter().find(|(name, _)| only.iter().any(|word| word == name));
    let booted = if let Some((_, session)) = installed {
        installed::boot(session, echo)
    } else if only.iter().any(|word| word == "real") {
        qemu::boot_on_these_files(machine, echo)
    } else {
        qemu::initramfs(machine.docker).and_then(|initramfs| qemu::boot(machine, &initramfs, only, echo))
    };
    match booted {
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
