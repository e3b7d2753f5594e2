//! `cargo xtask bench`: figures for the budgets. The door's come from a release build (`tests/bench`), the kernel
//! programs' from a guest that counts instructions (`lazaret_tests::bed_cost`).

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::{docker, ebpf, images, needs, qemu, sh, tools};

pub fn bench(root: &Path, yes: bool) -> Result<()> {
    needs::install(&needs::for_testing(), yes)?;
    ebpf::build(root)?;
    tools::install(root)?;
    let docker = docker::find_or_start(root)?;
    images::base_image(root, docker.socket())?;
    eprintln!("building for release (the first time takes many minutes)");
    sh::run(sh::cargo().current_dir(root).args(["build", "--release", "--package", "lazaret"]))?;
    for (package, bench) in
        [("lazaret", "identity"), ("lazaret", "policy"), ("lazaret-tests", "door"), ("lazaret-tests", "life")]
    {
        sh::run(sh::cargo().current_dir(root).args(["bench", "--package", package, "--bench", bench]))?;
    }
    Ok(())
}

/// Measures on one kernel of the test matrix. The figures go to stdout, how far it is to stderr.
pub fn kernel(root: &Path, version: &str, storm: u32, json: bool) -> Result<()> {
    ensure!(
        qemu::kernels(root)?.iter().any(|kernel| kernel.version == version),
        "there is no kernel {version} in the test matrix; name 6.1 or 6.12"
    );
    ebpf::build(root)?;
    sh::run(sh::cargo().current_dir(root).args(["build", "--package", "lazaret", "--package", "lazaret-tests"]))?;
    let mut measure = qemu::tests_program(root, "kernel-cost");
    measure.args([version, &storm.to_string()]).args(json.then_some("--json"));
    let status = measure.status().context("cannot run the measurement with cargo")?;
    ensure!(status.success(), "the kernel programs were not measured; the reason stands above");
    Ok(())
}
