//! `cargo xtask bench`: figures for the budgets, from a release build. The benchmarks are in `tests/bench`.

use std::path::Path;

use anyhow::Result;

use crate::{docker, ebpf, images, needs, sh, tools};

pub fn bench(root: &Path, yes: bool) -> Result<()> {
    needs::install(&needs::for_testing(), yes)?;
    ebpf::build(root)?;
    tools::install(root)?;
    let docker = docker::find_or_start(root)?;
    images::base_image(root, docker.socket())?;
    eprintln!("building for release (the first time takes many minutes)");
    sh::run(sh::cargo().current_dir(root).args(["build", "--release", "--package", "lazaret"]))?;
    sh::run(sh::cargo().current_dir(root).args(["bench", "--package", "lazaret-tests", "--bench", "door"]))
}
