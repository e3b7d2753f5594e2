//! What the kernel tests are made of: properties, the machines that they are asserted on, and what became of them.
//!
//! Invariant: a property is judged in one place ([`judge`]), for the test that asserts it and for the table in the
//! docs alike. What a backend cannot do by design stands in [`crate::bed_gaps`], and a gap that has closed fails.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::qemu::{BedError, Boot, Machine, Outcome};
use crate::{bed_gaps, qemu, skip};

/// One thing that must hold: a check of the guest (`src/guest/`) of the same name.
#[derive(Debug, Clone, Copy)]
pub struct Property {
    pub name: &'static str,
    /// Numbers of [`crate::bed_table::EVASIONS`] that it shows to be caught.
    pub evasions: &'static [u8],
    /// It shows that the benign twins of these evasions are left alone, instead.
    pub twin: bool,
}

/// What became of a property on a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Holds,
    /// The backend cannot do it, by design.
    Gap(&'static str),
    Broken(String),
    NotRun(String),
}

pub fn judge(machine: Machine, boot: &Boot, property: &str) -> Verdict {
    let outcome = boot.results.iter().find(|(reported, _)| reported == property).map(|(_, outcome)| outcome);
    let gap = bed_gaps::of(&boot.backend, property);
    match (outcome, gap) {
        (Some(Outcome::Ok), None) => Verdict::Holds,
        (Some(Outcome::Ok), Some(reason)) if bed_gaps::is_a_race(property) => Verdict::Gap(reason),
        (Some(Outcome::Ok), Some(_)) => Verdict::Broken(format!(
            "the known gap of the backend {} has closed: take {property} out of tests/src/bed_gaps.rs",
            boot.backend
        )),
        (Some(Outcome::Failed(_)), Some(reason)) => Verdict::Gap(reason),
        (Some(Outcome::Failed(why)), None) => Verdict::Broken(why.clone()),
        (Some(Outcome::Skipped(why)), _) => Verdict::NotRun(why.clone()),
        (None, _) => match bed_gaps::not_on_a_host(property) {
            Some(reason) if machine == Machine::HOST => Verdict::NotRun(reason.into()),
            // Its session never came so far: the guest has said why under another name.
            _ => Verdict::Broken(format!(
                "the guest never came to it; what failed there: {:?}",
                boot.results.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Failed(_))).collect::<Vec<_>>()
            )),
        },
    }
}

/// libtest names a test's thread after it.
fn test_name() -> String {
    std::thread::current().name().unwrap_or("a kernel test").to_owned()
}

/// `None`, and a counted skip, where this host cannot boot the machine.
pub fn boot_or_skip(boot: &'static Result<Boot, BedError>) -> Option<&'static Boot> {
    match boot {
        Ok(boot) => Some(boot),
        Err(BedError::Missing(why)) => {
            skip(&test_name(), why);
            None
        }
        Err(BedError::Broken(why)) => panic!("{why}"),
    }
}

/// Panics if `property` does not hold on the machine; where it is a known gap or was not run, that is a counted skip.
pub fn assert_holds(machine: Machine, boot: &'static Result<Boot, BedError>, property: &str) {
    let Some(boot) = boot_or_skip(boot) else { return };
    match judge(machine, boot, property) {
        Verdict::Holds => {}
        Verdict::Gap(reason) => skip(&test_name(), &format!("known gap of the backend {}: {reason}", boot.backend)),
        Verdict::NotRun(why) => skip(&test_name(), &why),
        Verdict::Broken(why) => panic!("{why}\nlog: {}", boot.log.display()),
    }
}

/// What a guest reports and nobody asserts would pass or fail in silence.
pub fn assert_nothing_else(boot: &'static Result<Boot, BedError>, properties: &[Property]) {
    let Some(boot) = boot_or_skip(boot) else { return };
    let known = |name: &str| properties.iter().any(|property| property.name == name);
    let unknown: Vec<_> = boot.results.iter().filter(|(name, _)| !known(name)).collect();
    assert!(unknown.is_empty(), "reported and not asserted: {unknown:?}\nlog: {}", boot.log.display());
}

/// Where the results of the last runs are kept, one file per test program and machine.
pub fn results_dir() -> PathBuf {
    qemu::work_dir().join("results")
}

/// Keeps what became of every property, for `cargo xtask evasions`.
pub fn record(test: &str, machine: Machine, boot: &Boot, properties: &[Property]) -> Result<(), BedError> {
    let rows: Vec<Value> = properties
        .iter()
        .map(|property| {
            let (outcome, why) = match judge(machine, boot, property.name) {
                Verdict::Holds => ("ok", String::new()),
                Verdict::Gap(reason) => ("gap", reason.into()),
                Verdict::Broken(why) => ("FAILED", why),
                Verdict::NotRun(why) => ("not run", why),
            };
            json!({"property": property.name, "evasions": property.evasions, "twin": property.twin,
                "outcome": outcome, "why": why})
        })
        .collect();
    let results = json!({"machine": machine.label(), "kernel": boot.kernel, "backend": boot.backend, "results": rows});
    let path = results_dir().join(format!("{test}-{}.json", machine.label()));
    qemu::replace(&path, |new| std::fs::write(new, format!("{results:#}\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(backend: &str, results: &[(&str, Outcome)]) -> Boot {
        let results = results.iter().map(|(name, outcome)| ((*name).to_owned(), outcome.clone())).collect();
        Boot { kernel: "6.18".into(), backend: backend.into(), results, figures: Vec::new(), log: PathBuf::new() }
    }

    #[test]
    fn a_failure_is_a_gap_only_where_the_backend_is_known_to_have_it_and_a_closed_gap_is_a_failure() {
        let Some((backend, name, reason)) = bed_gaps::all().next() else { return };
        let failed = boot(backend, &[(name, Outcome::Failed("it ran".into())), ("other", Outcome::Failed("x".into()))]);
        assert_eq!(judge(Machine::HOST, &failed, name), Verdict::Gap(reason));
        assert_eq!(judge(Machine::HOST, &failed, "other"), Verdict::Broken("x".into()));
        let closed = boot(backend, &[(name, Outcome::Ok)]);
        assert!(matches!(judge(Machine::HOST, &closed, name), Verdict::Broken(_)));
        let elsewhere = boot("lsm", &[(name, Outcome::Failed("it ran".into()))]);
        assert!(matches!(judge(Machine::HOST, &elsewhere, name), Verdict::Broken(_)));
    }

    #[test]
    fn what_was_never_reported_does_not_pass() {
        let guest = Machine { kernel: "6.12", bpf_listed: true, docker: false };
        assert!(matches!(judge(guest, &boot("lsm", &[]), "anything"), Verdict::Broken(_)));
        assert!(matches!(judge(Machine::HOST, &boot("lsm", &[]), "anything"), Verdict::Broken(_)));
    }
}
