//! Puts the kernel programs into the binary, which `cargo xtask ebpf` builds: they need another compiler.
//! And the first program of a cage, which is built here: it must be static.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    cage_init();
    println!("cargo::rerun-if-env-changed=LAZARET_EBPF_OBJECT");
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/ebpf/lazaret-ebpf.o");
    let object = std::env::var_os("LAZARET_EBPF_OBJECT").map_or(built, PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());
    let bytes = match std::fs::read(&object) {
        Ok(bytes) => bytes,
        Err(e) => {
            println!(
                "cargo::warning=no kernel programs at {} ({e}): this lazaret will guard nothing; run `cargo xtask ebpf` and build again",
                object.display()
            );
            Vec::new()
        }
    };
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("lazaret-ebpf.o");
    std::fs::write(&out, bytes).expect("OUT_DIR can be written");
}

fn cage_init() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("cage-init.rs");
    println!("cargo::rerun-if-changed={}", source.display());
    let variable = |name| std::env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name}"));
    let out = PathBuf::from(variable("OUT_DIR")).join("cage-init");
    let built = Command::new(variable("RUSTC"))
        .args(["--edition", "2024", "--crate-name", "cage_init", "-C", "target-feature=+crt-static"])
        .args(["-C", "opt-level=s", "-C", "panic=abort", "-C", "strip=symbols", "-C", "codegen-units=1"])
        .arg("--target")
        .arg(variable("TARGET"))
        .arg("-o")
        .args([&out, &source])
        .output();
    let why = match built {
        Ok(output) if output.status.success() => return,
        Ok(output) => String::from_utf8_lossy(&output.stderr).replace('\n', " "),
        Err(e) => e.to_string(),
    };
    println!(
        "cargo::warning=cage-init cannot be linked statically ({why}): no server that has environment or egress will start; install the C library's static archive (Debian's libc6-dev) and build again"
    );
    std::fs::write(&out, []).expect("OUT_DIR can be written");
}
