//! What this host must have before anything is built or run, and how it gets it: Debian packages through
//! apt, and bpf-linker through cargo.
//!
//! Invariant: nothing is installed that is there already, however it came there; nothing is installed
//! without being named first, with its reason.

use std::io::{BufRead as _, IsTerminal as _};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::sh;

const LLVM: &str = "/usr/lib/llvm-22";
const BPF_LINKER: &str = "0.13.0";

/// A Debian package, how to see that what it brings is there, and what we want it for.
pub struct Need {
    package: &'static str,
    sign: Sign,
    why: &'static str,
}

enum Sign {
    Program(&'static str),
    File(&'static str),
    /// A Python that can make virtual environments.
    Venv,
}

const fn program(package: &'static str, program: &'static str, why: &'static str) -> Need {
    Need { package, sign: Sign::Program(program), why }
}

const fn file(package: &'static str, path: &'static str, why: &'static str) -> Need {
    Need { package, sign: Sign::File(path), why }
}

const BUILDING: [Need; 5] = [
    program("gcc", "cc", "links Rust programs"),
    file("rustc-web", "/usr/bin/rustc", "compiles the kernel side; rustup's compiler has no BPF core library"),
    file("cargo-web", "/usr/bin/cargo", "builds the kernel side"),
    file("libstd-rust-web-dev-bpf", "/usr/lib/rustlib/bpfel-unknown-none", "Rust's core library for BPF"),
    file("llvm-22-dev", "/usr/lib/llvm-22/bin/llvm-config", "bpf-linker is built on it"),
];

/// libFuzzer, with a `main` of its own.
pub const LIBFUZZER: &str = "/usr/lib/llvm-22/lib/clang/22/lib/linux/libclang_rt.fuzzer-x86_64.a";

const FUZZING: [Need; 1] = [file("libclang-rt-22-dev", LIBFUZZER, "runs the fuzz targets")];

const RUNNING: [Need; 4] = [
    program("docker.io", "dockerd", "approved servers run in its containers"),
    program("docker-cli", "docker", "makes the base image"),
    program("iptables", "iptables", "dockerd does not start without it"),
    program("debootstrap", "debootstrap", "makes the base image from Debian packages"),
];

const TESTING: [Need; 12] = [
    program("qemu-system-x86", "qemu-system-x86_64", "boots the kernels of the test matrix"),
    file("busybox-static", "/bin/busybox", "user space of those kernels"),
    program("cpio", "cpio", "packs it"),
    program("xz-utils", "xz", "unpacks their modules"),
    program("e2fsprogs", "mke2fs", "packs the root of the guest that boots systemd"),
    program("openssl", "openssl", "verifies what the log keeps of a call, by itself"),
    program("openssh-client", "ssh-keygen", "signs and verifies vouches, to compare with"),
    program("softhsm2", "softhsm2-util", "a token to keep an agent's key in"),
    program("opensc", "pkcs11-tool", "makes a key in it"),
    program("nodejs", "node", "runs npm servers bare, to compare with"),
    program("npm", "npm", "fetches them, and Claude Code's CLI"),
    Need { package: "python3-venv", sign: Sign::Venv, why: "Python MCP SDK and servers, to compare with" },
];

pub fn for_building() -> Vec<&'static Need> {
    BUILDING.iter().collect()
}

pub fn for_running() -> Vec<&'static Need> {
    BUILDING.iter().chain(&RUNNING).collect()
}

pub fn for_fuzzing() -> Vec<&'static Need> {
    BUILDING.iter().chain(&FUZZING).collect()
}

pub fn for_testing() -> Vec<&'static Need> {
    BUILDING.iter().chain(&RUNNING).chain(&TESTING).collect()
}

impl Need {
    fn is_there(&self) -> bool {
        match self.sign {
            Sign::Program(name) => sh::find(name).is_some(),
            Sign::File(path) => Path::new(path).exists(),
            Sign::Venv => sh::capture(Command::new("/usr/bin/python3").args(["-c", "import ensurepip, venv"])).is_ok(),
        }
    }
}

/// Installs what is missing among `needs`, and bpf-linker.
pub fn install(needs: &[&'static Need], yes: bool) -> Result<()> {
    let missing: Vec<&Need> = needs.iter().copied().filter(|need| !need.is_there()).collect();
    let linker = linker_is_missing();
    if missing.is_empty() && !linker {
        return Ok(());
    }
    eprintln!("This host lacks:");
    for need in &missing {
        eprintln!("  {:<24} Debian package; {}", need.package, need.why);
    }
    if linker {
        eprintln!("  {:<24} cargo install; links the kernel side", format!("bpf-linker {BPF_LINKER}"));
    }
    ensure!(yes || agreed()?, "nothing was installed; install it by hand and try again");
    if !missing.is_empty() {
        packages(&missing)?;
    }
    if linker {
        install_linker()?;
    }
    Ok(())
}

/// Whether a human says yes; where none can be asked, the call itself was the yes.
fn agreed() -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Ok(true);
    }
    eprint!("Install it now? [Y/n] ");
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("cannot read the answer")?;
    Ok(matches!(answer.trim(), "" | "y" | "Y" | "yes"))
}

fn packages(missing: &[&Need]) -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "cannot install Debian packages: this needs root; run `sudo -E env PATH=$PATH cargo xtask ...`"
    );
    if sh::find("apt-get").is_none() {
        bail!(
            "cannot install packages: there is no apt-get; this is made for Debian 12, elsewhere install them by hand"
        );
    }
    let mut updated = !lists_are_there();
    if updated {
        update()?;
    }
    loop {
        let names: Vec<&str> = missing.iter().filter(|need| !need.is_there()).map(|need| need.package).collect();
        let known: Vec<&str> = names.iter().copied().filter(|name| is_known(name)).collect();
        eprintln!("apt-get install {}", known.join(" "));
        let done = sh::run_quietly(apt().args(["install", "--yes", "--no-install-recommends"]).args(&known));
        let left: Vec<&str> = missing.iter().filter(|need| !need.is_there()).map(|need| need.package).collect();
        match done {
            Ok(()) if left.is_empty() => return Ok(()),
            Ok(()) if updated => bail!("cannot find {} even after installing; see above", left.join(", ")),
            Err(e) if updated => return Err(e),
            // Old lists name versions that the mirror no longer has.
            _ => update()?,
        }
        updated = true;
    }
}

/// On a terminal apt shows its progress; a log gets the errors only.
fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    if !std::io::stderr().is_terminal() {
        command.arg("-qq");
    }
    command
}

fn update() -> Result<()> {
    eprintln!("apt-get update");
    sh::run_quietly(apt().arg("update"))
}

fn lists_are_there() -> bool {
    let lists = std::fs::read_dir("/var/lib/apt/lists").into_iter().flatten().flatten();
    lists.map(|entry| entry.file_name()).any(|name| name.to_string_lossy().contains("_Packages"))
}

/// Debian 13 split the client off docker.io; Debian 12 has no such package, and docker.io brings it.
fn is_known(package: &str) -> bool {
    sh::capture(Command::new("apt-cache").args(["show", "--no-all-versions", package])).is_ok()
}

fn linker_is_missing() -> bool {
    let version = sh::find("bpf-linker").map(|path| sh::capture(Command::new(path).arg("--version")));
    !version.is_some_and(|said| said.is_ok_and(|said| said.contains(BPF_LINKER)))
}

fn install_linker() -> Result<()> {
    eprintln!("cargo install bpf-linker {BPF_LINKER} (about a minute)");
    let features = ["--no-default-features", "--features", "llvm-22"];
    sh::run(
        sh::cargo()
            .env("LLVM_PREFIX", LLVM)
            .args(["install", "--locked", "bpf-linker", "--version", BPF_LINKER])
            .args(features),
    )
    .context("cannot install bpf-linker")
}
