//! The QEMU test bed: stock Debian kernels, an initramfs with the programs under test, results over a serial port.
//!
//! Invariant: every check that a guest reported is kept as it reported it, and a guest that did not come to its
//! end is an error with the tail of its console, never a shorter list of results.
//!
//! The guest's runner (`kernel-guest`) prints `@@kernel RELEASE`, `@@backend NAME`, `@@ok NAME`, `@@fail NAME: why`,
//! `@@skip NAME: why`, `@@figure JSON`, `@@log text` and, last, `@@end`.

use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::bed_here;
use crate::guest::real;
use crate::initramfs::Initramfs;

/// Far above what a boot takes without KVM on a slow machine; a guest that needs longer hangs.
pub(crate) const DEADLINE_SECS: &str = "1800";

/// The security modules of a stock kernel's default list without `bpf`, as Ubuntu and GitHub's runners have it.
const WITHOUT_BPF: &str = "lsm=landlock,lockdown,yama,integrity,apparmor";

/// dockerd confines containers with AppArmor where the kernel has it on, and starts none without its tools.
const FOR_DOCKER: &str = "apparmor=0 lsm=landlock,lockdown,yama,integrity";

/// Docker's programs. All of them are in a guest with Docker, in one directory.
const DOCKER: [&str; 6] = ["dockerd", "containerd", "containerd-shim-runc-v2", "runc", "docker-init", "docker"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// `6.1`, `6.12`, or `host`: this machine's own, without QEMU (`bed_here`).
    pub kernel: &'static str,
    /// Whether `bpf` is in the list of security modules.
    pub bpf_listed: bool,
    /// Whether Docker is in the guest. Such a guest runs the session that needs it and no other.
    pub docker: bool,
}

impl Machine {
    pub const HOST: Machine = Machine { kernel: "host", bpf_listed: false, docker: false };

    pub fn label(self) -> String {
        if self == Self::HOST {
            return self.kernel.into();
        }
        let lsm = if self.bpf_listed { "lsm" } else { "no-lsm" };
        format!("{}-{lsm}{}", self.kernel, if self.docker { "-docker" } else { "" })
    }

    /// What the kernel is told of its security modules.
    fn security_modules(self) -> String {
        match (self.docker, self.bpf_listed) {
            (true, true) => format!(" {FOR_DOCKER},bpf"),
            (true, false) => format!(" {FOR_DOCKER}"),
            (false, true) => String::new(),
            (false, false) => format!(" {WITHOUT_BPF}"),
        }
    }

    /// A guest keeps all its files in memory; Docker's programs and images are half a gigabyte.
    fn megabytes(self) -> &'static str {
        if self.docker { "4096" } else { "3072" }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Ok,
    Failed(String),
    Skipped(String),
}

/// What a guest reported.
#[derive(Debug)]
pub struct Boot {
    /// As uname(1) names it.
    pub kernel: String,
    /// What the guest's daemon found this kernel to carry; empty if none started.
    pub backend: String,
    pub results: Vec<(String, Outcome)>,
    /// What a measurement reported: one JSON object each (`guest/cost.rs`).
    pub figures: Vec<String>,
    /// Everything that the guest printed on its result port, the logs of failed scenarios included.
    pub log: PathBuf,
}

#[derive(Debug, Clone)]
pub enum BedError {
    /// This host cannot run the bed; the text says what is missing.
    Missing(String),
    /// The bed or the guest broke.
    Broken(String),
}

/// The repository's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))
}

pub(crate) fn work_dir() -> PathBuf {
    root().join("target/qemu")
}

/// A program that cargo built beside the running one.
pub fn built(name: &str) -> Result<PathBuf, BedError> {
    let exe =
        std::env::current_exe().map_err(|e| BedError::Broken(format!("cannot find this test's own path: {e}")))?;
    let dir = exe.ancestors().skip(1).find(|dir| !dir.ends_with("deps")).unwrap_or(Path::new("/"));
    let program = dir.join(name);
    if program.exists() {
        Ok(program)
    } else {
        Err(BedError::Broken(format!("{} is not built; `cargo build --workspace` builds it", program.display())))
    }
}

/// Builds the initramfs, with Docker or without, and returns its path. One for all boots of a run.
pub fn initramfs(docker: bool) -> Result<PathBuf, BedError> {
    let broken = BedError::Broken;
    let docker = if docker { docker_programs()? } else { Vec::new() };
    let busybox = busybox()?;

    let mut image = Initramfs::default();
    for dir in ["/proc", "/sys", "/dev", "/tmp", "/run", "/root", "/home/dev", "/var", "/opt", "/etc", "/usr/bin"] {
        image.directory(dir);
    }
    image.link("/var/run", "../run");
    image.file("/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\ndev:x:1000:1000:dev:/home/dev:/bin/sh\n");
    image.file("/etc/group", b"root:x:0:\ndev:x:1000:\n");
    image.script("/init", include_str!("guest/init.sh"));
    image.program("/bin/busybox", busybox).map_err(broken)?;
    let applets = Command::new(busybox).arg("--list").output();
    let applets = applets.map_err(|e| broken(format!("cannot run {} --list: {e}", busybox.display())))?;
    for applet in String::from_utf8_lossy(&applets.stdout).lines().filter(|name| *name != "busybox") {
        image.link(&format!("/bin/{applet}"), "busybox");
    }
    for name in [
        "lazaret",
        "kernel-guest",
        "kernel-bench",
        "shadow-server",
        "benign-server",
        "mcp-client",
        "connector",
        "evader",
    ] {
        let program = strip(&built(name)?)?;
        image.program(&format!("/bin/{name}"), &program).map_err(broken)?;
    }

    // Not built into Debian's kernels. A check that needs it is skipped where it is not at hand.
    for version in ["6.1", "6.12"] {
        let modules = std::fs::read_dir(work_dir().join(version).join("modules")).into_iter().flatten().flatten();
        for module in modules.filter(|module| module.file_name().to_string_lossy().ends_with("-binfmt_misc.ko")) {
            let content = std::fs::read(module.path()).map_err(|e| broken(format!("cannot read a module: {e}")))?;
            image.file(&format!("/binfmt_misc/{version}.ko"), &content);
        }
    }

    // Text tools with files of their own, as hosts have them; busybox is one file for all.
    for tool in ["/usr/bin/cat", "/usr/bin/grep", "/usr/bin/sed"] {
        image.program(tool, Path::new(tool)).map_err(broken)?;
    }
    for program in &docker {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        image.program(&format!("/usr/bin/{name}"), program).map_err(broken)?;
    }

    let path = work_dir().join(if docker.is_empty() { "initramfs.cpio" } else { "initramfs-docker.cpio" });
    replace(&path, |new| std::fs::write(new, image.finish()))?;
    Ok(path)
}

/// The plain initramfs, and behind it the modules that a guest needs to see this machine's files, and where its
/// programs are.
fn initramfs_for_these_files(machine: Machine) -> Result<PathBuf, BedError> {
    let broken = |e: std::io::Error| BedError::Broken(format!("cannot read the kernel's modules: {e}"));
    let modules = work_dir().join(machine.kernel).join("modules");
    if !modules.exists() {
        return Err(BedError::Missing(format!("{} is missing: `cargo xtask test` downloads it", modules.display())));
    }
    let mut image = Initramfs::default();
    image.script("/real.sh", include_str!("guest/real.sh"));
    image.file("/real-programs", real::programs().map_err(BedError::Missing)?.as_bytes());
    for module in std::fs::read_dir(modules).map_err(broken)? {
        let module = module.map_err(broken)?;
        let content = std::fs::read(module.path()).map_err(broken)?;
        image.file(&format!("/modules/{}", module.file_name().to_string_lossy()), &content);
    }
    let mut archive = std::fs::read(initramfs(false)?).map_err(broken)?;
    // The kernel unpacks one archive after the other; each starts at a multiple of four bytes.
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend(image.finish());
    let path = work_dir().join("initramfs-real.cpio");
    replace(&path, |new| std::fs::write(new, archive))?;
    Ok(path)
}

pub(crate) fn busybox() -> Result<&'static Path, BedError> {
    let found = ["/usr/bin/busybox", "/bin/busybox"].map(Path::new).into_iter().find(|path| path.exists());
    found.ok_or_else(|| BedError::Missing("busybox is missing: apt-get install busybox-static".into()))
}

/// Where this host has `DOCKER`.
fn docker_programs() -> Result<Vec<PathBuf>, BedError> {
    let find = |name: &&str| {
        let places = ["/usr/bin", "/usr/sbin", "/usr/libexec/docker"].map(|dir| Path::new(dir).join(name));
        places.into_iter().find(|path| path.exists()).ok_or_else(|| {
            BedError::Missing(format!("{name}, a part of Docker, is missing: apt-get install docker.io docker-cli"))
        })
    };
    DOCKER.iter().map(find).collect()
}

/// Debug information is most of a binary and nothing of a guest. Without `strip` the guest only gets bigger.
pub(crate) fn strip(program: &Path) -> Result<PathBuf, BedError> {
    let name = program.file_name().unwrap_or_default();
    let stripped = work_dir().join("stripped").join(name);
    let modified = |path: &Path| path.metadata().and_then(|m| m.modified()).ok();
    if modified(&stripped) > modified(program) {
        return Ok(stripped);
    }
    let mut done = false;
    replace(&stripped, |new| {
        done = Command::new("strip").arg("--strip-debug").arg("-o").arg(new).arg(program).output()?.status.success();
        Ok(())
    })
    .or_else(|e| if done { Err(e) } else { Ok(()) })?;
    Ok(if done { stripped } else { program.to_owned() })
}

/// Writes `path` so that another test process sees the old file or the new one, never half of it.
pub(crate) fn replace(path: &Path, write: impl FnOnce(&Path) -> std::io::Result<()>) -> Result<(), BedError> {
    let new = path.with_added_extension(std::process::id().to_string());
    std::fs::create_dir_all(path.parent().unwrap_or(path))
        .and_then(|()| write(&new))
        .and_then(|()| std::fs::rename(&new, path))
        .map_err(|e| BedError::Broken(format!("cannot write {}: {e}", path.display())))
}

/// Boots `machine` and collects what its scenarios report. `only` limits them (`Report::from_cmdline`).
/// Each line goes to `echo` as it comes.
///
/// A guest in which the emulator's own fault shows is booted once more: what it reported is worth nothing. No other
/// failure is given a second chance.
pub fn boot(machine: Machine, initramfs: &Path, only: &[String], echo: impl Fn(&str)) -> Result<Boot, BedError> {
    if machine == Machine::HOST {
        return bed_here::run(initramfs, only, echo);
    }
    let mut arguments = String::new();
    if !only.is_empty() {
        arguments = chosen(only);
    }
    boot_twice_if_need_be(machine, initramfs, &TESTS, &arguments, echo)
}

/// As [`boot`], with this machine's own files in the guest, read-only, for the session of real programs
/// (`guest/real.rs`).
pub fn boot_on_these_files(machine: Machine, echo: impl Fn(&str)) -> Result<Boot, BedError> {
    let initramfs = initramfs_for_these_files(machine)?;
    boot_twice_if_need_be(machine, &initramfs, &THESE_FILES, "", echo)
}

pub(crate) fn boot_twice_if_need_be(
    machine: Machine,
    initramfs: &Path,
    emulation: &Emulation,
    arguments: &str,
    echo: impl Fn(&str),
) -> Result<Boot, BedError> {
    let first = boot_once(machine, initramfs, emulation, arguments, &echo);
    let console = console(machine, emulation);
    if !shows_emulator_fault(&std::fs::read(&console).unwrap_or_default()) {
        return first;
    }
    let kept = console.with_added_extension("fault");
    let kept_there =
        std::fs::rename(&console, &kept).map_or_else(|e| format!("lost: {e}"), |()| kept.display().to_string());
    eprintln!(
        "WARNING: QEMU, not the program under test, broke the guest {}: its kernel trapped on a breakpoint that it had \
         patched away ({EMULATOR_FAULT:?}). Booting it once more. The console of the first boot: {kept_there}",
        machine.label()
    );
    boot_once(machine, initramfs, emulation, arguments, echo)
}

/// Boots `machine` to measure what the kernel programs cost (`guest/cost.rs`); `storm` is the number of execs in its
/// storm. The guest has one processor, whose clock counts its instructions: a nanosecond each.
pub fn measure(machine: Machine, initramfs: &Path, storm: u32, echo: impl Fn(&str)) -> Result<Boot, BedError> {
    boot_once(machine, initramfs, &MEASUREMENT, &format!("lazaret.storm={storm}"), echo)
}

/// How a guest is emulated.
pub(crate) struct Emulation {
    /// Paths in them begin at [`work_dir`].
    pub flags: &'static [&'static str],
    pub processors: &'static str,
    pub deadline_secs: &'static str,
    /// Behind the label, in the names of its files.
    pub suffix: &'static str,
    /// The guest's memory, if not what its machine says.
    pub megabytes: Option<&'static str>,
}

// One thread for both processors, which then take turns: with a thread each, one of them can run a translation that
// the other has just made stale, and a kernel that patches its own code (static keys, ftrace, BPF trampolines - all
// that this bed is about) dies of it. Seen on 6.12 as `Oops: int3` in `flow_hash_from_keys`. It is hardly slower: a whole
// guest took 153 s, and 141 s with two threads.
const TESTS: Emulation =
    Emulation { flags: &TO_ITS_END, processors: "2", deadline_secs: DEADLINE_SECS, suffix: "", megabytes: None };

/// A guest that restarts has panicked.
const TO_ITS_END: [&str; 3] = [ONE_THREAD[0], ONE_THREAD[1], "-no-reboot"];

pub(crate) const ONE_THREAD: [&str; 2] = ["-accel", "tcg,thread=single"];

/// `multidevs=remap`: the roots of different file systems have the same inode number, and one would hide the other.
const THESE_FILES: Emulation = Emulation {
    flags: &[
        ONE_THREAD[0],
        ONE_THREAD[1],
        "-no-reboot",
        "-fsdev",
        "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap",
        "-device",
        "virtio-9p-pci,fsdev=root,mount_tag=root",
    ],
    processors: "2",
    deadline_secs: "1200",
    suffix: "-real",
    megabytes: Some("6144"),
};

/// `shift=0`: an instruction is a nanosecond of the guest's clock. `sleep=off`: nobody waits for an idle guest.
const MEASUREMENT: Emulation = Emulation {
    flags: &["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off", "-no-reboot"],
    processors: "1",
    deadline_secs: "7200",
    suffix: "-cost",
    megabytes: None,
};

/// `only` on the runner's command line.
pub(crate) fn chosen(only: &[String]) -> String {
    format!("lazaret.only={}", only.join(","))
}

/// How a kernel dies when QEMU ran a stale translation of code that the kernel had patched: the breakpoint of
/// `text_poke_bp` is met after its handler has gone (`exc_int3`; 6.12 writes `Oops: ` before it). A breakpoint in a
/// program is a SIGTRAP to that program and never this line.
const EMULATOR_FAULT: &str = "int3: 0000 [#";

fn shows_emulator_fault(console: &[u8]) -> bool {
    console.windows(EMULATOR_FAULT.len()).any(|window| window == EMULATOR_FAULT.as_bytes())
}

fn console(machine: Machine, emulation: &Emulation) -> PathBuf {
    work_dir().join(format!("{}{}.console", machine.label(), emulation.suffix))
}

fn boot_once(
    machine: Machine,
    initramfs: &Path,
    emulation: &Emulation,
    guest_arguments: &str,
    echo: impl Fn(&str),
) -> Result<Boot, BedError> {
    let label = format!("{}{}", machine.label(), emulation.suffix);
    let vmlinuz = work_dir().join(machine.kernel).join("vmlinuz");
    if !vmlinuz.exists() {
        return Err(BedError::Missing(format!("{} is missing: `cargo xtask test` downloads it", vmlinuz.display())));
    }
    let console = console(machine, emulation);
    let log = work_dir().join(format!("{label}.log"));
    let arguments = format!("console=ttyS0 quiet panic=-1{} {guest_arguments}", machine.security_modules());
    // `timeout` ends the guest, with or without this process. No KVM: where /dev/kvm is there it need not work
    // (nested, it often aborts QEMU or its guest), and the emulation is alike everywhere.
    let mut qemu = Command::new("timeout")
        .args(["--kill-after=5", emulation.deadline_secs, "qemu-system-x86_64"])
        .args(emulation.flags)
        .args(["-cpu", "max", "-m", emulation.megabytes.unwrap_or(machine.megabytes()), "-smp", emulation.processors])
        .args(["-nic", "none", "-display", "none"])
        .current_dir(work_dir())
        .arg("-kernel")
        .arg(&vmlinuz)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", &arguments, "-serial", &format!("file:{}", console.display()), "-serial", "stdio"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| BedError::Broken(format!("cannot run timeout(1): {e}")))?;

    let collected = qemu.stdout.take().map(|stdout| collect(stdout, log.clone(), echo)).transpose();
    let output = qemu.wait_with_output().map_err(|e| BedError::Broken(format!("cannot wait for QEMU: {e}")))?;
    if let Some((boot, true)) = collected? {
        return Ok(boot);
    }
    if output.status.code() == Some(127) {
        return Err(BedError::Missing("qemu-system-x86_64 is missing: apt-get install qemu-system-x86".into()));
    }
    Err(BedError::Broken(format!(
        "the guest {label} did not come to its end ({}); QEMU said {:?}; its results: {}; the end of its console {}:\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim(),
        log.display(),
        console.display(),
        tail(&console, 30)
    )))
}

/// Reads a report to its end and keeps it in `log`. Whether the runner came to its own end stands beside it.
pub(crate) fn collect(from: impl Read, log: PathBuf, echo: impl Fn(&str)) -> Result<(Boot, bool), BedError> {
    let mut text = String::new();
    let mut boot =
        Boot { kernel: String::new(), backend: String::new(), results: Vec::new(), figures: Vec::new(), log };
    for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end();
        echo(line);
        match line.split_once(' ') {
            Some(("@@kernel", release)) => release.clone_into(&mut boot.kernel),
            Some(("@@backend", backend)) => backend.clone_into(&mut boot.backend),
            Some(("@@figure", figure)) => boot.figures.push(figure.to_owned()),
            _ => boot.results.extend(result(line)),
        }
        text.push_str(line);
        text.push('\n');
    }
    let ended = text.ends_with("@@end\n");
    std::fs::write(&boot.log, text)
        .map_err(|e| BedError::Broken(format!("cannot write {}: {e}", boot.log.display())))?;
    Ok((boot, ended))
}

fn result(line: &str) -> Option<(String, Outcome)> {
    let (kind, rest) = line.strip_prefix("@@")?.split_once(' ')?;
    let (name, why) = rest.split_once(": ").unwrap_or((rest, ""));
    let outcome = match kind {
        "ok" => Outcome::Ok,
        "fail" => Outcome::Failed(why.to_owned()),
        "skip" => Outcome::Skipped(why.to_owned()),
        _ => return None,
    };
    Some((name.to_owned(), outcome))
}

pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_emulators_own_fault_earns_a_second_boot() {
        assert!(shows_emulator_fault(b"[  9.1] Oops: int3: 0000 [#1] PREEMPT SMP NOPTI\n"));
        assert!(shows_emulator_fault(b"[  9.1] int3: 0000 [#1] PREEMPT SMP NOPTI\n"));
        for other in ["Oops: 0000 [#1] PREEMPT SMP", "traps: sh[9] trap int3 ip:40", "Oops: general protection fault"] {
            assert!(!shows_emulator_fault(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn a_reason_keeps_its_colons() {
        let failed = Outcome::Failed("it ran: exit 0: twice".into());
        assert_eq!(result("@@fail name: it ran: exit 0: twice"), Some(("name".into(), failed)));
        assert_eq!(result("@@ok name"), Some(("name".into(), Outcome::Ok)));
        assert_eq!(result("@@end"), None);
        assert_eq!(result("@@log a: b"), None);
    }
}
