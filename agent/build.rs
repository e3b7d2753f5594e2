//! Puts the kernel programs into the binary. `cargo xtask ebpf` builds them: they need another compiler.

use std::path::{Path, PathBuf};

fn main() {
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
