//! The disk of the guest that boots a real systemd: Debian as debootstrap makes it, with Docker, Podman, and all that
//! either needs to run without root.
//!
//! Invariant: `target/qemu/systemd/disk.ext4` is complete or absent, and the text beside it says what it was made
//! from; it is made anew where that has changed. Nothing of this repository is on it: what a test wants to run comes
//! with its initramfs.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use crate::images::{self, Mirror, WORK_PREFIX, WorkDir};
use crate::qemu::{Kernel, LOADABLE_DIR};
use crate::sh;

/// The kernel line that this guest boots.
const KERNEL: &str = "6.12";
const SYSTEM: &str = "systemd-sysv,dbus,dbus-user-session,libpam-systemd,udev,kmod,iproute2,iptables,procps";
const ENGINES: &str = "docker.io,podman,crun,catatonit,netavark,rootlesskit,slirp4netns,uidmap";
/// Most of it stays empty, on this machine's disk too.
const SIZE: &str = "3G";
/// Units that a test has no use for, each a second or more of an emulated boot.
const MASKED: [&str; 12] = [
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty@tty1.service",
    "podman-auto-update.timer",
    "serial-getty@ttyS0.service",
    "systemd-journal-flush.service",
    "systemd-pstore.service",
    "systemd-timesyncd.service",
];
/// Run inside. The id of the machine is fixed: a first boot without one would set every unit to its preset. The user's
/// services run from the boot on, as `loginctl enable-linger` has it.
const SET_UP: &str = r"set -eu
depmod $RELEASE
useradd --create-home --uid 1000 --shell /bin/bash dev
mkdir -p /var/lib/systemd/linger
touch /var/lib/systemd/linger/dev
echo 0123456789abcdef0123456789abcdef > /etc/machine-id
echo guest > /etc/hostname
echo '127.0.0.1 localhost guest' > /etc/hosts
: > /etc/fstab
systemctl disable docker.service docker.socket containerd.service podman.service podman.socket podman-restart.service \
    podman-auto-update.service
systemctl mask $MASKED
# The tool that sets rootless Docker up looks for the client beside itself.
for tool in dockerd-rootless.sh dockerd-rootless-setuptool.sh; do
    ln -s /usr/share/docker.io/contrib/$tool /usr/bin/$tool
done
rm -rf /var/cache/apt /var/lib/apt/lists /usr/share/doc /usr/share/info /usr/share/locale /usr/share/man /var/log/*
";

pub fn make(root: &Path, kernels: &[Kernel]) -> Result<()> {
    let kernel = kernels.iter().find(|kernel| kernel.version == KERNEL).context("the test matrix lost its kernel")?;
    let modules = kernel.vmlinuz.with_file_name(LOADABLE_DIR);
    let release = only_entry(&modules)?;
    let source = Mirror::of_this_host()?;
    let key = format!("{source:?}\n{release}\n{SYSTEM},{ENGINES}\n{SIZE}\n{MASKED:?}\n{SET_UP}");

    let dir = root.join("target/qemu/systemd");
    let (disk, made_from) = (dir.join("disk.ext4"), dir.join("made-from"));
    if disk.exists() && fs::read_to_string(&made_from).is_ok_and(|before| before == key) {
        return Ok(());
    }
    let started = Instant::now();
    eprintln!("making the disk of the guest that boots systemd from Debian packages (a minute or two)");
    images::need_debootstrap()?;
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let _ = fs::remove_file(&made_from); // from here on the disk is not what it says
    let target = root.join("target");
    images::remove_leftovers(&target);
    let work = WorkDir::new(target.join(format!("{WORK_PREFIX}{}", std::process::id())))?;
    in_memory(&work);
    images::debootstrap(&source, &work, &format!("{SYSTEM},{ENGINES}"))?;
    copy_modules(&modules, &work.rootfs())?;
    let mut set_up = images::chroot(&work.rootfs());
    set_up.args(["sh", "-c", SET_UP]).env("RELEASE", &release).env("MASKED", MASKED.join(" "));
    images::finish(set_up, "set up the guest's system")?;
    pack(&work.rootfs(), &disk)?;
    fs::write(&made_from, key).with_context(|| format!("cannot write {}", made_from.display()))?;
    eprintln!("made {} in {} s", disk.display(), started.elapsed().as_secs());
    Ok(())
}

/// dpkg asks the disk to have written each file; memory has. Where there is not enough of it, the disk will do.
fn in_memory(work: &WorkDir) {
    let available = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        line.trim().trim_end_matches(" kB").parse::<u64>().ok()
    });
    if available.is_some_and(|kilobytes| kilobytes > 6 << 20) {
        let mount = ["-t", "tmpfs", "-o", "size=2g,mode=755", "tmpfs"];
        let mounted = sh::capture(Command::new("mount").args(mount).arg(work.path()));
        // What is mounted over is the directory that `WorkDir` made.
        if let Err(e) = mounted.and_then(|_| Ok(fs::create_dir_all(work.rootfs())?)) {
            eprintln!("  on the disk, not in memory: {e:#}");
        }
    }
}

fn copy_modules(modules: &Path, rootfs: &Path) -> Result<()> {
    let to = rootfs.join("usr/lib/modules");
    fs::create_dir_all(&to).with_context(|| format!("cannot make {}", to.display()))?;
    sh::capture(Command::new("cp").arg("--archive").arg(format!("{}/.", modules.display())).arg(&to)).map(drop)
}

/// Without a journal: what a guest writes is thrown away with it.
fn pack(rootfs: &Path, disk: &Path) -> Result<()> {
    let new = disk.with_extension("new");
    let _ = fs::remove_file(&new); // of a run that was interrupted, or not there
    let mke2fs = sh::find("mke2fs").context("mke2fs is missing: apt-get install e2fsprogs")?;
    let mut command = Command::new(mke2fs);
    command.args(["-q", "-t", "ext4", "-O", "^has_journal", "-d"]).arg(rootfs).arg(&new).arg(SIZE);
    sh::capture(&mut command)?;
    fs::rename(&new, disk).with_context(|| format!("cannot keep {}", disk.display()))
}

fn only_entry(dir: &Path) -> Result<String> {
    let names: Vec<String> = fs::read_dir(dir)
        .with_context(|| format!("cannot list {}", dir.display()))?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    ensure!(names.len() == 1, "{} should hold the modules of one kernel and holds {names:?}", dir.display());
    Ok(names.into_iter().next().unwrap_or_default())
}
