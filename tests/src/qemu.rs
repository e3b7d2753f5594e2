//! The QEMU test bed: stock Debian kernels, an initramfs with the programs under test, results over a serial port.
//!
//! Invariant: every check that a guest reported is kept as it reported it, and a guest that did not come to its
//! end is an error with the tail of its console, never a shorter list of results.
//!
//! The guest's runner (`kernel-guest`) prints `@@ok NAME`, `@@fail NAME: why`, `@@skip NAME: why`, `@@log text`
//! and, last, `@@end`.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::initramfs::Initramfs;

/// Far above what a boot takes without KVM on a slow machine; a guest that needs longer hangs.
const DEADLINE_SECS: &str = "600";

/// The security modules of a stock kernel's default list without `bpf`, as Ubuntu and GitHub's runners have it.
const WITHOUT_BPF: &str = "lsm=landlock,lockdown,yama,integrity,apparmor";

/// dockerd confines containers with AppArmor where the kernel has it on, and starts none without its tools.
const FOR_DOCKER: &str = "apparmor=0 lsm=landlock,lockdown,yama,integrity";

/// Docker's programs. All of them are in a guest with Docker, in one directory.
const DOCKER: [&str; 6] = ["dockerd", "containerd", "containerd-shim-runc-v2", "runc", "docker-init", "docker"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// `6.1` or `6.12`.
    pub kernel: &'static str,
    /// Whether `bpf` is in the list of security modules.
    pub bpf_listed: bool,
    /// Whether Docker is in the guest. Such a guest runs the session that needs it and no other.
    pub docker: bool,
}

impl Machine {
    pub fn label(self) -> String {
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
        if self.docker { "4096" } else { "1536" }
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
    pub results: Vec<(String, Outcome)>,
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

fn work_dir() -> PathBuf {
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
    let busybox = ["/usr/bin/busybox", "/bin/busybox"].map(Path::new).into_iter().find(|path| path.exists());
    let busybox =
        busybox.ok_or_else(|| BedError::Missing("busybox is missing: apt-get install busybox-static".into()))?;

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
    for name in ["lazaret", "kernel-guest", "shadow-server", "benign-server", "mcp-client"] {
        let program = strip(&built(name)?)?;
        image.program(&format!("/bin/{name}"), &program).map_err(broken)?;
    }

    // Text tools with files of their own, as hosts have them; busybox is one file for all.
    for tool in ["/usr/bin/cat", "/usr/bin/grep"] {
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
fn strip(program: &Path) -> Result<PathBuf, BedError> {
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
fn replace(path: &Path, write: impl FnOnce(&Path) -> std::io::Result<()>) -> Result<(), BedError> {
    let new = path.with_added_extension(std::process::id().to_string());
    std::fs::create_dir_all(path.parent().unwrap_or(path))
        .and_then(|()| write(&new))
        .and_then(|()| std::fs::rename(&new, path))
        .map_err(|e| BedError::Broken(format!("cannot write {}: {e}", path.display())))
}

/// Boots `machine` and collects what its scenarios report. `only` limits them (`Report::from_cmdline`).
/// Each line goes to `echo` as it comes.
pub fn boot(machine: Machine, initramfs: &Path, only: &[String], echo: impl Fn(&str)) -> Result<Boot, BedError> {
    let label = machine.label();
    let vmlinuz = work_dir().join(machine.kernel).join("vmlinuz");
    if !vmlinuz.exists() {
        return Err(BedError::Missing(format!("{} is missing: `cargo xtask test` downloads it", vmlinuz.display())));
    }
    let console = work_dir().join(format!("{label}.console"));
    let log = work_dir().join(format!("{label}.log"));
    let mut arguments = String::from("console=ttyS0 quiet panic=-1");
    arguments.push_str(&machine.security_modules());
    if !only.is_empty() {
        arguments = format!("{arguments} lazaret.only={}", only.join(","));
    }
    // `timeout` ends the guest, with or without this process. No KVM: where /dev/kvm is there it need not work
    // (nested, it often aborts QEMU or its guest), and the emulation is alike everywhere. One thread for both
    // processors: with a thread each, one of them can run a translation that the other has just made stale, and a
    // kernel that patches its own code dies of it (`Oops: int3`, seen on 6.12).
    let mut qemu = Command::new("timeout")
        .args(["--kill-after=5", DEADLINE_SECS, "qemu-system-x86_64"])
        .args(["-accel", "tcg,thread=single", "-cpu", "max"])
        .args(["-m", machine.megabytes(), "-smp", "2", "-nic", "none", "-display", "none", "-no-reboot"])
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

    let mut text = String::new();
    let mut results = Vec::new();
    if let Some(stdout) = qemu.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end();
            echo(line);
            results.extend(result(line));
            text.push_str(line);
            text.push('\n');
        }
    }
    let ended = text.ends_with("@@end\n");
    let output = qemu.wait_with_output().map_err(|e| BedError::Broken(format!("cannot wait for QEMU: {e}")))?;
    std::fs::write(&log, text).map_err(|e| BedError::Broken(format!("cannot write {}: {e}", log.display())))?;
    if ended {
        return Ok(Boot { results, log });
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

fn tail(path: &Path, lines: usize) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_keeps_its_colons() {
        let failed = Outcome::Failed("it ran: exit 0: twice".into());
        assert_eq!(result("@@fail name: it ran: exit 0: twice"), Some(("name".into(), failed)));
        assert_eq!(result("@@ok name"), Some(("name".into(), Outcome::Ok)));
        assert_eq!(result("@@end"), None);
        assert_eq!(result("@@log a: b"), None);
    }
}
