//! `cargo xtask ebpf`: builds the kernel programs into `target/ebpf/lazaret-ebpf.o`, where agent/build.rs finds them.
//!
//! Two compilers can do it: Debian's, which comes with a core library for BPF, and rustup's nightly with
//! rust-src. Invariant: the object is replaced only when it differs, so that nothing is built again for nothing.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::sh;

const TARGET: &str = "bpfel-unknown-none";
/// The loader needs BTF for the maps and for reading kernel structs; panics have nowhere to go. LLVM expands no copy and
/// no clearing of memory "in order", but calls functions that go byte by byte, which the verifier then follows.
const FLAGS: &str = "-C debuginfo=2 -C link-arg=--btf -C link-arg=--disable-expand-memcpy-in-order -C panic=abort";
const DEBIAN_CORE: &str = "/usr/lib/rustlib/bpfel-unknown-none";

pub fn build(root: &Path) -> Result<()> {
    let dir = root.join("ebpf");
    let target_dir = root.join("target/ebpf/build");
    let linker = sh::find("bpf-linker").context("cannot link the kernel programs: there is no bpf-linker in PATH")?;
    let mut cargo = compiler()?;
    cargo
        .current_dir(&dir)
        .args(["build", "--quiet", "--release", "--locked", "--target", TARGET, "--target-dir"])
        .arg(&target_dir)
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker)
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_RUSTFLAGS", FLAGS)
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    sh::run(&mut cargo).context("cannot build the kernel programs")?;
    install(&target_dir.join(TARGET).join("release/lazaret-ebpf"), &root.join("target/ebpf/lazaret-ebpf.o"))
}

/// Cargo with a compiler that has a core library for BPF.
fn compiler() -> Result<Command> {
    if Path::new("/usr/bin/cargo").exists() && Path::new(DEBIAN_CORE).exists() {
        let mut cargo = Command::new("/usr/bin/cargo");
        // By absolute path: rustup's compiler shadows Debian's in PATH.
        cargo.env("RUSTC", "/usr/bin/rustc").env("PATH", "/usr/bin:/bin").env("RUSTC_BOOTSTRAP", "aya_ebpf");
        for name in ["RUSTUP_TOOLCHAIN", "RUSTC_WRAPPER", "RUSTDOC"] {
            cargo.env_remove(name);
        }
        return Ok(cargo);
    }
    let rust_src =
        sh::capture(Command::new("rustup").args(["component", "list", "--installed", "--toolchain", "nightly"]));
    if rust_src.is_ok_and(|components| components.contains("rust-src")) {
        let mut cargo = Command::new("rustup");
        cargo.args(["run", "nightly", "cargo", "-Z", "build-std=core"]);
        return Ok(cargo);
    }
    bail!(
        "cannot build the kernel programs: no compiler with a core library for BPF. Either `apt-get install rustc-web \
         cargo-web libstd-rust-web-dev-bpf` (Debian 12), or `rustup toolchain install nightly --component rust-src`"
    )
}

fn install(built: &Path, object: &Path) -> Result<()> {
    let new = std::fs::read(built).with_context(|| format!("cannot read {}", built.display()))?;
    if std::fs::read(object).is_ok_and(|old| old == new) {
        return Ok(());
    }
    std::fs::create_dir_all(object.parent().context("the object has no directory")?)?;
    // Whoever builds the agent meanwhile reads the old object or the new one, never half of it.
    let beside = object.with_extension("o.new");
    std::fs::write(&beside, new).with_context(|| format!("cannot write {}", beside.display()))?;
    std::fs::rename(&beside, object).with_context(|| format!("cannot replace {}", object.display()))
}
