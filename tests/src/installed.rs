//! The guest that boots a real systemd from a disk (`cargo xtask qemu-kernels` makes it), with the packaged unit and
//! this build's programs put onto it.
//!
//! Invariant: what a guest writes is gone when it ends, so that every run starts from the same disk.

use std::path::PathBuf;
use std::sync::OnceLock;

use crate::initramfs::Initramfs;
use crate::qemu::{self, BedError, Boot, Emulation, Machine, ONE_THREAD};

pub const MACHINE: Machine = Machine { kernel: "6.12", bpf_listed: true, docker: true };

const DISK: &str = "systemd/disk.ext4";
const DRIVE: &str = "file=systemd/disk.ext4,format=raw,if=virtio,snapshot=on";
/// Two boots and a dozen starts of a debug build, without KVM, on a loaded machine.
const DEADLINE_SECS: &str = "1500";

/// What is tried in a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Session {
    /// The installed service, through a reboot.
    Service,
    /// Engines that a user runs.
    Rootless,
}

impl Session {
    fn emulation(self) -> &'static Emulation {
        const fn of(suffix: &'static str) -> Emulation {
            let flags: &[&str] = &[ONE_THREAD[0], ONE_THREAD[1], "-drive", DRIVE];
            Emulation { flags, processors: "2", deadline_secs: DEADLINE_SECS, suffix, megabytes: Some("3072") }
        }
        const SERVICE: Emulation = of("-service");
        const ROOTLESS: Emulation = of("-rootless");
        match self {
            Self::Service => &SERVICE,
            Self::Rootless => &ROOTLESS,
        }
    }

    /// On the kernel's command line, for the guest's runner.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Service => "lazaret.installed=service",
            Self::Rootless => "lazaret.installed=rootless",
        }
    }
}

/// Boots the guest and collects what its session reports.
pub fn boot(session: Session, echo: impl Fn(&str)) -> Result<Boot, BedError> {
    // Both sessions ask for it at the same time.
    static INITRAMFS: OnceLock<Result<PathBuf, BedError>> = OnceLock::new();
    let initramfs = INITRAMFS.get_or_init(initramfs).as_ref().map_err(BedError::clone)?;
    qemu::boot_twice_if_need_be(MACHINE, initramfs, session.emulation(), session.word(), echo)
}

/// What finds the disk, and below `/onto` what it puts onto it.
fn initramfs() -> Result<PathBuf, BedError> {
    let broken = |what: &str, e: std::io::Error| BedError::Broken(format!("cannot read {what}: {e}"));
    let work = qemu::work_dir();
    let modules = work.join(MACHINE.kernel).join("disk");
    for needed in [&work.join(DISK), &modules] {
        if !needed.exists() {
            return Err(BedError::Missing(format!("{} is missing: `cargo xtask test` makes it", needed.display())));
        }
    }
    let mut image = Initramfs::default();
    for dir in ["/proc", "/sys", "/dev", "/disk"] {
        image.directory(dir);
    }
    image.script("/init", include_str!("guest/installed/init.sh"));
    let busybox = std::fs::read(qemu::busybox()?).map_err(|e| broken("busybox", e))?;
    image.executable("/bin/busybox", &busybox);
    image.executable("/onto/usr/bin/busybox", &busybox);
    for module in std::fs::read_dir(&modules).map_err(|e| broken("the kernel's modules", e))?.flatten() {
        let content = std::fs::read(module.path()).map_err(|e| broken("a kernel's module", e))?;
        image.file(&format!("/modules/{}", module.file_name().to_string_lossy()), &content);
    }
    for name in ["lazaret", "kernel-guest"] {
        let program = qemu::strip(&qemu::built(name)?)?;
        let content = std::fs::read(&program).map_err(|e| broken(name, e))?;
        image.executable(&format!("/onto/usr/bin/{name}"), &content);
    }
    let unit = std::fs::read(qemu::root().join("packaging/lazaret.service")).map_err(|e| broken("the unit", e))?;
    image.file("/onto/usr/lib/systemd/system/lazaret.service", &unit);
    let runner = include_str!("guest/installed/runner.service");
    image.file("/onto/etc/systemd/system/runner.service", runner.as_bytes());
    image.link("/onto/etc/systemd/system/multi-user.target.wants/runner.service", "../runner.service");
    let path = work.join("initramfs-installed.cpio");
    qemu::replace(&path, |new| std::fs::write(new, image.finish()))?;
    Ok(path)
}
